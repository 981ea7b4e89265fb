"""Which way round a label lies: drawn in a body of fat with one soft organ, a lung and air around."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from nnunetv2_clip.conversion.label_flip import FLIPS, find_flip, flip_words, flipped, lay_on_image
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Volume

SHAPE = (12, 14, 16)
ORGAN = (slice(2, 6), slice(3, 6), slice(4, 9))  # in RAS: left, back, below the middle


def body(codes="RAS", organ_hu=100):
    """(image, label) with axes along `codes`; air at the border, a lung above, fat elsewhere."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[1:-1, 1:-1, 1:-1] = -100
    hu[2:-2, 2:-2, 11:15] = -800
    hu[ORGAN] = organ_hu
    hu += np.random.default_rng(0).integers(-10, 10, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[ORGAN] = 1
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    image, label = (nib.Nifti1Image(data, np.diag([2, 2, 3, 1])).as_reoriented(turn) for data in (hu, label))
    return Volume(np.asarray(image.dataobj), image.affine), np.asarray(label.dataobj)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "IPL"])
@pytest.mark.parametrize("flip", FLIPS)
def test_every_flip_is_found_in_every_orientation(codes, flip):
    image, label = body(codes)
    wrong = np.ascontiguousarray(flipped(label, flip, image.affine))
    assert find_flip(image, wrong, (1,), "case") == flip
    laid, fixes = lay_on_image(image, wrong, (1,), "case")
    assert np.array_equal(laid, label)
    assert fixes == flip_words(flip) and bool(fixes) == bool(flip)


def test_z_is_the_axis_from_feet_to_head_and_y_that_from_back_to_front():
    image, label = body("IPL")
    assert np.array_equal(flipped(label, "z", image.affine), label[::-1])
    assert np.array_equal(flipped(label, "y", image.affine), label[:, ::-1])


def test_no_flip_that_fits_is_refused():
    image, label = body(organ_hu=-100)  # nothing but fat
    with pytest.raises(UserError, match="fits the image in no way"):
        find_flip(image, label, (1,), "case")
    image, label = body(organ_hu=900)
    with pytest.raises(UserError, match="fits the image in no way"):
        find_flip(image, label, (1,), "case")


def test_two_flips_that_fit_are_refused():
    image, label = body()
    twin = Volume(np.maximum(image.data, image.data[:, :, ::-1]), image.affine)
    with pytest.raises(UserError, match="fits the image in two ways.*as it is.*flipped along z"):
        find_flip(twin, label, (1,), "case")


def test_a_symmetrical_label_needs_no_decision():
    image, label = body()
    twin = Volume(np.maximum(image.data, image.data[:, :, ::-1]), image.affine)
    symmetrical = np.maximum(label, label[:, :, ::-1])
    assert find_flip(twin, symmetrical, (1,), "case") in ("", "z")


def test_each_organ_has_its_own_median():
    image, label = body()
    image.data[8:10, 3:6, 4:9] = 40  # a second organ, darker than the first
    label[8:10, 3:6, 4:9] = 2
    assert find_flip(image, np.ascontiguousarray(label[:, :, ::-1]), (1, 2), "case") == "z"


def test_a_flip_that_is_not_allowed_is_refused():
    image, label = body()
    assert find_flip(image, label, (1,), "case", may_flip=False) == ""
    with pytest.raises(UserError, match="only when it is flipped along y"):
        find_flip(image, label[:, ::-1], (1,), "case", may_flip=False)


def test_another_shape_and_a_label_without_organs_are_refused():
    image, label = body()
    with pytest.raises(UserError, match="12, 14, 15"):
        find_flip(image, label[:, :, 1:], (1,), "case")
    with pytest.raises(UserError, match="no organ"):
        find_flip(image, label * 0, (1,), "case")
