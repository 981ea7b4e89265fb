"""Right and left: phantoms with one kidney, fused and touching organs; drawings of specks, doubts and lesions."""

from functools import cache

import numpy as np
import pytest
from nibabel.orientations import apply_orientation as turn
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from nnunetv2_clip.conversion.laterality import (
    MidPlane,
    Pair,
    Sides,
    _smooth,
    find_midplane,
    side_of_lesions,
    split_pairs,
    split_sides,
)
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.phantom.anatomy import make_phantom

# Drawings: 60 x 20 x 10 voxels of 2 mm in RAS, the mid-plane between x = 29 and 30, larger x is right.
SHAPE, AFFINE = (60, 20, 10), np.diag([2.0, 2, 2, 1])
PLANE = MidPlane(np.full(10, 29.5), AFFINE, True, "drawn")
IMAGE = Volume(np.zeros(SHAPE, np.int16), AFFINE)


def box(*extent: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[extent] = True
    return mask


RIGHT_ORGAN = box(slice(40, 50), slice(5, 15), slice(1, 9))
LEFT_ORGAN = box(slice(10, 20), slice(5, 15), slice(1, 9))


@cache
def patient(seed: int, missing: tuple = (), fused: tuple = ()):
    return make_phantom(seed, (6.0, 6.0, 6.0), missing=missing, fused=fused)


def stored(phantom, mask, codes):
    """An array and the image of a phantom as a file with these axis codes would give them."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    affine = phantom.affine @ inv_ornt_aff(change, phantom.image.shape)
    return turn(mask, change), Volume(turn(phantom.image, change), affine)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL"])
@pytest.mark.parametrize("missing", [(), ("left_kidney",), ("right_kidney",)])
def test_kidneys_of_a_phantom_get_their_side_in_any_orientation_even_a_single_one(codes, missing):
    phantom = patient(1, missing)
    truth = {name: stored(phantom, phantom.masks[name], codes)[0] for name in ("right_kidney", "left_kidney")}
    mask, image = stored(phantom, phantom.masks["right_kidney"] | phantom.masks["left_kidney"], codes)
    sides = split_sides(mask, image)
    assert sides.certain
    assert (sides.right == truth["right_kidney"]).all()
    assert (sides.left == truth["left_kidney"]).all()


@pytest.mark.parametrize("organ", ["kidney", "lung"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_horseshoe_kidney_and_touching_lungs_are_cut_at_the_midplane(organ, seed):
    phantom = patient(seed, fused=("kidneys", "lungs"))
    right, left = phantom.masks[f"right_{organ}"], phantom.masks[f"left_{organ}"]
    sides = split_sides(right | left, Volume(phantom.image, phantom.affine))
    assert sides.certain and "cut" in sides.note
    assert ((sides.right | sides.left) == (right | left)).all() and not (sides.right & sides.left).any()
    # The phantom's own plane is bent with the body, so a rim of one voxel along the cut may differ.
    assert ((sides.right & left) | (sides.left & right)).sum() < 0.05 * min(right.sum(), left.sum())


def test_lungs_that_touch_in_a_thin_place_beyond_the_plane_part_where_they_touch():
    left = box(slice(10, 34), slice(5, 15), slice(1, 9))  # reaches 9 mm across the plane
    right = box(slice(36, 55), slice(5, 15), slice(1, 9))
    contact = box(slice(34, 36), slice(9, 11), slice(4, 6))
    sides = split_sides(left | right | contact, IMAGE, PLANE)
    assert sides.certain and "cut" in sides.note
    assert (sides.left & left).sum() > 0.99 * left.sum() and (sides.right & right).sum() > 0.99 * right.sum()


def test_one_kidney_with_a_speck_farther_out_stays_on_its_side():
    # KiTS23 case_00005: the only kidney lies left, a speck lies farther left.
    speck = box(slice(2, 4), slice(2, 4), slice(2, 3))
    sides = split_sides(LEFT_ORGAN | speck, IMAGE, PLANE)
    assert sides.certain and (sides.left == LEFT_ORGAN).all() and not sides.right.any()


def test_a_speck_on_the_other_side_is_no_second_kidney():
    speck = box(slice(45, 47), slice(2, 4), slice(2, 3))
    sides = split_sides(LEFT_ORGAN | speck, IMAGE, PLANE)
    assert sides.certain and not sides.right.any()


def test_the_sides_do_not_depend_on_which_organ_is_larger():
    small = box(slice(44, 48), slice(5, 11), slice(3, 8))
    sides = split_sides(LEFT_ORGAN | small, IMAGE, PLANE)
    assert (sides.right == small).all() and (sides.left == LEFT_ORGAN).all()


@pytest.mark.parametrize(
    ("mask", "note"),
    [
        (box(slice(28, 32), slice(5, 15), slice(1, 9)), "mid-plane"),
        (RIGHT_ORGAN | box(slice(31, 38), slice(5, 15), slice(1, 9)), "several organs"),
    ],
)
def test_an_organ_on_the_plane_or_two_on_one_side_are_uncertain(mask, note):
    sides = split_sides(mask, IMAGE, PLANE)
    assert not sides.certain and note in sides.note


def test_without_a_body_in_the_image_the_side_is_uncertain():
    sides = split_sides(LEFT_ORGAN, Volume(np.full(SHAPE, -1000, np.int16), AFFINE))
    assert not sides.certain and "no body" in sides.note
    assert not sides.right.any() and not sides.left.any()


def test_the_plane_follows_the_spine_not_the_arm_beside_the_body():
    phantom = patient(0)
    image = phantom.image.copy()
    image[:4, 10:30] = 40  # an arm at the left border, touching nothing
    plain, with_arm = (find_midplane(Volume(data, phantom.affine)) for data in (phantom.image, image))
    assert plain.note == with_arm.note == "spine"
    assert np.abs(plain.x - with_arm.x).max() <= 1


def test_a_lesion_follows_the_organ_that_it_touches_even_across_the_plane():
    organ = box(slice(31, 50), slice(5, 15), slice(1, 9))
    lesion = box(slice(20, 31), slice(5, 8), slice(4, 6))
    free = box(slice(5, 7), slice(0, 2), slice(0, 1))
    right, left = side_of_lesions(lesion | free, split_sides(organ, IMAGE, PLANE))
    assert (right == lesion).all() and (left == free).all()


def test_a_lesion_in_both_organs_is_divided_as_they_are_not_by_the_plane():
    left, right = box(slice(10, 26), slice(5, 15), slice(1, 9)), box(slice(26, 50), slice(5, 15), slice(1, 9))
    lesion = box(slice(22, 34), slice(8, 11), slice(3, 6))
    halves = side_of_lesions(lesion, Sides(right, left, True, "", PLANE))
    assert (halves[0] == lesion & right).all() and (halves[1] == lesion & left).all()


def test_split_labels_carry_organ_and_lesion_of_each_side():
    label_map = np.where(RIGHT_ORGAN | LEFT_ORGAN, 1, 0).astype(np.uint8)
    label_map[40:43, 5:8, 1:4] = 2  # a tumour in the right kidney
    labels, annotated, notes = split_pairs(
        ClassMap(label_map, {1: (), 2: ("kidney_tumor",)}),
        [Pair("right_kidney", "left_kidney", (1, 2))],
        Volume(body_with_spine(), AFFINE),
        ("right_kidney", "left_kidney", "kidney_tumor"),
    )
    at = lambda *voxel: labels.sets[int(labels.values[voxel])]  # noqa: E731
    assert at(41, 6, 2) == {"kidney_tumor", "right_kidney"}
    assert at(48, 10, 5) == {"right_kidney"} and at(12, 10, 5) == {"left_kidney"}
    assert annotated == ("right_kidney", "left_kidney", "kidney_tumor") and notes == ()


def test_a_large_tumour_that_reaches_across_the_plane_stays_on_the_side_of_its_kidney():
    label_map = np.where(RIGHT_ORGAN | LEFT_ORGAN, 1, 0).astype(np.uint8)
    label_map[22:40, 5:15, 1:9] = 2  # of the right kidney; nearly half of it lies left of the plane
    labels, annotated, notes = split_pairs(
        ClassMap(label_map, {1: (), 2: ("kidney_tumor",)}),
        [Pair("right_kidney", "left_kidney", (1, 2))],
        Volume(body_with_spine(), AFFINE),
        ("right_kidney", "left_kidney", "kidney_tumor"),
    )
    classes = np.vectorize(lambda value: " ".join(sorted(labels.sets[value])))(labels.values)
    assert (classes[label_map == 2] == "kidney_tumor right_kidney").all()
    assert (classes[LEFT_ORGAN] == "left_kidney").all() and notes == ()


def test_an_uncertain_pair_is_not_annotated_and_its_tumour_still_is():
    label_map = np.where(RIGHT_ORGAN, 1, 0).astype(np.uint8)
    label_map[45, 7, 4] = 2
    labels, annotated, notes = split_pairs(
        ClassMap(label_map, {1: (), 2: ("kidney_tumor",)}),
        [Pair("right_kidney", "left_kidney", (1, 2))],
        Volume(np.full(SHAPE, -1000, np.int16), AFFINE),
        ("right_kidney", "left_kidney", "kidney_tumor"),
    )
    assert annotated == ("kidney_tumor",) and "no body" in notes[0]
    assert labels.sets[2] == {"kidney_tumor"} and labels.sets[1] == set()
    assert (labels.values == label_map).all()


def body_with_spine() -> np.ndarray:
    image = np.full(SHAPE, -1000, np.int16)
    image[2:58, 1:19] = 40
    image[25:35, 2:7] = 400
    return image


def organs(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 1, 0).astype(np.uint8)


def split_kidneys(label_map: np.ndarray):
    pair = Pair("right_kidney", "left_kidney", (1,))
    kidneys = ("right_kidney", "left_kidney")
    return split_pairs(ClassMap(label_map, {1: ()}), [pair], Volume(body_with_spine(), AFFINE), kidneys)


def test_specks_mean_nothing_and_values_beyond_16_bits_stay():
    label_map = organs(RIGHT_ORGAN | LEFT_ORGAN).astype(np.uint32)
    label_map[2:4, 2:4, 2] = 1  # a speck
    label_map[30, 10, 5] = 70_000
    labels, _, _ = split_kidneys(label_map)
    assert {labels.sets[value] for value in np.unique(labels.values[2:4, 2:4, 2])} == {frozenset()}
    assert labels.values[30, 10, 5] == 70_000
    assert {labels.sets.get(value) for value in np.unique(labels.values)} - {None} == {
        frozenset(),
        frozenset({"right_kidney"}),
        frozenset({"left_kidney"}),
    }


def test_an_organ_that_reaches_a_little_across_the_plane_is_whole():
    organ = box(slice(28, 48), slice(5, 15), slice(1, 9))  # a tenth of it
    sides = split_sides(organ, IMAGE, PLANE)
    assert sides.certain and sides.note == "" and (sides.right == organ).all()


def test_what_hangs_on_an_organ_by_an_edge_belongs_to_it():
    organ = box(slice(10, 30), slice(5, 15), slice(1, 9)) | box(slice(30, 34), slice(15, 18), slice(1, 9))
    sides = split_sides(organ, IMAGE, PLANE)
    assert sides.certain and (sides.left == organ).all()


def test_a_piece_of_an_organ_is_no_second_organ():
    piece = box(slice(22, 26), slice(5, 10), slice(3, 7))  # a tenth of the organ
    sides = split_sides(LEFT_ORGAN | piece, IMAGE, PLANE)
    assert sides.certain and (sides.left == (LEFT_ORGAN | piece)).all()


def test_an_organ_is_in_doubt_when_one_of_its_halves_lies_on_the_plane():
    sides = split_sides(
        box(slice(20, 36), slice(5, 15), slice(1, 9)), IMAGE, PLANE
    )  # 10 mm to the left, 6 to the right
    assert not sides.certain and "mid-plane" in sides.note


def test_lungs_that_touch_in_eight_millimetres_part_where_they_touch():
    left = box(slice(10, 34), slice(5, 15), slice(1, 9))
    right = box(slice(36, 55), slice(5, 15), slice(1, 9))
    contact = box(slice(34, 36), slice(8, 12), slice(3, 7))
    sides = split_sides(left | right | contact, IMAGE, PLANE)
    assert (sides.left & left).sum() > 0.99 * left.sum() and (sides.right & right).sum() > 0.99 * right.sum()


# Large drawings: 60 x 40 x Z voxels of 4 mm in RAS; y counts from the back to the front, z from the feet to the head.
LARGE = np.diag([4.0, 4, 4, 1])
SPINE = (slice(25, 35), slice(4, 10))  # its middle at x = 29.5


def body(num_slices: int, *bones: tuple[slice, ...], across: slice = slice(2, 58)) -> Volume:
    image = np.full((60, 40, num_slices), -1000, np.int16)
    image[across, 2:38] = 40
    for bone in bones:
        image[bone] = 400
    return Volume(image, LARGE)


def test_a_component_of_two_millilitres_is_no_speck_beside_a_large_organ():
    mask = np.zeros((60, 40, 20), bool)
    mask[4:24, 2:38, 1:19] = True  # 830 ml
    mask[40:44, 10:14, 5:9] = True  # 4 ml
    plane = MidPlane(np.full(20, 29.5), LARGE, True, "drawn")
    sides = split_sides(mask, Volume(np.zeros(mask.shape, np.int16), LARGE), plane)
    assert sides.right.sum() == 64


@pytest.mark.parametrize(
    ("what", "bone"),
    [
        ("a shoulder far to the side", (slice(48, 57), slice(4, 12))),
        ("contrast medium in front of the spine", (slice(33, 40), slice(26, 36))),
        ("an outlier in a single slice", (slice(36, 56), slice(4, 10), slice(7, 8))),
    ],
)
def test_the_plane_goes_through_the_spine_whatever_else_is_bright(what, bone):
    plane = find_midplane(body(15, SPINE, bone))
    assert plane.note == "spine" and plane.is_certain
    assert np.abs(plane.x - 29.5).max() <= 1, what


def test_a_spot_is_no_spine():
    plane = find_midplane(body(15, (slice(36, 38), slice(5, 7))))  # 64 mm2
    assert plane.note == "outline of the body" and plane.is_certain
    assert np.abs(plane.x - 29.5).max() <= 1


@pytest.mark.parametrize(
    ("num_slices", "with_bone", "note"),
    [(100, 8, "spine"), (100, 3, "outline of the body"), (8, 3, "spine")],  # of 4 mm
)
def test_a_spine_is_two_centimetres_long_or_a_third_of_the_image(num_slices, with_bone, note):
    assert find_midplane(body(num_slices, (*SPINE, slice(0, with_bone)))).note == note


def test_a_body_that_is_cut_at_the_border_and_shows_no_spine_has_no_sides():
    image = body(15, across=slice(0, 58))
    plane = find_midplane(image)
    assert not plane.is_certain and "cut" in plane.note
    mask = np.zeros(image.data.shape, bool)
    mask[10:20, 10:20, 2:12] = True
    assert not split_sides(mask, image).certain
    assert find_midplane(body(15, SPINE, across=slice(0, 58))).is_certain


def test_a_body_that_is_all_as_bright_as_bone_shows_no_spine():
    bright = body(15, (slice(2, 58), slice(2, 38)))
    assert find_midplane(bright).note == "outline of the body"


@pytest.mark.parametrize("change", [lambda hu: hu + 1024, lambda hu: (hu - hu.mean()) / hu.std()])
def test_without_hounsfield_units_no_side_is_certain(change):
    phantom = patient(1)
    kidneys = phantom.masks["right_kidney"] | phantom.masks["left_kidney"]
    sides = split_sides(kidneys, Volume(change(phantom.image.astype(np.float32)), phantom.affine))
    assert not sides.certain and "no spine is seen" in sides.note and "not Hounsfield units" in sides.note
    assert not sides.right.any() and not sides.left.any()


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("width", [0.3, 2, 4, 15, 15.6])
def test_the_running_median_equals_a_plain_loop(count, width):
    """Also of few values in a wide window, where scipy 1.15 gives zeros."""
    values = np.random.default_rng(count).normal(5, 1, count)
    values[1::4] = np.nan  # filled on the straight line between their neighbours, or with the last one
    known = [k for k in range(count) if not np.isnan(values[k])]
    filled = [np.interp(k, known, values[known]) for k in range(count)]
    size = max(1, round(width))
    expected = []
    for k in range(count):
        window = [filled[min(max(j, 0), count - 1)] for j in range(k - size // 2, k - size // 2 + size)]
        expected.append(sorted(window)[size // 2])
    assert _smooth(values, width).tolist() == expected
