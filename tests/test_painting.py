"""Painting and its inverse: organs regain what their sub-structures hide."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow, Taxonomy
from nnunetv2_clip.painting import Unpainted, paint, unpaint

INDEX = {row.name: row.index for row in UNIVERSAL}
KIDNEYS = ("right_kidney", "left_kidney", "kidney_tumor")


def line(text: str, **values: int) -> np.ndarray:
    """A (1, 1, n) label map drawn as text; letters are given as keywords, a dot is background."""
    return np.array([values.get(letter, 0) for letter in text], np.uint8).reshape(1, 1, -1)


def drawn(mask: np.ndarray) -> str:
    return "".join("#" if voxel else "." for voxel in mask.ravel())


def test_sub_structures_are_painted_after_their_organ():
    masks = {"liver_tumor": line("..#..", **{"#": 1}) > 0, "liver": line(".###.", **{"#": 1}) > 0}
    np.testing.assert_array_equal(paint(masks, UNIVERSAL).ravel(), [0, 6, 27, 6, 0])


def test_organ_is_its_own_voxels_and_those_of_everything_inside():
    masks = unpaint(line(".LTLV.S", L=6, T=27, V=15, S=1), UNIVERSAL, ("liver", "liver_tumor", "hepatic_vessel"))
    assert {name: drawn(mask) for name, mask in masks.items()} == {
        "liver": ".####..",
        "hepatic_vessel": "....#..",
        "liver_tumor": "..#....",
    }


def test_kidney_tumour_goes_to_the_kidney_it_touches():
    masks = unpaint(line("RRT...LLT.", R=2, L=3, T=26), UNIVERSAL, KIDNEYS)
    assert drawn(masks["right_kidney"]) == "###......."
    assert drawn(masks["left_kidney"]) == "......###."
    assert drawn(masks["kidney_tumor"]) == "..#.....#."


def test_component_goes_to_the_parent_with_more_contact():
    painted = np.zeros((3, 3, 3), np.uint8)
    painted[1, 1, 1] = 26
    painted[0] = 3  # nine neighbours of the tumour
    painted[2, 0] = 2  # three neighbours
    masks = unpaint(painted, UNIVERSAL, KIDNEYS)
    assert masks["left_kidney"][1, 1, 1] and not masks["right_kidney"][1, 1, 1]


def test_contact_over_edges_and_corners_counts_more_than_a_single_face():
    """The parent with more pairs of neighbours is not the nearest here."""
    painted = np.zeros((3, 3, 3), np.uint8)
    painted[1, 1, 1] = 26
    painted[0, 1, 1] = 2  # one face
    painted[2, 0] = painted[2, 2] = 3  # two edges, four corners
    masks = unpaint(painted, UNIVERSAL, KIDNEYS)
    assert masks["left_kidney"][1, 1, 1] and not masks["right_kidney"][1, 1, 1]


def test_indices_beyond_one_byte_are_painted():
    taxonomy = Taxonomy((*UNIVERSAL.rows, ClassRow(256, "sacrum", "sacrum")))
    masks = {name: line(text, **{"#": 1}) > 0 for name, text in (("spleen", "#.."), ("sacrum", "..#"))}
    painted = paint(masks, taxonomy)
    assert painted.ravel().tolist() == [1, 0, 256] and painted.dtype == np.uint16
    assert paint({"spleen": masks["spleen"]}, taxonomy).dtype == np.uint8


def test_component_without_contact_goes_to_the_nearest_parent():
    masks = unpaint(line("R...T..L", R=2, L=3, T=26), UNIVERSAL, KIDNEYS)
    assert drawn(masks["left_kidney"]) == "....#..#"
    assert drawn(masks["right_kidney"]) == "#......."


def test_nearest_is_measured_in_millimetres():
    painted = np.zeros((4, 1, 4), np.uint8)
    painted[0, 0, 0], painted[0, 0, 3], painted[2, 0, 0] = 26, 2, 3
    near_in_voxels = unpaint(painted, UNIVERSAL, KIDNEYS)
    near_in_mm = unpaint(painted, UNIVERSAL, KIDNEYS, spacing_mm=(5, 1, 1))
    assert near_in_voxels["left_kidney"][0, 0, 0] and not near_in_voxels["right_kidney"][0, 0, 0]
    assert near_in_mm["right_kidney"][0, 0, 0] and not near_in_mm["left_kidney"][0, 0, 0]


def test_no_parent_in_the_prediction_means_none():
    masks = unpaint(line("..TT..", T=26), UNIVERSAL, KIDNEYS)
    assert not masks["right_kidney"].any() and not masks["left_kidney"].any()
    assert drawn(masks["kidney_tumor"]) == "..##.."


def test_tumour_that_touches_only_a_cyst_goes_to_the_kidney_of_the_cyst():
    masks = unpaint(line("L..RCT", R=2, L=3, T=26, C=32), UNIVERSAL, (*KIDNEYS, "kidney_cyst"))
    assert drawn(masks["right_kidney"]) == "...###"
    assert drawn(masks["kidney_cyst"]) == "....#."


def test_only_parents_within_names_matter():
    masks = unpaint(line("RRT..L", R=2, L=3, T=26), UNIVERSAL, ("left_kidney", "kidney_tumor"))
    assert set(masks) == {"left_kidney", "kidney_tumor"}
    assert drawn(masks["left_kidney"]) == "..#..#"


def test_missing_generation_is_bridged():
    nodule = ClassRow(33, "nodule_core", "nodule core", parents=("lung_tumor",))
    taxonomy = Taxonomy((*UNIVERSAL.rows, nodule))
    painted = line("R.N..LNL", R=16, L=17, N=33)
    masks = unpaint(painted, taxonomy, ("right_lung", "left_lung", "nodule_core"))
    assert drawn(masks["right_lung"]) == "#.#....."
    assert drawn(masks["left_lung"]) == ".....###"


def test_three_generations_follow_the_component_of_the_middle_one():
    nodule = ClassRow(33, "nodule_core", "nodule core", parents=("lung_tumor",))
    taxonomy = Taxonomy((*UNIVERSAL.rows, nodule))
    painted = line("RTNT..TNTL", R=16, L=17, T=30, N=33)
    masks = unpaint(painted, taxonomy, ("right_lung", "left_lung", "lung_tumor", "nodule_core"))
    assert drawn(masks["right_lung"]) == "####......"
    assert drawn(masks["left_lung"]) == "......####"
    assert drawn(masks["lung_tumor"]) == ".###..###."
    assert drawn(masks["nodule_core"]) == "..#....#.."


def test_the_given_array_is_not_changed():
    painted = line("RRT...LLT.", R=2, L=3, T=26)
    before = painted.copy()
    unpaint(painted, UNIVERSAL, KIDNEYS)
    np.testing.assert_array_equal(painted, before)


@pytest.mark.parametrize("seed", range(5))
def test_painting_the_unpainted_masks_gives_the_label_map_back(seed):
    painted = np.random.default_rng(seed).integers(0, 33, (9, 8, 7)).astype(np.uint8)
    masks = unpaint(painted, UNIVERSAL, UNIVERSAL.names)
    np.testing.assert_array_equal(paint(masks, UNIVERSAL), painted)
    for row in UNIVERSAL:  # a child with a single parent is inside it
        if len(row.parents) == 1:
            assert not (masks[row.name] & ~masks[row.parents[0]]).any()


def test_masks_on_demand_equal_the_dictionary():
    painted = np.random.default_rng(0).integers(0, 33, (9, 8, 7)).astype(np.uint8)
    lazy = Unpainted(painted, UNIVERSAL, UNIVERSAL.names)
    for name, mask in unpaint(painted, UNIVERSAL, UNIVERSAL.names).items():
        np.testing.assert_array_equal(lazy.mask(name), mask)
