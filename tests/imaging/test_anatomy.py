"""The sanity test finds mirrored, rotated and upside-down volumes, by labels and by the image alone."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_clip.imaging.anatomy import check_anatomy, mend_half_turn
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.phantom.anatomy import make_phantom

FLIPS = {
    "": (),
    "mirrored": (0,),
    "front and back exchanged": (1,),
    "upside down": (2,),
    "rotated by 180 degrees about the long axis": (0, 1),
    "rotated by 180 degrees about the axis from back to front": (0, 2),
}
LABELS = {1: ("liver",), 2: ("liver_tumor",), 3: ("spleen",), 4: ("right_lung",)}


@cache
def patient(seed: int = 1):
    return make_phantom(seed, (6.0, 6.0, 6.0))


def flipped(axes, names=("liver", "liver_tumor", "spleen", "right_lung")):
    """An image whose header does not know that the array was flipped, and its labels."""
    phantom, label_map = patient(), np.zeros(patient().image.shape, np.uint8)
    for value, (name,) in LABELS.items():
        if name in names:
            label_map[phantom.masks[name]] = value
    return Volume(np.flip(phantom.image, axes), phantom.affine), np.flip(label_map, axes)


@pytest.mark.parametrize(("problem", "axes"), FLIPS.items())
def test_the_image_alone_tells_what_is_wrong(problem, axes):
    assert check_anatomy(flipped(axes)[0]).problem.startswith(problem)
    assert bool(check_anatomy(flipped(axes)[0]).problem) == bool(problem)


@pytest.mark.parametrize("names", [("liver",), ("spleen",), ("liver", "spleen", "right_lung")])
@pytest.mark.parametrize(("problem", "axes"), FLIPS.items())
def test_any_annotated_organ_tells_what_is_wrong(problem, axes, names):
    image, label_map = flipped(axes, names)
    found = check_anatomy(image, ClassMap(label_map, LABELS)).problem
    assert found.startswith(problem) and bool(found) == bool(problem)


def test_labels_speak_before_the_image():
    image, label_map = flipped((), ("liver", "spleen"))
    found = check_anatomy(image, ClassMap(np.flip(label_map, 0), LABELS))
    assert "the liver lies left of the spleen" in found.problem


def test_a_half_turned_header_is_mended_about_the_centre():
    image, label_map = flipped((0, 1))
    mended, words = mend_half_turn(image, ClassMap(label_map, LABELS))
    assert "180 degrees" in words
    assert check_anatomy(mended, ClassMap(label_map, LABELS)).problem == ""
    centre = [*((np.array(image.data.shape) - 1) / 2), 1]
    assert np.allclose(mended.affine @ centre, image.affine @ centre)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 2)])
def test_nothing_else_is_mended(axes):
    image, label_map = flipped(axes)
    assert mend_half_turn(image, ClassMap(label_map, LABELS)) == (image, "")


def test_one_sign_alone_mends_nothing():
    # Bone lies in front, but without an organ on one side nothing tells left from right.
    body = np.full((50, 40, 20), -1000, np.int16)
    body[5:45, 5:35] = 0
    body[20:30, 28:34] = 400
    image = Volume(body, np.diag([8.0, 8, 8, 1]))
    found = check_anatomy(image)
    assert found.problem.startswith("front and back exchanged") and not found.is_half_turned


def test_a_heart_as_bright_as_bone_does_not_turn_the_body_round():
    phantom = patient()
    image = phantom.image.copy()
    image[ndimage.binary_dilation(phantom.extras["heart"], iterations=3) & phantom.extras["skin"]] = 350
    assert check_anatomy(Volume(image[:, :, 66:], phantom.affine)).front_back.verdict >= 0


def test_a_volume_without_a_body_is_undecided_not_wrong():
    found = check_anatomy(Volume(np.full((20, 20, 20), -1000, np.int16), np.diag([4.0, 4, 4, 1])))
    assert found.problem == "" and not found.is_half_turned
