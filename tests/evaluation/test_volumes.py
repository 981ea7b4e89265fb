"""Label files in one form: grids, codings, and what is refused."""

import gzip

import nibabel
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.volumes import LabelCoding, MaskCoding, PaintedCoding, coding_of, read_labels
from tests.evaluation.drawings import TABLE, dataset_json, row, save, volume


def test_file_in_another_orientation_is_read_alike(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    ras = nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1]))
    lps = ras.as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    nibabel.save(ras, tmp_path / "ras.nii.gz")
    nibabel.save(lps, tmp_path / "lps.nii.gz")
    first, first_grid = read_labels(tmp_path / "ras.nii.gz")
    second, second_grid = read_labels(tmp_path / "lps.nii.gz")
    np.testing.assert_array_equal(first, second)
    assert first_grid.difference(second_grid) == ""


def test_damaged_file_is_refused_by_name(tmp_path):
    path = save(np.zeros((30, 30, 30), np.uint8), tmp_path / "case.nii.gz")
    path.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(UserError, match="case.nii.gz.*not a NIfTI"):
        read_labels(path)
    save(np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.uint8), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="case.nii.gz.*cannot be read"):
        read_labels(path)


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_values_that_are_no_integers_are_refused(tmp_path, bad):
    path = save(np.full((2, 2, 2), bad, np.float32), tmp_path / "case.nii.gz")
    with pytest.raises(UserError, match="no integers"):
        read_labels(path)


def test_whole_numbers_as_floats_are_taken(tmp_path):
    path = save(np.full((2, 2, 2), 3.0, np.float32), tmp_path / "case.nii.gz")
    assert read_labels(path)[0].dtype == np.uint8


@pytest.mark.parametrize("bad", [-1, 5000])
def test_values_out_of_range_are_refused(tmp_path, bad):
    path = save(np.full((2, 2, 2), bad, np.int16), tmp_path / "case.nii.gz")
    with pytest.raises(UserError, match="label values from 0"):
        read_labels(path)


def test_label_coding_reads_overlapping_classes(tmp_path):
    coding = LabelCoding.of(dataset_json("liver", "liver_tumor")["labels"], UNIVERSAL, "dataset.json")
    both = TABLE.encode({"liver", "liver_tumor"})
    found = coding.read(save(row(0, 6, both), tmp_path / "case.nii.gz"))
    assert found.mask("liver").ravel().tolist() == [False, True, True]
    assert found.mask("liver_tumor").ravel().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("content", "painted", "values"),
    [
        ({"labels": {"background": 0, "liver": 5, "liver_tumor": 9}}, True, (5, 9)),
        (dataset_json("liver", "liver_tumor"), False, (6, TABLE.encode({"liver", "liver_tumor"}))),
        (dataset_json("liver", "liver_tumor"), True, (6, 27)),
        ({**dataset_json("liver", "liver_tumor"), "regions_class_order": [1, 2]}, True, (1, 2)),
    ],
)
def test_a_dataset_json_says_what_values_mean(tmp_path, content, painted, values):
    coding = coding_of(content, UNIVERSAL, "dataset.json", painted)
    found = coding.read(save(row(0, *values), tmp_path / "case.nii.gz"))
    is_stock = values == (5, 9)  # no regions: a voxel has one class
    assert found.mask("liver").ravel().tolist() == [False, True, not is_stock]
    assert found.mask("liver_tumor").ravel().tolist() == [False, False, True]
    assert set(coding.names) == {"liver", "liver_tumor"}
    with pytest.raises(UserError, match=r"case.nii.gz: unknown label values \[77\]"):
        coding.read(save(row(77), tmp_path / "case.nii.gz"))


def test_value_outside_dataset_json_is_refused(tmp_path):
    coding = LabelCoding.of(dataset_json("liver", "liver_tumor")["labels"], UNIVERSAL, "dataset.json")
    path = save(row(0, 6, 99), tmp_path / "case.nii.gz")
    with pytest.raises(UserError, match=r"case.nii.gz.*unknown label values \[99\]"):
        coding.read(path)


def test_painted_coding_unpaints(tmp_path):
    found = PaintedCoding(UNIVERSAL).read(save(row(6, 27, 2, 26), tmp_path / "case.nii.gz"))
    assert found.mask("liver").ravel().tolist() == [True, True, False, False]
    assert found.mask("right_kidney").ravel().tolist() == [False, False, True, True]


def test_mask_folder_keeps_overlaps(tmp_path):
    save(row(1, 1, 0, 0), tmp_path / "case" / "liver.nii.gz")
    save(row(0, 1, 1, 0), tmp_path / "case" / "liver_tumour.nii.gz")
    save(row(0, 255, 0, 0), tmp_path / "case" / "hepatic_vessel.nii.gz")
    found = MaskCoding(UNIVERSAL).read(tmp_path / "case")
    masks = {name: found.mask(name).ravel().astype(int).tolist() for name in found.names}
    assert masks == {"liver": [1, 1, 0, 0], "liver_tumor": [0, 1, 1, 0], "hepatic_vessel": [0, 1, 0, 0]}


def test_a_label_map_among_masks_is_refused(tmp_path):
    save(row(0, 1, 2, 3), tmp_path / "case" / "liver.nii.gz")
    with pytest.raises(UserError, match=r"liver.nii.gz: holds the values \[0, 1, 2, 3\]"):
        MaskCoding(UNIVERSAL).read(tmp_path / "case")


def test_masks_on_different_grids_are_refused(tmp_path):
    save(row(1, 1), tmp_path / "case" / "liver.nii.gz")
    save(row(1, 1, 1), tmp_path / "case" / "spleen.nii.gz")
    with pytest.raises(UserError, match="spleen.nii.gz.*shape"):
        MaskCoding(UNIVERSAL).read(tmp_path / "case")


def test_box_of_a_class_spans_all_its_values():
    drawn = volume(row(0, 1, 0, 2, 0), a=(1, 2), b=(3,))
    assert drawn.box("a") == (slice(1, 4), slice(0, 1), slice(0, 1))
    assert drawn.box("b") is None
    assert drawn.mask("a", drawn.box("a")).ravel().tolist() == [True, False, True]
