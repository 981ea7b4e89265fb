"""Header repairs: what they mend, what they leave alone, and that the centre of the body does not move."""

import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.header_repairs import half_turn, ircadb_patient, orthonormalise, restore_spacing
from nnunetv2_clip.imaging.nifti import Volume

LPS = np.diag([-1.0, -1, 1, 1])


def volume(shape, affine):
    return Volume(np.zeros(shape, np.int16), np.array(affine, float))


def centre(image):
    return image.affine @ [*((np.array(image.data.shape) - 1) / 2), 1]


@pytest.mark.parametrize(
    ("dataset", "number"), [("lits", 28), ("msd_liver", 28), ("ct_org", 28), ("abdomenct_1k", 273)]
)
def test_the_overwritten_voxel_size_is_restored_in_every_copy(dataset, number):
    repaired, words = restore_spacing(volume((8, 8, 129), LPS), dataset, number, "file")
    assert repaired.geometry.spacing_mm == pytest.approx([0.57, 0.57, 1.6])
    assert "0.57 x 0.57 x 1.6" in words and "patient 1 " in words and repaired.path is None


def test_the_slice_axis_is_found_wherever_it_is_stored():
    sagittal_first = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    repaired, _ = restore_spacing(volume((74, 8, 8), sagittal_first), "lits", 45, "file")
    assert repaired.geometry.spacing_mm == pytest.approx([2.5, 0.74, 0.74])


@pytest.mark.parametrize(("affine", "number"), [(np.diag([0.7, 0.7, 2, 1]), 28), (LPS, 27), (LPS, 48)])
def test_other_sizes_and_other_cases_are_left_alone(affine, number):
    before = volume((8, 8, 129), affine)
    assert restore_spacing(before, "lits", number, "file") == (before, "")


def test_another_number_of_slices_is_refused_not_guessed():
    with pytest.raises(UserError, match="128 slices.*129 slices"):
        restore_spacing(volume((8, 8, 128), LPS), "lits", 28, "volume-28.nii")


def test_twenty_patients_are_known_by_every_number():
    for dataset, numbers in (("lits", range(28, 48)), ("ircadb", range(1, 21))):
        assert [ircadb_patient(dataset, number).patient for number in numbers] == list(range(1, 21))
    assert ircadb_patient("abdomenct_1k", 578).patient == 20
    assert ircadb_patient("kits23", 28) is None


def test_sheared_directions_become_orthonormal_and_the_centre_stays():
    sheared = np.diag([0.8, 0.8, 2.5, 1]) @ np.array([[1, 0.01, 0, 3], [0, 1, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    before = volume((10, 20, 30), sheared)
    after, words = orthonormalise(before)
    cosines = after.affine[:3, :3] / after.geometry.spacing_mm
    assert np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-9)
    assert np.allclose(after.geometry.spacing_mm, before.geometry.spacing_mm)
    assert np.allclose(centre(after), centre(before))
    assert "orthonormal" in words


def test_good_directions_are_left_alone():
    turn = np.array([[0.6, -0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    before = volume((4, 4, 4), turn @ np.diag([0.8, 0.8, 2.5, 1]))
    assert orthonormalise(before) == (before, "")


def test_a_half_turn_exchanges_the_corners_about_the_centre():
    before = volume((3, 5, 7), [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    after = half_turn(before)
    assert (after.affine @ [0, 0, 0, 1] == before.affine @ [2, 4, 0, 1]).all()
    assert (after.affine @ [2, 4, 6, 1] == before.affine @ [0, 0, 6, 1]).all()
