"""What every source promises: its published layout, converted, tells exactly what was drawn.

The layouts are written independently of the converters, so that a value read wrongly on either side shows.
"""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.dataset_conversion.registry import all_sources
from nnunetv2_clip.imaging.nifti import inspect
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.phantom.layouts import layout_names, write_source

NUM_CASES = 3
SPACING_MM = (8.0, 8.0, 10.0)
# Options of `write_source`. LiTS 28-47 and their copies have a wrong voxel size: tests of their own.
OPTIONS = {
    "lits": {"numbers": (0, 48, 1)},
    "ct_org": {"numbers": (0, 48, 1)},
}
SOURCES = sorted(set(all_sources()) & set(layout_names()))


@pytest.fixture(scope="module", params=SOURCES)
def merge(request, tmp_path_factory):
    """One source written, converted, and converted once more.

    Attributes: source; root, the raw dataset; written, the truth; manifest, the cases in it; before and after, the
    files around the second run.
    """
    folder = tmp_path_factory.mktemp(request.param)
    options = OPTIONS.get(request.param, {})
    written = write_source(request.param, folder / "source", range(1, NUM_CASES + 1), spacing_mm=SPACING_MM, **options)
    arguments = ["convert", "-d", "900", "-np", "1", "--source", f"{request.param}={written.root}"]
    root = folder / "nnUNet_raw" / "Dataset900_Universal"
    with pytest.MonkeyPatch.context() as patched:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patched.setenv(variable, str(folder / variable))
        assert main(arguments) == 0
        before = state(folder / "nnUNet_raw")
        assert main(arguments) == 0
    return SimpleNamespace(
        source=all_sources()[request.param],
        root=root,
        written=written,
        manifest=json.loads((root / "label_presence.json").read_text())["cases"],
        before=before,
        after=state(folder / "nnUNet_raw"),
    )


def state(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pairs(merge):
    """(case identifier, manifest entry, truth) of every labelled case, matched by the image file."""
    truths = {str(case.image): case for case in merge.written.cases.values() if not case.is_test}
    return [(case_id, entry, truths[entry["source_files"]["image"]]) for case_id, entry in merge.manifest.items()]


def in_ras(path):
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj), image.affine


def test_labelled_cases_are_found_and_no_others(merge):
    labelled = {str(case.image) for case in merge.written.cases.values() if not case.is_test}
    assert {entry["source_files"]["image"] for entry in merge.manifest.values()} == labelled
    assert all(case_id.startswith(merge.source.name) for case_id in merge.manifest)


def test_presence_is_what_the_labels_tell(merge):
    for case_id, entry, truth in pairs(merge):
        assert set(entry["annotated"]) == set(truth.annotated), case_id
        assert set(entry["absent"]) == set(truth.absent), case_id
        assert set(entry.get("incomplete", ())) == set(truth.incomplete), case_id


def test_nothing_looks_wrong(merge):
    assert json.loads((merge.root / "conversion_report.json").read_text())["warnings"] == []


def test_every_voxel_holds_the_classes_that_were_drawn(merge):
    labels = json.loads((merge.root / "dataset.json").read_text())["labels"]
    table = LabelTable.of()
    for case_id, entry, truth in pairs(merge):
        converted, _ = in_ras(merge.root / "labelsTr" / f"{case_id}.nii.gz")
        drawn, _ = in_ras(truth.truth)
        known = converted != labels.get("ignore")
        told = {*entry["annotated"], *entry.get("incomplete", ())}
        assert np.count_nonzero(known) == size_of(truth.box, converted.shape), case_id
        for name in UNIVERSAL.names:
            found = np.isin(converted, labels[name])
            expected = np.isin(drawn, table.values_of(name)) & known & (name in told)
            differences = (found & ~expected).sum(), (expected & ~found).sum()
            assert differences == (0, 0), (case_id, name, differences)
        assert converted.any() == bool(entry["annotated"]), case_id
        assert not entry["annotated"] or any(np.isin(converted, labels[name]).any() for name in entry["annotated"])


def size_of(box, shape):
    """Number of voxels in the annotated box; without one, everything is annotated."""
    return int(np.prod([stop - start for start, stop in box] if box else shape))


def test_image_and_label_lie_where_the_patient_lay(merge):
    for case_id, _, truth in pairs(merge):
        for path in (f"imagesTr/{case_id}_0000.nii.gz", f"labelsTr/{case_id}.nii.gz"):
            assert inspect(merge.root / path).difference(inspect(truth.truth)) == "", path


def test_image_keeps_its_hounsfield_units(merge):
    for case_id, _, truth in pairs(merge):
        if truth.image.is_file():
            converted, stored = in_ras(merge.root / f"imagesTr/{case_id}_0000.nii.gz")[0], in_ras(truth.image)[0]
            assert np.array_equal(converted, stored)


def test_a_second_run_changes_nothing(merge):
    assert merge.after == merge.before
