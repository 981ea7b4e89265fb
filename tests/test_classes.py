"""The taxonomy: indices as in the paper, names found by alias, typos answered, painting order, user tables."""

import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow, Taxonomy, look_paired
from nnunetv2_clip.conversion.lesions import pairs_of
from nnunetv2_clip.errors import UserError

PAPER = {
    1: "spleen",
    6: "liver",
    9: "postcava",
    11: "pancreas",
    16: "right_lung",
    25: "celiac_trunk",
    32: "kidney_cyst",
}


def test_32_classes_with_the_papers_indices():
    assert [row.index for row in UNIVERSAL] == list(range(1, 33))
    assert {index: UNIVERSAL.rows[index - 1].name for index in PAPER} == PAPER


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("inferior vena cava", "postcava"),
        ("Small bowel", "intestine"),
        ("liver-tumour", "liver_tumor"),
        ("liver", "liver"),
    ],
)
def test_aliases_and_spellings(alias, name):
    assert UNIVERSAL.find(alias).name == name


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'spleen'"):
        UNIVERSAL.find("spleeen")


def test_partners_are_mutual_and_on_the_other_side():
    for row in UNIVERSAL:
        if row.partner:
            assert UNIVERSAL.find(row.partner).partner == row.name
            assert {row.name.split("_")[0], row.partner.split("_")[0]} == {"left", "right"}
            assert row.side == row.name.split("_")[0]
        else:
            assert row.side is None


def test_ancestors_and_descendants():
    assert UNIVERSAL.ancestors("kidney_cyst") == {"right_kidney", "left_kidney"}
    assert UNIVERSAL.descendants("liver") == {"hepatic_vessel", "liver_tumor", "hepatic_vessel_tumor"}


def test_a_child_is_painted_after_its_organ_even_with_a_smaller_index():
    rows = (ClassRow(1, "tumour", "tumour", parents=("organ",)), ClassRow(2, "organ", "organ"))
    assert [row.name for row in Taxonomy(rows).painting_order()] == ["organ", "tumour"]


def test_large_organs_are_painted_first_so_that_they_never_hide_a_small_one():
    order = [
        row.name for row in UNIVERSAL.subset(["right_adrenal_gland", "spleen", "liver_tumor", "liver", "pancreas"])
    ]
    assert order == ["liver", "spleen", "pancreas", "right_adrenal_gland", "liver_tumor"]


def test_every_organ_of_the_universal_classes_has_a_volume_and_no_part_has():
    assert {row.name for row in UNIVERSAL if not row.volume_ml} == {row.name for row in UNIVERSAL if row.parents}


def test_a_users_class_is_painted_by_its_volume(tmp_path):
    large = "classes:\n - {index: 33, name: heart, volume_ml: 700.5}\n - {index: 34, name: nodule}\n"
    order = [row.name for row in UNIVERSAL.extended(write(tmp_path, large)).painting_order()]
    assert order.index("liver") < order.index("heart") < order.index("stomach")
    assert order[-1] == "nodule"


def test_a_circle_of_parents_is_refused():
    rows = (ClassRow(1, "a", "a", parents=("b",)), ClassRow(2, "b", "b", parents=("a",)))
    with pytest.raises(UserError, match="circle"):
        Taxonomy(rows).painting_order()


