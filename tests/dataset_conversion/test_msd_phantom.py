"""Phantoms in the layout of the real tasks: after conversion every voxel holds exactly the classes of the truth."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.phantom.layouts.base import write_source

SOURCES = ("msd_liver", "msd_lung", "msd_pancreas", "msd_hepaticvessel", "msd_spleen", "msd_colon")


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize("source", SOURCES)
def test_every_voxel_agrees_with_the_truth(source, nnunet, convert, tmp_path):
    written = write_source(
        source, tmp_path / "phantom", (1, 2), (3,), spacing_mm=(12.0, 12.0, 12.0), orientation=("LPS", "IPL")
    )
    assert convert("--source", f"{source}={written.root}")[0] == 0
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    manifest = json.loads((nnunet.preprocessed / "label_presence.json").read_text())["cases"]
    labelled = {f"msd_{case_id}": case for case_id, case in written.cases.items() if not case.is_test}
    assert set(manifest) == set(labelled)
    table = LabelTable.of()
    for case_id, case in labelled.items():
        annotated = manifest[case_id]["annotated"]
        assert sorted(annotated) == sorted(case.annotated)
        truth = voxels(case.truth)
        converted = voxels(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz")
        assert converted.any()
        for name in annotated:
            assert np.array_equal(np.isin(converted, labels[name]), np.isin(truth, table.values_of(name))), name
        for name in set(UNIVERSAL.names) - set(annotated):
            assert not np.isin(converted, labels[name]).any(), name


@pytest.mark.parametrize("source", ["msd_liver", "msd_spleen"])
def test_headers_rotated_by_180_degrees_are_mended_and_said_so(source, nnunet, convert, tmp_path):
    options = {"numbers": (60, 61), "spacing_mm": (6.0, 6.0, 8.0), "rotated_headers": True}
    written = write_source(source, tmp_path / "phantom", (1, 2), **options)
    assert convert("--source", f"{source}={written.root}")[0] == 0
    manifest = json.loads((nnunet.raw / "label_presence.json").read_text())["cases"]
    for case_id, case in manifest.items():
        truth = nib.load(written.cases[case_id.removeprefix("msd_")].truth)
        assert ["180 degrees" in fix for fix in case["geometry_fixes"]] == [True]
        for path in (f"imagesTr/{case_id}_0000.nii.gz", f"labelsTr/{case_id}.nii.gz"):
            assert nib.aff2axcodes(nib.load(nnunet.raw / path).affine) == nib.aff2axcodes(truth.affine)


def test_the_repair_can_be_switched_off(nnunet, convert, tmp_path):
    written = write_source("msd_spleen", tmp_path / "phantom", (1, 2), spacing_mm=(6.0, 6.0, 8.0), rotated_headers=True)
    assert convert("--source", f"msd_spleen={written.root}", "--no-repair", "half_turn")[0] == 0
    manifest = json.loads((nnunet.raw / "label_presence.json").read_text())["cases"]
    assert all(case["geometry_fixes"] == [] for case in manifest.values())
    assert all(path.is_symlink() for path in (nnunet.raw / "imagesTr").iterdir())


def test_a_repair_that_no_source_has_is_refused(convert, tmp_path):
    written = write_source("msd_spleen", tmp_path / "phantom", (1,), spacing_mm=(12.0, 12.0, 12.0))
    code, message = convert("--source", f"msd_spleen={written.root}", "--no-repair", "half_turns")
    assert code == 2 and "Did you mean 'half_turn'?" in message
