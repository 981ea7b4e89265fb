"""The manifest: what is written is read back; what was edited wrongly is refused and names the case."""

import json
from pathlib import Path

import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.manifest import CasePresence, Manifest, json_schema

CASES = {
    "a": CasePresence(
        "one", ("liver", "liver_tumor"), ("pancreas_tumor",), "g", {"image": "x"}, {"image": "00"}, ("f",)
    ),
    "b": CasePresence("two", ("spleen",), group="b"),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "label_presence.json"
    Manifest(UNIVERSAL, CASES).save(path)
    return path


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_round_trip(saved):
    manifest = Manifest.load(saved)
    assert manifest.cases == CASES
    assert manifest.taxonomy.names == UNIVERSAL.names


def test_presence_is_annotated_or_known_absent(saved):
    presence = Manifest.load(saved).presence(["b", "a"], ["liver", "spleen", "pancreas_tumor", "aorta"])
    assert presence.tolist() == [[False, True, False, False], [True, False, True, False]]


def test_a_missing_case_is_named(saved):
    with pytest.raises(UserError, match="case 'c' is missing"):
        Manifest.load(saved).presence(["c"], ["liver"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["cases"]["a"]["annotated"].append("livr"),
            "case 'a', annotated: unknown class 'livr'. Did you mean 'liver'",
        ),
        (lambda m: m["cases"]["a"]["absent"].append("liver"), "case 'a'.*annotated and absent at once"),
        (lambda m: m["cases"]["a"].update(annotated="liver"), "case 'a'.*a list of names"),
        (lambda m: m["cases"]["a"].pop("dataset"), "case 'a'.*lacks 'dataset'"),
        (lambda m: m["cases"].update(a=3), "case 'a': holds no table but 3"),
        (lambda m: m["cases"]["a"].update(anotated=[]), "case 'a': unknown key 'anotated'. Did you mean 'annotated'"),
        (lambda m: m.update(schema_version=9), "schema_version is 9"),
        (lambda m: m["classes"].append(3), "row 33: holds no table but 3"),
        (lambda m: m.pop("cases"), "lacks 'cases'"),
    ],
)
def test_edited_by_hand(saved, change, message):
    edit(saved, change)
    with pytest.raises(UserError, match=message):
        Manifest.load(saved)


def test_the_schema_in_the_documentation_is_that_of_the_code():
    published = Path(__file__).parents[1] / "docs" / "label_presence.schema.json"
    assert json.loads(published.read_text()) == json_schema(), "run 'make tables'"


def test_truncated_file(saved):
    saved.write_text(saved.read_text()[:50])
    with pytest.raises(UserError, match="is not JSON"):
        Manifest.load(saved)


def test_imports_without_torch():
    import subprocess
    import sys

    code = "import sys, nnunetv2_clip.manifest, nnunetv2_clip.labels; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def with_pseudo(tmp_path, pseudo):
    path = tmp_path / "label_presence.json"
    case = CasePresence("two", ("spleen",), ("liver_tumor",), "c", pseudo=pseudo)
    Manifest(UNIVERSAL, {**CASES, "c": case}).save(path)
    return path


def test_pseudo_labels_give_loss_by_their_weight_but_are_no_truth(tmp_path):
    manifest = Manifest.load(with_pseudo(tmp_path, {"liver": 0.25}))
    names = ["liver", "spleen", "liver_tumor", "aorta"]
    assert manifest.weights(["c", "b"], names).tolist() == [[0.25, 1, 1, 0], [0, 1, 0, 0]]
    assert manifest.presence(["c"], names).tolist() == [[False, True, True, False]]
    case = manifest.case("c")
    assert case.known == {"spleen", "liver_tumor"} and case.supervised == {"spleen", "liver_tumor", "liver"}
    assert manifest.has_pseudo_labels and "liver" in manifest.supervised_classes()
    assert manifest.count_cases()["two"] == {
        "cases": 2,
        "supervised": {"spleen": 2, "liver": 1, "liver_tumor": 1},
        "pseudo": {"liver": 1},
    }


