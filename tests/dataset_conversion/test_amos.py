"""AMOS22: prostate only where the table of patients says male; no MRI."""

import json
import shutil

import pytest

from nnunetv2_clip.dataset_conversion.amos import Patient, read_patients
from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (10.0, 10.0, 12.0)}
TABLE = "labeled_data_meta_0000_0599.csv"


@pytest.fixture
def amos(tmp_path):
    return lambda **options: write_source("amos22", tmp_path / "amos", [1, 2], **SMALL, **options)


def with_prostate(converted):
    return {case_id for case_id, case in converted.cases.items() if "prostate" in case.annotated}


def test_uterus_is_no_prostate(amos, convert, converted):
    source = amos(female=(8,))
    assert convert("--source", f"amos22={source.root}")[0] == 0
    assert set(converted.cases) == {"amos22_0001", "amos22_0008"}
    assert with_prostate(converted) == {"amos22_0001"}
    assert not converted.mask("amos22_0008", "prostate").any()
    assert converted.mask("amos22_0001", "prostate").any()
    assert "the patient's sex is female" in converted.cases["amos22_0008"].geometry_fixes[0]


def test_without_the_table_no_prostate_is_annotated(amos, convert, converted):
    assert convert("--source", f"amos22={amos(metadata=False).root}")[0] == 0
    assert with_prostate(converted) == set()
    assert "the patient's sex is unknown" in converted.cases["amos22_0001"].geometry_fixes[0]


def test_as_in_the_paper_every_patient_has_a_prostate(amos, convert, converted, capsys):
    assert convert("--source", f"amos22={amos(female=(8,)).root}", "--as-paper")[0] == 0
    assert with_prostate(converted) == {"amos22_0001", "amos22_0008"}
    assert converted.mask("amos22_0008", "prostate").any()


def test_table_may_lie_in_the_folder_and_a_new_one_is_used(amos, convert, converted):
    source = amos(female=())
    table = source.root.parent / TABLE
    shutil.move(table, source.root / TABLE)
    convert("--source", f"amos22={source.root}")
    assert with_prostate(converted) == {"amos22_0001", "amos22_0008"}
    (source.root / TABLE).write_text("\ufeffamos_id,Patient's Sex\namos_0001,Male\n8,\n")
    convert("--source", f"amos22={source.root}")
    assert with_prostate(converted) == {"amos22_0001"}


def test_another_table_is_refused(amos, convert):
    source = amos()
    (source.root.parent / TABLE).write_text("number,age\n1,70\n")
    code, message = convert("--source", f"amos22={source.root}")
    assert code == 2
    assert "columns ['number', 'age']" in message


FULL = "amos_id,Patient's Birth Date,Patient's Sex,Manufacturer's Model Name\n"


@pytest.mark.parametrize(
    ("rows", "sex", "born"),
    [
        ("500,19500101,M,Aquilion ONE\n500,19600101,F,Ingenia\n", "male", "19500101"),  # as published
        ("500,19500101,M,Aquilion ONE\n500,19500101,F,Brilliance16\n", "unknown", "19500101"),
        ("500,19500101,M,Aquilion ONE\n500,19600101,M,Brilliance16\n", "male", ""),
        ("500,19500101,M,\n", "male", "19500101"),
    ],
)
def test_rows_of_mr_do_not_count_and_what_rows_contradict_is_unknown(rows, sex, born, tmp_path):
    (tmp_path / "t.csv").write_text(FULL + rows)
    assert read_patients(tmp_path / "t.csv") == {500: Patient(sex, born)}


@pytest.mark.parametrize("row", ["500,19500101,M,Aquilion ONE,more,cells\n", "500,19500101,M\n", "500\n"])
def test_rows_of_another_length_are_read_as_far_as_they_go(row, tmp_path):
    for head in (FULL, "amos_id,Patient's Sex\n"):
        (tmp_path / "t.csv").write_text(head + row)
        assert set(read_patients(tmp_path / "t.csv")) == {500}


def test_a_number_with_an_mr_row_alone_is_unknown(tmp_path):
    (tmp_path / "t.csv").write_text(f"{FULL}500,19600101,F,Ingenia\n")
    assert read_patients(tmp_path / "t.csv") == {}


@pytest.mark.parametrize("female", [(), (8,)])
def test_one_patient_under_two_numbers_never_stands_in_two_folds(female, convert, converted, nnunet, tmp_path):
    """Numbers 1 and 8, 4 and 13 have one date of birth each; a man and a woman are two patients."""
    options = {"patients": {8: 1, 13: 4}, "female": female, **SMALL}
    source = write_source("amos22", tmp_path / "amos", range(1, 6), **options)
    assert convert("--source", f"amos22={source.root}")[0] == 0
    group = {int(case_id[-4:]): case.group for case_id, case in converted.cases.items()}
    assert set(group) == {1, 4, 5, 8, 13}
    assert (group[1] == group[8]) is not bool(female)
    assert group[4] == group[13] != group[5]
    for fold in json.loads((nnunet.raw / "splits_final.json").read_text()):
        train, val = ({group[int(case_id[-4:])] for case_id in fold[side]} for side in ("train", "val"))
        assert val and not train & val


def test_packages_of_the_challenge_have_no_validation_labels(amos, convert, converted):
    source = amos()
    shutil.rmtree(source.root / "labelsVa")
    assert convert("--source", f"amos22={source.root}")[0] == 0
    assert set(converted.cases) == {"amos22_0001"}
