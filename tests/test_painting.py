"""Painting and its inverse: organs regain what their sub-structures hide."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow, Taxonomy
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.painting import paint, paint_labels, unpaint

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
    found = unpaint(line(".LTLV.S", L=6, T=27, V=15, S=1), UNIVERSAL, ("liver", "liver_tumor", "hepatic_vessel"))
    assert {name: drawn(found.mask(name)) for name in found.names} == {
        "liver": ".####..",
        "hepatic_vessel": "....#..",
        "liver_tumor": "..#....",
    }


def test_kidney_tumour_goes_to_the_kidney_it_touches():
    masks = unpaint(line("RRT...LLT.", R=2, L=3, T=26), UNIVERSAL, KIDNEYS)
    assert drawn(masks.mask("right_kidney")) == "###......."
    assert drawn(masks.mask("left_kidney")) == "......###."
    assert drawn(masks.mask("kidney_tumor")) == "..#.....#."


def test_component_goes_to_the_parent_with_more_contact():
    painted = np.zeros((3, 3, 3), np.uint8)
    painted[1, 1, 1] = 26
    painted[0] = 3  # nine neighbours of the tumour
    painted[2, 0] = 2  # three neighbours
    masks = unpaint(painted, UNIVERSAL, KIDNEYS)
    assert masks.mask("left_kidney")[1, 1, 1] and not masks.mask("right_kidney")[1, 1, 1]


def test_contact_over_edges_and_corners_counts_more_than_a_single_face():
    """The parent with more pairs of neighbours is not the nearest here."""
    painted = np.zeros((3, 3, 3), np.uint8)
    painted[1, 1, 1] = 26
    painted[0, 1, 1] = 2  # one face
    painted[2, 0] = painted[2, 2] = 3  # two edges, four corners
    masks = unpaint(painted, UNIVERSAL, KIDNEYS)
    assert masks.mask("left_kidney")[1, 1, 1] and not masks.mask("right_kidney")[1, 1, 1]


def test_indices_beyond_one_byte_are_painted():
    taxonomy = Taxonomy((*UNIVERSAL.rows, ClassRow(256, "sacrum", "sacrum")))
    masks = {name: line(text, **{"#": 1}) > 0 for name, text in (("spleen", "#.."), ("sacrum", "..#"))}
    painted = paint(masks, taxonomy)
    assert painted.ravel().tolist() == [1, 0, 256] and painted.dtype == np.uint16
    assert paint({"spleen": masks["spleen"]}, taxonomy).dtype == np.uint8


def test_component_without_contact_goes_to_the_nearest_parent():
    masks = unpaint(line("R...T..L", R=2, L=3, T=26), UNIVERSAL, KIDNEYS)
    assert drawn(masks.mask("left_kidney")) == "....#..#"
    assert drawn(masks.mask("right_kidney")) == "#......."


def test_nearest_is_measured_in_millimetres():
    painted = np.zeros((4, 1, 4), np.uint8)
    painted[0, 0, 0], painted[0, 0, 3], painted[2, 0, 0] = 26, 2, 3
    near_in_voxels = unpaint(painted, UNIVERSAL, KIDNEYS)
    near_in_mm = unpaint(painted, UNIVERSAL, KIDNEYS, spacing_mm=(5, 1, 1))
    assert near_in_voxels.mask("left_kidney")[0, 0, 0] and not near_in_voxels.mask("right_kidney")[0, 0, 0]
    assert near_in_mm.mask("right_kidney")[0, 0, 0] and not near_in_mm.mask("left_kidney")[0, 0, 0]


def test_no_parent_in_the_prediction_means_none():
    masks = unpaint(line("..TT..", T=26), UNIVERSAL, KIDNEYS)
    assert not masks.mask("right_kidney").any() and not masks.mask("left_kidney").any()
    assert drawn(masks.mask("kidney_tumor")) == "..##.."


def test_tumour_that_touches_only_a_cyst_goes_to_the_kidney_of_the_cyst():
    masks = unpaint(line("L..RCT", R=2, L=3, T=26, C=32), UNIVERSAL, (*KIDNEYS, "kidney_cyst"))
    assert drawn(masks.mask("right_kidney")) == "...###"
    assert drawn(masks.mask("kidney_cyst")) == "....#."


def test_only_parents_within_names_matter():
    masks = unpaint(line("RRT..L", R=2, L=3, T=26), UNIVERSAL, ("left_kidney", "kidney_tumor"))
    assert masks.names == {"left_kidney", "kidney_tumor"}
    assert drawn(masks.mask("left_kidney")) == "..#..#"


def test_missing_generation_is_bridged():
    nodule = ClassRow(33, "nodule_core", "nodule core", parents=("lung_tumor",))
    taxonomy = Taxonomy((*UNIVERSAL.rows, nodule))
    painted = line("R.N..LNL", R=16, L=17, N=33)
    masks = unpaint(painted, taxonomy, ("right_lung", "left_lung", "nodule_core"))
    assert drawn(masks.mask("right_lung")) == "#.#....."
    assert drawn(masks.mask("left_lung")) == ".....###"


def test_three_generations_follow_the_component_of_the_middle_one():
    nodule = ClassRow(33, "nodule_core", "nodule core", parents=("lung_tumor",))
    taxonomy = Taxonomy((*UNIVERSAL.rows, nodule))
    painted = line("RTNT..TNTL", R=16, L=17, T=30, N=33)
    masks = unpaint(painted, taxonomy, ("right_lung", "left_lung", "lung_tumor", "nodule_core"))
    assert drawn(masks.mask("right_lung")) == "####......"
    assert drawn(masks.mask("left_lung")) == "......####"
    assert drawn(masks.mask("lung_tumor")) == ".###..###."
    assert drawn(masks.mask("nodule_core")) == "..#....#.."


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("names", [KIDNEYS, (*KIDNEYS, "kidney_cyst")])
def test_the_given_array_is_not_changed(dtype, names):
    painted = line("RRT...LLTC", R=2, L=3, T=26, C=32).astype(dtype)
    painted.flags.writeable = False
    before = painted.copy()
    found = unpaint(painted, UNIVERSAL, names)
    assert drawn(found.mask("left_kidney")) == ("......####" if len(names) == 4 else "......###.")
    np.testing.assert_array_equal(painted, before)


@pytest.mark.parametrize("seed", range(5))
def test_painting_the_unpainted_masks_gives_the_label_map_back(seed):
    painted = np.random.default_rng(seed).integers(0, 33, (9, 8, 7)).astype(np.uint8)
    found = unpaint(painted, UNIVERSAL, UNIVERSAL.names)
    masks = {name: found.mask(name) for name in UNIVERSAL.names}
    np.testing.assert_array_equal(paint(masks, UNIVERSAL), painted)
    np.testing.assert_array_equal(paint_labels(found, UNIVERSAL), painted)
    for row in UNIVERSAL:  # a child with a single parent is inside it
        if len(row.parents) == 1:
            assert not (masks[row.name] & ~masks[row.parents[0]]).any()


def test_a_label_map_is_painted_as_its_masks_are():
    table = {1: ("liver",), 2: ("liver", "liver_tumor"), 3: ("right_kidney", "liver"), 4: None, 5: ()}
    labels = ClassMap(np.random.default_rng(0).integers(0, 6, (4, 5, 6)).astype(np.uint8), table)
    masks = {name: labels.mask(name) for name in labels.names}
    np.testing.assert_array_equal(paint_labels(labels, UNIVERSAL), paint(masks, UNIVERSAL))