def test_without_pseudo_labels_the_file_is_as_before_there_were_any(saved):
    assert "pseudo" not in saved.read_text()
    assert not Manifest.load(saved).has_pseudo_labels


@pytest.mark.parametrize("pseudo", [{"spleen": 0.5}, {"liver_tumor": 0.5}, {"liver": 0}, {"liver": 2}, {"liver": "x"}])
def test_a_pseudo_label_of_a_known_class_or_without_a_weight_is_refused(tmp_path, pseudo):
    with pytest.raises(UserError, match="case 'c'"):
        Manifest.load(with_pseudo(tmp_path, pseudo))


def test_a_patient_stands_in_the_file_only_where_one_is_known(tmp_path):
    """So that older versions read the others, and files of older versions are read."""
    cases = {"a": CasePresence("site", ("liver",), patient="p7"), "b": CasePresence("site", ("liver",))}
    Manifest(UNIVERSAL, cases).save(tmp_path / "label_presence.json")
    entries = json.loads((tmp_path / "label_presence.json").read_text())["cases"]
    assert entries["a"]["patient"] == "p7" and "patient" not in entries["b"]
    assert [case.patient for case in Manifest.load(tmp_path / "label_presence.json").cases.values()] == ["p7", ""]


INCOMPLETE = CasePresence("two", ("liver",), ("colon_tumor",), "c", incomplete=("liver_tumor",), pseudo={"spleen": 0.5})


def test_an_incomplete_class_gives_loss_but_its_truth_is_not_known(tmp_path):
    path = tmp_path / "label_presence.json"
    Manifest(UNIVERSAL, {**CASES, "c": INCOMPLETE}).save(path)
    manifest = Manifest.load(path)
    assert json.loads(path.read_text())["schema_version"] == 2 and manifest.case("c") == INCOMPLETE
    names = ["liver", "liver_tumor", "aorta"]
    assert manifest.weights(["c"], names).tolist() == [[1, 1, 0]]
    assert manifest.presence(["c"], names).tolist() == [[True, False, False]]
    case = manifest.case("c")
    assert case.drawn == {"liver", "liver_tumor"} and case.known == {"liver", "colon_tumor"}
    assert manifest.count_cases()["two"]["incomplete"] == {"liver_tumor": 1}
    assert manifest.count_cases()["two"]["supervised"]["liver_tumor"] == 1


def test_a_manifest_without_incomplete_classes_is_read_by_older_versions(saved):
    content = json.loads(saved.read_text())
    assert content["schema_version"] == 1 and all("incomplete" not in case for case in content["cases"].values())


def test_the_file_of_an_older_version_is_read_and_written_as_it_was(tmp_path):
    old = Path(__file__).parent / "dataset_schema_1" / "label_presence.json"
    manifest = Manifest.load(old)
    assert not any(case.incomplete for case in manifest.cases.values())
    manifest.save(tmp_path / "new.json")
    written, before = (json.loads(path.read_text()) for path in (tmp_path / "new.json", old))
    assert {**written, "created_by": ""} == {**before, "created_by": ""}


def test_an_incomplete_class_in_the_schema_before_is_not_guessed_to_be_meant(saved):
    edit(saved, lambda m: m["cases"]["b"].update(incomplete=["liver"]))
    with pytest.raises(UserError, match="case 'b': has incomplete classes, which schema_version 1 does not know"):
        Manifest.load(saved)
    edit(saved, lambda m: m.update(schema_version=2))
    assert Manifest.load(saved).case("b").incomplete == ("liver",)


@pytest.mark.parametrize("name", ["liver", "colon_tumor", "spleen", "livr"])
def test_an_incomplete_class_has_no_other_state(tmp_path, name):
    path = tmp_path / "label_presence.json"
    Manifest(UNIVERSAL, {"c": INCOMPLETE}).save(path)
    edit(path, lambda m: m["cases"]["c"]["incomplete"].append(name))
    with pytest.raises(UserError, match=f"case 'c'.*{name}"):
        Manifest.load(path)
