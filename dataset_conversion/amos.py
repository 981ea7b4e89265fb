"""AMOS22, CT part: its table of patients tells prostate from uterus (label 15), and who has several numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_clip.conversion.source import PairedSource, SourceCase, read_rows
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import ClassMap

METADATA, METADATA_FILES = "metadata", "labeled_data_meta*.csv"
# Number, sex, date of birth, scanner.
COLUMNS = (r"\bamos_id\b|^id$", r"\b(sex|gender)\b", r"\bbirth", r"\bmodel\b")
MR_SCANNERS = {"ingenia", "achieva", "prisma", "signa hde"}
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
LABELS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "duodenum",
    "bladder",
    "prostate",
)


@dataclass(frozen=True)
class Patient:
    """What the table tells of a case.

    Attributes:
        sex: "male", "female" or "unknown".
        born: date of birth as the table writes it; empty where it is not known.
    """

    sex: str = "unknown"
    born: str = ""


@dataclass(frozen=True)
class AmosSource(PairedSource):
    """Images and labels by name; the table of patients lies in the folder or beside it."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        cases = super().find_cases(root)
        tables = [path for folder in (root, root.absolute().parent) for path in sorted(folder.glob(METADATA_FILES))]
        if not tables:
            return cases
        read_patients(tables[0])
        return [replace(case, labels={**case.labels, METADATA: tables[0]}) for case in cases]

    def check_case(self, case: SourceCase) -> None:
        super().check_case(replace(case, labels={"label": case.labels["label"]}))

    def patient_of(self, case: SourceCase) -> str:
        """The lowest number of equal date of birth and sex: one patient has several numbers."""
        patients = read_patients(case.labels[METADATA]) if METADATA in case.labels else {}
        own = patients.get(case.number, Patient())
        return str(min(number for number, patient in patients.items() if patient == own)) if own.born else ""

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        patients = read_patients(case.labels[METADATA]) if METADATA in case.labels else {}
        sex = patients.get(case.number, Patient()).sex
        return {} if sex == "male" else {"prostate": f"the patient's sex is {sex}, and label 15 is prostate or uterus"}


def read_patients(path: Path) -> dict[int, Patient]:
    """Case number -> its patient. Rows of MR scanners do not count; of rows that differ, what they agree about does.

    Raises:
        UserError: the table has no column of numbers or none of sexes.
    """
    rows = read_rows(path, "AMOS's table of patients")
    columns = list(rows[0]) if rows else []
    number, sex, born, scanner = (_column(columns, words) for words in COLUMNS)
    if number is None or sex is None:
        expected = "columns such as amos_id and Patient's Sex"
        raise UserError(path, f"has the columns {columns}", expected, "download it again, or move it away")
    found: dict[int, list[Patient]] = defaultdict(list)
    for row in rows:
        case, word, day, model = ((row[name] or "").strip() if name else "" for name in (number, sex, born, scanner))
        digits = re.search(r"\d+$", case)
        if digits and model.lower() not in MR_SCANNERS:
            found[int(digits[0])].append(Patient(SEXES.get(word.lower(), Patient.sex), day))
    return {case: _agreed(patients) for case, patients in found.items()}


def _column(columns: list[str], words: str) -> str | None:
    """The first column whose name fits."""
    return next((name for name in columns if re.search(words, name or "", re.IGNORECASE)), None)


def _agreed(patients: list[Patient]) -> Patient:
    sexes, days = {patient.sex for patient in patients}, {patient.born for patient in patients}
    return Patient(sexes.pop() if len(sexes) == 1 else Patient.sex, days.pop() if len(days) == 1 else Patient.born)


SOURCES = (
    AmosSource(
        name="amos22",
        title="AMOS22, Multi-Modality Abdominal Multi-Organ Segmentation Challenge 2022, CT part",
        licence="CC BY 4.0 (Zenodo; CC BY-SA 4.0 in its dataset.json)",
        url="https://zenodo.org/records/7262581",
        unpack="the folder amos22 with imagesTr, labelsTr, imagesVa, labelsVa; in it or beside it the table "
        "labeled_data_meta_0000_0599.csv, without which no prostate is annotated and no patient is known",
        num_cases=300,
        label_table={value: (name,) for value, name in enumerate(LABELS, start=1)},
        annotated=LABELS,
        as_in_paper="label 15 is prostate in every patient, also where it is a uterus or the sex is not known",
        # Numbers above 500 are MRI.
        image=r"(.*/)?images(Tr|Va)/amos_(?P<case>0[0-4]\d\d|0500)",
        label=r"(.*/)?labels(Tr|Va)/amos_(?P<case>0[0-4]\d\d|0500)",
        test_folders=("imagesVa",),  # the packages of the challenge had no labelsVa
    ),
)
