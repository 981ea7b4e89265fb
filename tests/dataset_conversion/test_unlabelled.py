"""Images without labels: unknown in every class, never drawn until a model has completed them."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clip.dataset_conversion.registry import find_source
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json
from nnunetv2_clip.phantom.layouts import write_source

SPACING_MM = (10.0, 10.0, 12.0)


@pytest.fixture
def pool(tmp_path):
    """pool(layout, *seeds) writes phantoms; returns what was written."""
    return lambda layout, *seeds: write_source(layout, tmp_path / layout, seeds, spacing_mm=SPACING_MM)


def named(written):
    return "--source", f"{written.layout}={written.root}"


def test_every_class_is_unknown_and_all_folds_train_on_it(pool, nnunet, convert, converted, capsys):
    assert convert(*named(pool("unlabelled", 1, 2)), *named(pool("msd_spleen", 3, 4, 5)))[0] == 0
    case = converted.cases["unlabelled_scan_001"]
    assert (case.annotated, case.absent, case.supervised) == ((), (), frozenset())
    assert set(case.source_files) == {"image"}
    assert not np.asanyarray(converted.label("unlabelled_scan_001").dataobj).any()
    folds = read_json(nnunet.raw / "splits_final.json", "")
    assert len(folds) == 5 and all(fold["val"] for fold in folds)
    assert all({"unlabelled_scan_001", "unlabelled_scan_002"} <= set(fold["train"]) for fold in folds)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_copy_of_a_labelled_scan_adds_nothing(is_first, pool, nnunet, convert, converted):
    sources = [named(pool("msd_spleen", 3, 4)), named(pool("unlabelled", 3, 9))]
    assert convert(*sum(reversed(sources) if is_first else sources, ()))[0] == 0
    first, other, left = sorted(converted.cases)
    assert first.startswith("msd_spleen") and other.startswith("msd_spleen") and left == "unlabelled_scan_002"
    told = [
        case_id
        for case_id, case in converted.cases.items()
        if "unlabelled_scan_001 is the same scan" in case.geometry_fixes
    ]
    assert len(told) == 1 and converted.cases[told[0]].annotated == ("spleen",)
    assert converted.mask(told[0], "spleen").any()


def test_a_pool_alone_is_a_dataset_with_folds(pool, nnunet, convert):
    assert convert(*named(pool("unlabelled", 1, 2)))[0] == 0
    assert all(fold["val"] for fold in read_json(nnunet.raw / "splits_final.json", ""))


def test_formats_other_than_nifti_series_in_folders_and_names_with_spaces(tmp_path, pool, convert, converted):
    root = tmp_path / "mixed"
    root.mkdir()
    scan = nib.load(pool("unlabelled", 1).root / "scan_001.nii.gz")
    image = sitk.GetImageFromArray(np.asanyarray(scan.dataobj).transpose(2, 1, 0))
    image.SetSpacing(SPACING_MM)
    sitk.WriteImage(image, root / "my scan.nrrd")
    series = pool("pancreas_ct", 2)
    (root / "series").symlink_to(next(iter(series.cases.values())).image)
    (root / "readme.txt").write_text("of the hospital")
    assert convert("--source", f"unlabelled={root}")[0] == 0
    assert sorted(converted.cases) == ["unlabelled_my_scan", "unlabelled_series"]
    assert converted.image("unlabelled_my_scan").shape == scan.shape
    assert (
        np.asanyarray(converted.label("unlabelled_series").dataobj).shape == converted.image("unlabelled_series").shape
    )


def test_a_folder_without_scans_and_a_damaged_scan_are_named(tmp_path, pool, convert, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    with pytest.raises(UserError, match="empty") as error:
        find_source("unlabelled").find_cases(tmp_path / "empty")
    assert not error.value.where.startswith("-i")
    written = pool("unlabelled", 1, 2)
    broken = written.root / "scan_002.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    code, said = convert(*named(written))
    assert code == 3 and "unlabelled_scan_002" in said
