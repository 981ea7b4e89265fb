"""Custom tables: patterns, label values, the user's own classes, unknown voxels."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.conversion.patterns import find_by_pattern
from nnunetv2_clip.dataset_conversion.custom import read_table
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.phantom.anatomy import make_phantom

TABLE = """
name: mine
images: images/{case}.nii.gz
labels: labels/{case}_seg.nii.gz
values: {1: liver, 2: liver_tumor, 4: [stomach, spleen]}
"""


@pytest.fixture
def table(tmp_path):
    def write(text=TABLE, **changes):
        lines = [line for line in text.strip().splitlines() if line.split(":")[0] not in changes]
        lines += [f"{key}: {value}" for key, value in changes.items() if value is not None]
        path = tmp_path / "source" / "table.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
        return path

    return write


def decoded(nnunet, case_id, voxel):
    value = int(np.asanyarray(nib.load(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz").dataobj)[voxel])
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    return {name for name, values in labels.items() if value in np.atleast_1d(values)}


def test_values_become_classes_and_organs_are_completed(folder, table, nnunet, convert):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 2, 4)
    assert convert("--source", f"custom={table()}")[0] == 0
    assert decoded(nnunet, "mine_p1", (0, 0, 0)) == {"liver"}
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"liver", "liver_tumor"}
    assert decoded(nnunet, "mine_p1", (2, 0, 0)) == {"stomach", "spleen"}
    case = Manifest.load(nnunet.raw / "label_presence.json").case("mine_p1")
    assert case.dataset == "mine"
    assert case.annotated == ("spleen", "liver", "stomach", "liver_tumor")


def test_unannotated_class_leaves_no_voxel(folder, table, nnunet, convert):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 2, 4)
    convert("--source", f"custom={table(annotated='[liver]', absent='[kidney_tumor]')}")
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"liver"}
    assert decoded(nnunet, "mine_p1", (2, 0, 0)) == {"background"}
    case = Manifest.load(nnunet.raw / "label_presence.json").case("mine_p1")
    assert (case.annotated, case.absent) == (("liver",), ("kidney_tumor",))


def test_ignored_value_becomes_the_ignore_label_of_nnunet(folder, table, nnunet, convert):
    for number in (1, 2):
        folder.image(f"images/p{number}.nii.gz", number)
    folder.label("labels/p1_seg.nii.gz", 1, 255)
    folder.label("labels/p2_seg.nii.gz", 4, 1)
    assert convert("--source", f"custom={table(values='{1: liver, 4: [aorta, spleen, liver], 255: ignore}')}")[0] == 0
    assert decoded(nnunet, "mine_p1", (0, 0, 0)) == {"liver"}
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"ignore"}
    assert decoded(nnunet, "mine_p1", (2, 0, 0)) == {"background"}
    assert decoded(nnunet, "mine_p2", (0, 0, 0)) == {"aorta", "spleen", "liver"}
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    highest = max(value for name, values in labels.items() if isinstance(values, list) for value in values)
    assert labels["ignore"] == highest + 1
    assert list(labels)[-1] == "ignore"


def test_values_that_are_not_named_are_an_error_unless_the_table_says_otherwise(folder, table, nnunet, convert):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 9, 4)
    code, message = convert("--source", f"custom={table()}")
    assert code == 3
    assert "unknown label values [9]" in message
    shutil.rmtree(nnunet.raw)
    assert convert("--source", f"custom={table(other_values='background')}")[0] == 0
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"background"}
    assert decoded(nnunet, "mine_p1", (2, 0, 0)) == {"stomach", "spleen"}


def test_own_class_gets_a_label_value_and_a_channel(folder, table, nnunet, convert, tmp_path):
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes: [{index: 33, name: renal_vein}, {index: 34, name: unused_class}]")
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 2)
    path = table(values="{1: liver, 2: renal_vein}")
    code, message = convert("--source", f"custom={path}")
    assert code == 2
    assert "unknown class 'renal_vein'" in message
    assert convert("--source", f"custom={path}", "--taxonomy", classes)[0] == 0
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"renal_vein"}
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    values = sorted({value for values in labels.values() if isinstance(values, list) for value in values})
    assert values == list(range(1, len(values) + 1))


@pytest.fixture(scope="module")
def patient():
    return make_phantom(5, (8.0, 8.0, 10.0))


def test_a_lesion_with_a_value_of_its_own_belongs_to_the_kidney_that_it_touches(
    patient, folder, table, convert, converted
):
    masks = patient.masks
    label = np.select([masks[name] for name in ("kidney_tumor", "right_kidney", "left_kidney")], (3, 1, 2))
    folder.save("images/p1.nii.gz", patient.image, affine=patient.affine)
    folder.save("labels/p1_seg.nii.gz", label.astype(np.uint8), affine=patient.affine)
    assert convert("--source", f"custom={table(values='{1: right_kidney, 2: left_kidney, 3: kidney_tumor}')}")[0] == 0
    for name in ("right_kidney", "left_kidney", "kidney_tumor"):
        assert (converted.mask("mine_p1", name) == masks[name]).all(), name
    assert masks["kidney_tumor"].any()


def test_two_sides_under_one_value_are_split_with_their_lesions(patient, folder, table, convert, converted):
    masks = patient.masks
    kidneys = masks["right_kidney"] | masks["left_kidney"]
    label = np.select([masks["kidney_tumor"], kidneys, masks["liver"]], (2, 1, 4))
    folder.save("images/p1.nii.gz", patient.image, affine=patient.affine)
    folder.save("labels/p1_seg.nii.gz", label.astype(np.uint8), affine=patient.affine)
    values = "{1: [right_kidney, left_kidney], 2: kidney_tumor, 4: liver}"
    assert convert("--source", f"custom={table(values=values)}")[0] == 0
    for name in ("right_kidney", "left_kidney", "kidney_tumor", "liver"):
        assert (converted.mask("mine_p1", name) == masks[name]).all(), name
    assert set(converted.cases["mine_p1"].annotated) == {"right_kidney", "left_kidney", "kidney_tumor", "liver"}


def test_a_pair_is_not_split_where_the_spine_cannot_be_told_from_the_rest(patient, folder, table, convert, nnunet):
    stored = make_phantom(6, (8.0, 8.0, 10.0))
    for name, phantom, offset in (("good", patient, 0), ("stored", stored, 1024)):
        kidneys = phantom.masks["right_kidney"] | phantom.masks["left_kidney"]
        label = np.select([kidneys, phantom.masks["liver"]], (1, 2)).astype(np.uint8)
        folder.save(f"images/{name}.nii.gz", phantom.image + offset, affine=phantom.affine)
        folder.save(f"labels/{name}_seg.nii.gz", label, affine=phantom.affine)
    convert("--source", f"custom={table(values='{1: [right_kidney, left_kidney], 2: liver}')}")
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert cases["mine_good"].annotated == ("right_kidney", "left_kidney", "liver")
    assert cases["mine_stored"].annotated == ("liver",)
    assert "right_kidney and left_kidney: side unknown: no spine is seen" in cases["mine_stored"].geometry_fixes[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"values": "{1: [right_kidney, left_kidney], 2: left_kidney}"},
        {"values": "{1: [right_kidney, left_kidney]}", "modality": "MRI"},
    ],
)
def test_sides_that_cannot_be_split_are_refused(changes, table):
    with pytest.raises(UserError, match="both sides|stands for"):
        read_table(table(**changes), UNIVERSAL)


@pytest.mark.parametrize(
    ("names", "partners", "code"), [("hip_r hip_l", True, 0), ("hip_r hip_l", False, 2), ("hip_a hip_b", True, 2)]
)
def test_sides_of_own_classes_under_one_value(
    patient, folder, table, convert, converted, tmp_path, names, partners, code
):
    """Split as a pair, or refused; never is a voxel on both sides."""
    right, left = names.split()
    partner = [f", partner: {name}" if partners else "" for name in (left, right)]
    rows = [f"{{index: {33 + i}, name: {name}{partner[i]}}}" for i, name in enumerate((right, left))]
    (tmp_path / "classes.yaml").write_text(f"classes: [{', '.join(rows)}]")
    heads = {right: patient.masks["right_femur_head"], left: patient.masks["left_femur_head"]}
    folder.save("images/p1.nii.gz", patient.image, affine=patient.affine)
    folder.save("labels/p1_seg.nii.gz", (heads[right] | heads[left]).astype(np.uint8), affine=patient.affine)
    path = table(values=f"{{1: [{right}, {left}]}}")
    found, text = convert("--source", f"custom={path}", "--taxonomy", tmp_path / "classes.yaml")
    assert found == code, text
    if code:
        assert f"{right}" in text and ("partner:" in text if not partners else "side: right" in text)
    else:
        assert all((converted.mask("mine_p1", name) == mask).all() for name, mask in heads.items())


def test_alias_is_as_good_as_the_name(table):
    source, _ = read_table(table(values="{1: inferior vena cava}"), UNIVERSAL)
    assert source.annotated == ("postcava",)


def test_root_is_relative_to_the_table(table):
    path = table(root="data")
    assert read_table(path, UNIVERSAL)[1] == path.parent / "data"


def test_one_volume_needs_no_placeholder(folder, table):
    image, label = folder.image("ct.nii.gz", 1), folder.label("labels.nii.gz", 1)
    source, root = read_table(table(images="ct.nii.gz", labels="labels.nii.gz"), UNIVERSAL)
    (case,) = source.find_cases(root)
    assert (case.case_id, case.image, case.labels) == ("mine", image, {"label": label})


def test_placeholder_and_star(tmp_path):
    for name in ("s1/s1_ct.nii.gz", "s2/s2_ct.nii.gz", "s3/other_ct.nii.gz", "s1/._s1_ct.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_by_pattern(tmp_path, "{case}/{case}_ct.nii.gz")) == ["s1", "s2"]
    assert list(find_by_pattern(tmp_path, "{case}/*_ct.nii.gz")) == ["s1", "s2", "s3"]
    with pytest.raises(UserError, match="are both case 's1'"):
        (tmp_path / "s1/second_ct.nii.gz").touch()
        find_by_pattern(tmp_path, "{case}/*_ct.nii.gz")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"values": "{1: livr}"}, "unknown class 'livr'. Did you mean 'liver'"),
        ({"annotated": "[splen]"}, "Did you mean 'spleen'"),
        ({"annotated": "[aorta]"}, "no label value or mask stands for it"),
        ({"absent": "[liver]"}, "annotated and absent at once"),
        ({"values": None}, "lacks .'values'."),
        ({"values": "{liver: 1}"}, "label value 'liver': 'liver'.*label value -> class, values from 0 on"),
        ({"values": "{1: 2}"}, "stands for 2"),
        ({"values": "{1: [3]}"}, "stands for .3."),
        ({"values": "[]"}, "a table label value -> class"),
        ({"values": "{1: ignore}"}, "no class is annotated"),
        ({"label": "x.nii.gz"}, "unknown key 'label'. Did you mean 'labels'"),
        ({"images": "images/{case}.png"}, "images: "),
        ({"images": "/abs/{case}.nii.gz"}, "images: "),
        ({"other_values": "liver"}, "other_values: 'liver'"),
        ({"name": "a b"}, "name: 'a b'"),
        ({"name": "[1"}, "cannot be read as YAML"),
    ],
)
def test_mistake_in_the_table_is_named(table, changes, message):
    path = table(**changes)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path, UNIVERSAL)
    assert str(path) in str(caught.value)


def test_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml"):
        read_table(tmp_path / "nowhere.yaml", UNIVERSAL)


def test_name_of_a_public_dataset_is_refused(table, convert):
    code, message = convert("--source", f"custom={table(name='msd_liver')}")
    assert code == 2
    assert "is that of a public dataset" in message


def test_the_modality_names_the_channel(folder, table, nnunet, convert):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1)
    assert convert("--source", f"custom={table(modality='MRI')}")[0] == 0
    assert json.loads((nnunet.raw / "dataset.json").read_text())["channel_names"] == {"0": "MRI"}


def test_two_modalities_do_not_become_one_dataset(folder, table, nnunet, convert):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1)
    path = table(modality="MRI")
    (path.parent / "other.yaml").write_text(TABLE.replace("name: mine", "name: other"))
    code, text = convert("--source", f"custom={path}", "--source", f"custom={path.parent / 'other.yaml'}")[:2]
    assert code == 2
    assert "CT and MRI" in text
    assert not (nnunet.raw / "imagesTr").exists()


NAMES = tuple(f"pat{patient}_t{time}" for patient in range(4) for time in (0, 1))


@pytest.fixture
def patients(folder):
    """patients(key: text) writes two scans of each of four patients and a table with these keys."""

    def write(**keys):
        for seed, name in enumerate(NAMES):
            folder.image(f"images/{name}.nii.gz", seed)
            folder.label(f"labels/{name}.nii.gz", 1)
        lines = ["name: k", "images: images/{case}.nii.gz", "labels: labels/{case}.nii.gz", "values: {1: liver}"]
        table = folder.path / "k.yaml"
        table.write_text("\n".join([*lines, *(f"{key}: '{text}'" for key, text in keys.items())]))
        return f"custom={table}"

    return write


@pytest.mark.parametrize("expression", ["^[^_]+", r"pat(\d)", r"(x)?pat\d"])
def test_scans_of_one_patient_stand_in_one_fold(expression, patients, convert, converted, nnunet):
    assert convert("--source", patients(patient=expression))[0] == 0
    folds = json.loads((nnunet.raw / "splits_final.json").read_text())
    assert any(fold["val"] for fold in folds)
    for fold in folds:
        held_out = {case_id[:6] for case_id in fold["val"]}
        assert set(fold["val"]) == {f"k_{name}" for name in NAMES if f"k_{name}"[:6] in held_out}
    assert len({case.group for case in converted.cases.values()}) == 4
    assert {case.patient[-1] for case in converted.cases.values()} == set("0123")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(", "Expected: a regular expression"),
        ("pat[0-2]", "finds no patient in pat3_t0, pat3_t1"),
        ("", "finds no patient in pat0_t0"),
    ],
)
def test_an_expression_that_does_not_tell_every_patient_is_refused(expression, words, patients, convert):
    code, message = convert("--source", patients(patient=expression))
    assert code == 2 and words in message


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("pat0_t0", "pat0_t1"), True),
        (("12-baseline", "12-followup"), True),
        (("case_1", "case_2"), False),
        (("liver_0", "liver_1"), False),
        (("scan1", "scan2"), False),
        (("p1_t0", "p2_t0"), False),
        (("Case_00001", "Case_00002"), False),
        (("2020_01_01", "2020_01_02"), False),
    ],
)
def test_names_that_suggest_one_patient_give_a_hint(names, hint, folder):
    for seed, name in enumerate(names):
        folder.image(f"images/{name}.nii.gz", seed)
        folder.label(f"labels/{name}.nii.gz", 1)
    path = folder.path / "k.yaml"
    path.write_text("name: k\nimages: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\nvalues: {1: liver}\n")
    source, root = read_table(path, UNIVERSAL)
    assert len(source.remarks(root, source.find_cases(root))) == hint
    path.write_text(path.read_text() + "patient: .*\n")
    source, root = read_table(path, UNIVERSAL)
    assert source.remarks(root, source.find_cases(root)) == []


def test_convert_prints_the_hint_and_reports_it(patients, nnunet, capsys):
    assert main(["convert", "-d", "900", "-np", "1", "--source", patients()]) == 0
    assert "pat0_t0 and pat0_t1 may be one patient" in capsys.readouterr().out
    assert "k: pat0_t0 and" in json.loads((nnunet.raw / "conversion_report.json").read_text())["warnings"][0]


def test_cases_that_the_table_leaves_out_are_not_converted(patients, convert, converted):
    table = Path(patients().removeprefix("custom="))
    table.write_text(table.read_text() + "\nleft_out: {pat0_t0: wrong organ}\n")
    assert convert("--source", f"custom={table}")[0] == 0
    assert set(converted.cases) == {f"k_{name}" for name in NAMES[1:]}


def test_incomplete_classes_of_all_cases_and_of_one(folder, table, nnunet, convert):
    for number in (1, 2):
        folder.image(f"images/p{number}.nii.gz", number)
        folder.label(f"labels/p{number}_seg.nii.gz", 1, 2, 4)
    path = table(
        values="{1: liver, 2: liver_tumor, 4: spleen}", incomplete="[liver_tumor]", incomplete_in="{p2: [spleen]}"
    )
    assert convert("--source", f"custom={path}")[0] == 0
    first, second = Manifest.load(nnunet.raw / "label_presence.json").cases.values()
    assert (first.annotated, first.incomplete) == (("spleen", "liver"), ("liver_tumor",))
    assert (second.annotated, second.incomplete) == (("liver",), ("spleen", "liver_tumor"))
    assert decoded(nnunet, "mine_p2", (1, 0, 0)) == {"liver", "liver_tumor"}, "what is drawn of a tumour is organ too"
    assert decoded(nnunet, "mine_p2", (2, 0, 0)) == {"spleen"}


def test_both_sides_of_an_incomplete_pair_are_split(patient, folder, table, convert, converted):
    kidneys = patient.masks["right_kidney"] | patient.masks["left_kidney"]
    folder.save("images/p1.nii.gz", patient.image, affine=patient.affine)
    label = np.select([kidneys, patient.masks["liver"]], (1, 2)).astype(np.uint8)
    folder.save("labels/p1_seg.nii.gz", label, affine=patient.affine)
    path = table(values="{1: [right_kidney, left_kidney], 2: liver}", incomplete="[right_kidney, left_kidney]")
    assert convert("--source", f"custom={path}")[0] == 0
    case = converted.cases["mine_p1"]
    assert (case.annotated, case.incomplete) == (("liver",), ("right_kidney", "left_kidney"))
    assert (converted.mask("mine_p1", "left_kidney") == patient.masks["left_kidney"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incomplete": "[liver]", "annotated": "[liver]"}, "liver.*incomplete and annotated or absent at once"),
        ({"incomplete": "[liver]", "absent": "[liver]"}, "liver.*incomplete and annotated or absent at once"),
        ({"incomplete": "[aorta]"}, "incomplete names .'aorta'., but no label value"),
        ({"absent": "[aorta]", "incomplete_in": "{p1: [aorta]}"}, "'aorta'.*incomplete in case 'p1', but absent"),
        ({"incomplete_in": "{p1: [aorta]}"}, "'aorta'.*incomplete in case 'p1', but not annotated"),
        ({"incomplete_in": "{p1: liver}"}, "holds no list but 'liver'|a list of names"),
        ({"incomplete_in": "{p11: [liver]}"}, "names the case 'p11', which is not there. Did you mean 'p1'"),
    ],
)
def test_a_wrong_incomplete_class_names_table_and_case(folder, table, convert, changes, message):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 2)
    code, text = convert("--source", f"custom={table(**changes)}")
    assert code == 2 and re.search(message, text), text


def test_a_value_may_leave_some_classes_unknown(folder, table, nnunet, convert):
    """9: spleen, where nobody looked for the liver; 8: a slab in which the liver was not drawn."""
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 9, 8)
    values = "{1: liver, 4: spleen, 8: {unknown: liver}, 9: {classes: [spleen], unknown: [liver]}}"
    assert convert("--source", f"custom={table(values=values)}")[0] == 0
    content = json.loads((nnunet.raw / "dataset.json").read_text())
    voxels = np.asanyarray(nib.load(nnunet.raw / "labelsTr" / "mine_p1.nii.gz").dataobj)[:3, 0, 0].tolist()
    assert content["unknown"] == {"liver": sorted(voxels[1:])} and "ignore" not in content["labels"]
    assert decoded(nnunet, "mine_p1", (0, 0, 0)) == {"liver"}
    assert decoded(nnunet, "mine_p1", (1, 0, 0)) == {"spleen"}
    assert decoded(nnunet, "mine_p1", (2, 0, 0)) == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"values": "{1: liver, 8: {unknown: [spleen]}}"},
            "8 says that .'spleen'. are unknown there, but no case",
        ),
        ({"values": "{1: liver, 8: {unknown: [liver]}}", "incomplete": "[liver]"}, "value 8 says that .'liver'."),
        ({"values": "{1: liver, 8: {classes: liver, unknown: liver}}"}, "classes that are there, and others"),
        ({"values": "{1: liver, 8: {unknwon: liver}}"}, "label value 8"),
    ],
)
def test_unknown_voxels_of_a_class_that_no_case_annotates_are_refused(folder, table, convert, changes, message):
    folder.image("images/p1.nii.gz", 1)
    folder.label("labels/p1_seg.nii.gz", 1, 8)
    code, text = convert("--source", f"custom={table(**changes)}")
    assert code == 2 and re.search(message, text), text


def test_two_sides_under_one_value_are_split_where_another_class_is_unknown(patient, folder, table, convert, converted):
    kidneys = patient.masks["right_kidney"] | patient.masks["left_kidney"]
    folder.save("images/p1.nii.gz", patient.image, affine=patient.affine)
    label = np.select([kidneys, patient.masks["liver"]], (1, 2)).astype(np.uint8)
    folder.save("labels/p1_seg.nii.gz", label, affine=patient.affine)
    values = "{1: {classes: [right_kidney, left_kidney], unknown: liver}, 2: liver}"
    assert convert("--source", f"custom={table(values=values)}")[0] == 0
    assert (converted.mask("mine_p1", "left_kidney") == patient.masks["left_kidney"]).all()
