"""TotalSegmentator: overlapping masks, two versions, cases that are left out."""

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (12.0, 12.0, 14.0)}


@pytest.fixture
def write(tmp_path):
    return lambda layout="totalsegmentator_v2", **options: write_source(
        layout, tmp_path / layout, [1], **SMALL, **options
    )


def mask_file(source, structure, case="s0000"):
    return source.root / case / "segmentations" / f"{structure}.nii.gz"


def change(path, function):
    mask = nib.load(path)
    data = np.asanyarray(mask.dataobj).copy()
    nib.save(nib.Nifti1Image(function(data), mask.affine), path)


def test_voxels_in_several_masks_keep_all_their_classes(write, convert, converted):
    source = write()
    aorta = np.asanyarray(nib.load(mask_file(source, "aorta")).dataobj) > 0
    change(mask_file(source, "spleen"), lambda data: data | aorta)
    change(mask_file(source, "colon"), lambda data: data | aorta)
    assert convert("--source", f"totalsegmentator_v2={source.root}")[0] == 0
    for name in ("aorta", "spleen", "colon"):
        assert converted.mask("totalsegmentator_v2_s0000", name)[aorta].all()
    assert np.array_equal(converted.mask("totalsegmentator_v2_s0000", "aorta"), aorta)


def test_whole_femurs_are_no_femur_heads(write, convert, converted):
    source = write()
    change(mask_file(source, "femur_left"), np.ones_like)
    assert convert("--source", f"totalsegmentator_v2={source.root}")[0] == 0
    assert not {"left_femur_head", "right_femur_head"} & set(converted.cases["totalsegmentator_v2_s0000"].annotated)
    assert not converted.mask("totalsegmentator_v2_s0000", "left_femur_head").any()


@pytest.mark.parametrize("is_one, is_not", [(1, 2), (2, 1), (3, 2), (2, 3), (3, 1)])
def test_other_version_is_refused(is_one, is_not, write, convert):
    source = write(f"totalsegmentator_v{is_one}")
    code, message = convert("--source", f"totalsegmentator_v{is_not}={source.root}")
    assert code == 2
    assert f"use --source totalsegmentator_v{is_one}={source.root}" in message


def test_damaged_case_of_version_1_is_left_out(write, convert, converted, capsys):
    source = write("totalsegmentator_v1")
    (source.root / "s0864").mkdir()
    (source.root / "s0864" / "ct.nii.gz").write_bytes(b"damaged")
    assert convert("--source", f"totalsegmentator_v1={source.root}")[0] == 0
    assert set(converted.cases) == {"totalsegmentator_v1_s0000"}


def test_lost_mask_is_named(write, convert):
    source = write()
    mask_file(source, "liver").unlink()
    code, message = convert("--source", f"totalsegmentator_v2={source.root}")
    assert code == 2
    assert "liver.nii.gz: is missing" in message


def test_mask_with_other_values_is_refused(write, convert):
    source = write()
    change(mask_file(source, "liver"), lambda data: data * 6)
    code, message = convert("--source", f"totalsegmentator_v2={source.root}")
    assert code == 3
    assert "liver.nii.gz: has the values [0, 6]" in message


def test_mask_on_another_grid_is_refused(write, convert):
    source = write()
    change(mask_file(source, "liver"), lambda data: data[1:])
    code, message = convert("--source", f"totalsegmentator_v2={source.root}")
    assert code == 3
    assert "liver.nii.gz: does not lie on the grid" in message


def test_the_dataset_of_mr_images_is_refused(write, convert):
    source = write("totalsegmentator_v3")
    folder = source.cases["s0000"].image.parent
    (folder / "ct.nii.gz").rename(folder / "mri.nii.gz")
    code, message = convert("--source", f"totalsegmentator_v3={source.root}")
    assert code == 2 and "holds the MR dataset" in message


@pytest.mark.parametrize("some_are_drawn", [True, False])
def test_cysts_are_incomplete_since_only_large_ones_were_drawn(write, convert, converted, some_are_drawn):
    source = write()
    for side in ("right", "left") if not some_are_drawn else ():
        change(mask_file(source, f"kidney_cyst_{side}"), np.zeros_like)
    assert convert("--source", f"totalsegmentator_v2={source.root}")[0] == 0
    case = converted.cases["totalsegmentator_v2_s0000"]
    assert case.incomplete == ("kidney_cyst",) and "left_kidney" in case.annotated
    assert converted.mask("totalsegmentator_v2_s0000", "kidney_cyst").any() == some_are_drawn


def test_a_wrong_structure_takes_its_class_and_no_more(write, convert, converted):
    """s0092: the right lung; s0201: the heart, which is no class here. s0248 is left out."""
    source = write_source(
        "totalsegmentator_v2", write().folder.with_name("three"), [1, 2, 3], numbers=(92, 201, 248), **SMALL
    )
    assert convert("--source", f"totalsegmentator_v2={source.root}")[0] == 0
    assert set(converted.cases) == {"totalsegmentator_v2_s0092", "totalsegmentator_v2_s0201"}
    annotated = {case_id[-5:]: set(case.annotated) for case_id, case in converted.cases.items()}
    assert annotated["s0201"] - annotated["s0092"] == {"right_lung"}
