"""The sanity test finds mirrored, rotated and upside-down volumes, by labels and by the image alone."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.imaging.anatomy import check_anatomy, mend_half_turn, organs_on_wrong_side
from nnunetv2_clip.imaging.dicom.series import inspect_series, read_series
from nnunetv2_clip.imaging.hounsfield import clipped, not_hounsfield
from nnunetv2_clip.imaging.nifti import Volume, read_image
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.phantom.anatomy import make_phantom

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
REAL_CTS = ("data/real_ct/ct.nii.gz", "data/real_ct_whole/ct.nii.gz", "data/real_dicom")
needs_real_cts = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="real CTs (shared/data) are not here")
sys.path.insert(0, str(ROOT / "benchmarks"))
from random_bodies import SPOILED, random_body  # noqa: E402

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


TURNS = {"along the table": (1, 0, 2), "from back to front": (0, 2, 1), "from side to side": (2, 1, 0)}


@pytest.mark.parametrize("order", TURNS.values(), ids=TURNS)
def test_axes_that_are_not_the_bodys_are_named_before_all_else(order):
    image = np.pad(patient().image[:, :, 35:], [(6, 6), (10, 10), (0, 0)], constant_values=-1000)
    found = check_anatomy(Volume(image.transpose(order), patient().affine))
    assert found.problem.startswith("turned by 90 degrees") and not found.is_half_turned


def test_without_lungs_the_hips_tell_what_is_upside_down():
    image = patient().image[:, :, :68]  # up to the liver
    assert check_anatomy(Volume(image, patient().affine)).up_down.evidence == "hip bones below the liver"
    problem = check_anatomy(Volume(image[:, :, ::-1], patient().affine)).problem
    assert problem == "upside down (slices in reverse order): hip bones above the liver"


def test_without_a_liver_nothing_tells_right_from_left():
    pelvis = Volume(patient().image[:, :, :30], patient().affine)
    assert check_anatomy(pelvis).left_right.verdict == check_anatomy(pelvis).up_down.verdict == 0


def test_air_in_the_bowel_is_not_a_lung():
    image = patient().image[:, :, :68].copy()
    image[patient().masks["rectum"][:, :, :68]] = -900
    assert check_anatomy(Volume(image, patient().affine)).problem == ""


@pytest.mark.parametrize("seed", range(4))
def test_random_bodies_are_right_and_their_faults_are_found(seed):
    body = random_body(seed)
    assert (check_anatomy(body).problem, not_hounsfield(body), clipped(body)) == ("", "", "")
    for kind in ("front and back exchanged", "rotated by 180 degrees about the long axis"):
        assert check_anatomy(SPOILED[kind](body)).problem
    assert all(not_hounsfield(SPOILED[kind](body)) for kind in ("HU + 1024", "z-scored", "scaled to [-1, 1]", "8 bits"))


@cache
def real_ct(name: str) -> Volume:
    path = SHARED / name
    return read_series(inspect_series(path)) if path.is_dir() else read_image(path)


@needs_real_cts
@pytest.mark.parametrize("name", REAL_CTS)
def test_a_real_ct_is_right_and_its_faults_are_found(name):
    image = real_ct(name)
    assert (check_anatomy(image).problem, not_hounsfield(image), clipped(image)) == ("", "", "")
    anatomy = [kind for kind in SPOILED if not kind.startswith(("HU", "z-", "scaled", "8", "metres"))]
    for kind in anatomy:
        problem = check_anatomy(SPOILED[kind](image)).problem
        if name.endswith("dicom"):  # 4 cm of liver: neither lungs nor hips tell the upper end
            assert bool(problem) == (kind != "upside down"), kind
        else:
            assert problem.startswith(kind.split(" about the long")[0]) or kind.startswith("slices"), (kind, problem)
            assert problem
    for kind in set(SPOILED) - set(anatomy) - {"metres for millimetres"}:
        assert not_hounsfield(SPOILED[kind](image)), kind


@needs_real_cts
@pytest.mark.parametrize("slices", [(0, 10), (0, 20), (0, 30), (4, 14), (4, 24)])
def test_the_pubic_bone_is_not_a_spine(slices):
    image = real_ct(REAL_CTS[1])
    assert check_anatomy(Volume(image.data[:, :, slice(*slices)], image.affine)).problem == ""


@needs_real_cts
def test_wrong_orientations_from_the_cases_are_found():
    folder = SHARED / "cases" / "predict-wrong-orientation-no-warning" / "in"
    problems = {path.name: check_anatomy(read_image(path)).problem for path in folder.iterdir()}
    assert problems and all(problems.values())


CENTRES = {"liver": 80, "spleen": -90, "right_kidney": 60, "left_kidney": -60, "right_lung": 70, "left_lung": -70}


def on_wrong_side(volume_ml=150.0, **changes) -> tuple[str, ...]:
    centres = {name: np.array([x, 0, 0]) for name, x in {**CENTRES, **changes}.items() if x is not None}
    return organs_on_wrong_side(centres, dict.fromkeys(centres, volume_ml), UNIVERSAL)


def test_organs_on_the_wrong_side_are_named():
    assert on_wrong_side() == ()
    assert on_wrong_side(liver=-120)[0].startswith("liver lies left of spleen")
    assert on_wrong_side(liver=None, gallbladder=-150)[0].startswith("gallbladder lies left of spleen")
    [text] = on_wrong_side(right_kidney=-90)
    assert text.startswith("right_kidney lies left of left_kidney")
    assert len(on_wrong_side(**{name: -x for name, x in CENTRES.items()})) == 3


def test_specks_lesions_single_organs_and_small_distances_are_no_sign():
    assert on_wrong_side(0.1, liver=-200, right_kidney=-200) == ()
    assert on_wrong_side(liver=None, left_kidney=None, right_kidney=-200, liver_tumor=-300) == ()
    assert on_wrong_side(right_kidney=-70) == ()