def write(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    return path


def test_a_users_table_adds_classes(tmp_path):
    path = write(tmp_path, "classes:\n - {index: 33, name: renal_vein, parents: [left_kidney]}\n")
    taxonomy = UNIVERSAL.extended(path)
    assert taxonomy.find("renal vein").index == 33
    assert taxonomy.names[:32] == UNIVERSAL.names
    assert Taxonomy.from_json(taxonomy.to_json(), "json").names == taxonomy.names


@pytest.mark.parametrize(
    ("first", "second", "sides"),
    [
        ("name: hip_left", "name: hip_right", "left right"),
        ("name: hip_r", "name: hip_l", "right left"),
        ("name: left_bright_spot", "name: right_bright_spot", "left right"),
        ("name: ovary_a, side: left", "name: ovary_b, side: right", "left right"),
        ("name: right_sided_a, side: left", "name: left_sided_b, side: right", "left right"),
    ],
)
def test_a_pair_of_a_users_table_has_sides_and_keeps_them(tmp_path, first, second, sides):
    names = [text.split(",")[0].removeprefix("name: ") for text in (first, second)]
    rows = f" - {{index: 33, {first}, partner: {names[1]}}}\n - {{index: 34, {second}, partner: {names[0]}}}\n"
    taxonomy = UNIVERSAL.extended(write(tmp_path, f"classes:\n{rows}"))
    pair = tuple(names if sides == "right left" else reversed(names))
    assert pairs_of(taxonomy) == [*pairs_of(UNIVERSAL), pair]
    assert pairs_of(Taxonomy.from_json(taxonomy.to_json(), "json")) == pairs_of(taxonomy)


def test_partners_name_each_other(tmp_path):
    rows = " - {index: 33, name: hip_r, partner: hip_l}\n - {index: 34, name: hip_l}\n"
    with pytest.raises(UserError, match="'hip_r' names the partner 'hip_l', but not the other way round"):
        UNIVERSAL.extended(write(tmp_path, f"classes:\n{rows}"))


@pytest.mark.parametrize(
    ("first", "second", "are_paired"),
    [("hip_r", "hip_l", True), ("left_ovary", "right_ovary", True), ("hip_r", "knee_l", False), ("a", "b", False)],
)
def test_names_that_differ_in_the_side_only_look_paired(first, second, are_paired):
    assert look_paired(first, second) == look_paired(second, first) == are_paired


def test_only_a_side_that_the_name_does_not_tell_is_written(tmp_path):
    assert all("side" not in row for row in UNIVERSAL.to_json())
    a, b = "{index: 33, name: ovary_a, partner: ovary_b, side: left}", "{index: 34, name: ovary_b, partner: ovary_a"
    taxonomy = UNIVERSAL.extended(write(tmp_path, f"classes: [{a}, {b}, side: right}}]"))
    assert [row.get("side") for row in taxonomy.to_json()[32:]] == ["left", "right"]


@pytest.mark.parametrize("side", ["", ", side: left", ", side: upper"])
def test_a_pair_without_a_right_and_a_left_class_is_refused(tmp_path, side):
    a, b = "{index: 33, name: ovary_a, partner: ovary_b, side: left}", "{index: 34, name: ovary_b, partner: ovary_a"
    with pytest.raises(UserError, match="ovary_.*side: right|right or left"):
        UNIVERSAL.extended(write(tmp_path, f"classes: [{a}, {b}{side}}}]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes:\n - {index: 5, name: renal_vein}\n", "index from 33"),
        ("classes:\n - {index: 33, name: liver}\n", "already means"),
        ("classes:\n - {index: 33, name: renal_vein, parents: [kidny]}\n", "not a class"),
        ("classes:\n - {index: 33, name: Renal Vein}\n", "renal_vein"),
        ("classes:\n - {index: 33, nam: renal_vein}\n", "unknown key 'nam'. Did you mean 'name'"),
        ("classes:\n - {index: 256, name: renal_vein}\n", "from 33 to 255"),
        ("classes:\n - {index: 33, name: ignore}\n", "another name"),
        ("classes:\n - {index: 33, name: ct}\n", "another name"),
        ("classes:\n - {index: 33, name: ../../renal}\n", "64 small letters .a to z., digits and _: 'renal'"),
        ("classes:\n - {index: 33, name: 'l\"iver<b>/x'}\n", "digits and _: 'l_iver_b_x'"),
        ("classes:\n - {index: 33, name: größe}\n", "digits and _: 'gr_e'"),
        (f"classes:\n - {{index: 33, name: {'x' * 65}}}\n", "at most 64"),
        ("classes:\n - {index: 33, name: ''}\n", "renal_vein"),
        ("classes:\n - {index: 33, name: renal_vein, partner: [liver]}\n", "the name of one class"),
        (
            "classes:\n - {index: 33, name: renal_vein, prompt: [vein, renal]}\n",
            "row 1, prompt: .'vein', 'renal'.. Expected: the noun",
        ),
        ("classes:\n - {index: 33, name: renal_vein, volume_ml: large}\n", "a volume in ml"),
        ("classes:\n - {index: 33, name: renal_vein, volume_ml: -1}\n", "a volume in ml"),
        ("classes: 3\n", "no list"),
        ("a: [", "YAML"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        UNIVERSAL.extended(write(tmp_path, text))
