"""Tables: files that are no tables, and mistakes with their place, what was expected and what was meant."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from pydantic import Field, StrictInt

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.tables import MAX_ALIASES, MAX_CHARACTERS, Finite, Names, Row, Text, checked, quoted, read_yaml


@dataclass(frozen=True)
class Meal(Row):
    name: str
    guests: Annotated[StrictInt, Field(ge=1, description="a number of guests")] = 1
    dishes: Names = ()
    note: Text = ""
    litres: Finite = 0.0


@dataclass(frozen=True)
class Week:
    cases: dict[str, Meal] = field(default_factory=dict)
    classes: tuple[Meal, ...] = ()


def message(content, model=Meal):
    with pytest.raises(UserError) as caught:
        checked(model, content, "menu.yaml", "cook again")
    return str(caught.value)


def test_a_table_becomes_its_model():
    found = checked(Meal, {"name": "a", "dishes": ["soup"], "note": 2024, "litres": 2}, "menu.yaml")
    assert found == Meal("a", 1, ("soup",), "2024", 2.0)
    assert checked(Meal, {"name": "a", "dishes": None, "note": None}, "menu.yaml") == Meal("a")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"nam": "a"}, "menu.yaml: lacks 'name' (also: unknown key 'nam'. Did you mean 'name'?)."),
        (
            {"name": "a", "guest": 2},
            "unknown key 'guest'. Did you mean 'guests'? Expected: keys out of ['name', 'guests'",
        ),
        ({"name": 3}, "menu.yaml, name: 3. Expected: a valid string. Remedy: cook again."),
        ({"name": "a", "guests": True}, "menu.yaml, guests: True. Expected: a number of guests."),
        ({"name": "a", "guests": "2"}, "menu.yaml, guests: '2'. Expected: a number of guests."),
        ({"name": "a", "guests": 0}, "menu.yaml, guests: 0. Expected: a number of guests."),
        ({"name": "a", "dishes": "soup"}, "menu.yaml, dishes: holds no list but 'soup'. Expected: a list of names."),
        ({"name": "a", "dishes": ["soup", 3]}, "menu.yaml, dishes: 3. Expected: a list of names."),
        ({"name": "a", "litres": float("nan")}, "menu.yaml, litres: nan."),
        ({"name": "a", "litres": True}, "menu.yaml, litres: True."),
        ({"name": "a", 3: 1}, "menu.yaml: unknown key 3. Expected: keys out of ['name'"),
        (["name"], "menu.yaml: holds no table but ['name']. Expected: a table."),
    ],
)
def test_a_mistake_is_named_with_its_place(content, text):
    assert text in message(content)


def test_the_case_or_row_is_named():
    assert "menu.yaml, case 'monday': lacks 'name'" in message({"cases": {"monday": {}}}, Week)
    assert "menu.yaml, row 2, name: 3" in message({"classes": [{"name": "a"}, {"name": 3}]}, Week)


def test_of_many_mistakes_the_first_few_are_named():
    found = message({"cases": {str(day): {} for day in range(9)}}, Week)
    assert "case '0': lacks 'name' (also: case '1': lacks 'name'; case '2': lacks 'name'; and 6 more)." in found


def test_what_is_quoted_is_short():
    for value in ("x" * 10**6, list(range(10**6)), {"x" * 10**6: 1}, 16**10**5, [["x" * 10**6]]):
        assert len(quoted(value)) < MAX_CHARACTERS + 10
        assert len(message({"name": value, "guests": value})) < 5 * MAX_CHARACTERS
    assert len(message({"x" * 10**6: 1})) < 5 * MAX_CHARACTERS


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"\xff\xfe\x00", b"[" * 20000, BOMB.encode(), MERGES.encode(), b"a: !!python/object:os.system x"]
    + [b"a: 2001-99-99", b"a: " + b"9" * 5000, b"a: !" + b"x" * 10**5],
    ids=["broken", "binary", "deep", "aliases", "merges", "object", "date", "digits", "tag"],
)
def test_a_file_that_is_no_table_is_answered_in_few_words(tmp_path, content):
    (tmp_path / "table.yaml").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as YAML") as caught:
        read_yaml(tmp_path / "table.yaml", "a menu")
    assert len(str(caught.value)) < 2 * MAX_CHARACTERS


def test_a_few_aliases_are_read(tmp_path):
    names = ", ".join(["*a"] * MAX_ALIASES)
    (tmp_path / "table.yaml").write_text(f"a: &a soup\nb: [{names}]")
    assert read_yaml(tmp_path / "table.yaml", "a menu")["b"] == ["soup"] * MAX_ALIASES


def test_a_list_that_holds_itself_is_refused(tmp_path):
    (tmp_path / "table.yaml").write_text("name: a\ndishes: &d [*d]")
    assert "dishes" in message(read_yaml(tmp_path / "table.yaml", "a menu"))


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml.*cannot be read.*a menu.*cook"):
        read_yaml(tmp_path / "nowhere.yaml", "a menu", "cook")


def test_json_of_the_same_content_is_read_alike():
    content = {"name": "a", "guests": 2, "dishes": ["soup"]}
    assert checked(Meal, json.loads(json.dumps(content)), "menu.json") == checked(Meal, content, "menu.yaml")
