"""Tolerances of NSD: built-in values, the user's table, and what is refused."""

import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.tolerances import TOLERANCE_MM, tolerances_mm


def table(folder, text):
    (folder / "tolerances.yaml").write_text(text)
    return folder / "tolerances.yaml"


def test_built_in_values_are_those_of_the_decathlon_and_3_mm_elsewhere():
    found = tolerances_mm(("liver", "pancreas_tumor", "stomach"), UNIVERSAL)
    assert found == {"liver": 7, "pancreas_tumor": 5, "stomach": 3}


def test_every_built_in_value_names_a_class():
    assert set(TOLERANCE_MM) <= set(UNIVERSAL.names)


def test_a_named_class_changes_alone(tmp_path):
    found = tolerances_mm(("liver", "spleen"), UNIVERSAL, table(tmp_path, "classes: {Liver: 1.5}"))
    assert found == {"liver": 1.5, "spleen": 3}


def test_a_default_replaces_the_built_in_values(tmp_path):
    found = tolerances_mm(("liver", "spleen"), UNIVERSAL, table(tmp_path, "default_mm: 2\nclasses: {spleen: 1}"))
    assert found == {"liver": 2, "spleen": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {livver: 2}", "liver"),
        ("classes: {liver: -2}", "positive"),
        ("classes: {liver: two}", "positive"),
        ("classes: [liver]", "no table"),
        ("liver: 2", "unknown key 'liver'"),
        ("classes: {liver: ", "YAML"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        tolerances_mm(("liver",), UNIVERSAL, table(tmp_path, text))
