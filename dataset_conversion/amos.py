"""AMOS22, CT part: its label 15 is the prostate or the uterus, which only the patient's sex tells apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_clip.conversion.source import PairedSource, SourceCase, read_rows
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import ClassMap

METADATA, METADATA_FILES = "metadata", "labeled_data_meta*.csv"
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
class AmosSource(PairedSource):
    """Images and labels by name; the table of patients lies in the folder or beside it."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        cases = super().find_cases(root)
        tables = [path for folder in (root, root.absolute().parent) for path in sorted(folder.glob(METADATA_FILES))]
        if not tables:
            return cases
        read_sexes(tables[0])
        return [replace(case, labels={**case.labels, METADATA: tables[0]}) for case in cases]

    def check_case(self, case: SourceCase) -> None:
        super().check_case(replace(case, labels={"label": case.labels["label"]}))

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        sexes = read_sexes(case.labels[METADATA]) if METADATA in case.labels else {}
        sex = sexes.get(case.number, "unknown")
        return {} if sex == "male" else {"prostate": f"the patient's sex is {sex}, and label 15 is prostate or uterus"}


def read_sexes(path: Path) -> dict[int, str]:
    """Case number -> "male" or "female", for the cases of which the table tells it.

    Raises:
        UserError: the table has no column of numbers or none of sexes.
    """
    rows = read_rows(path, "AMOS's table of patients")
    columns = list(rows[0]) if rows else []
    number = next((name for name in columns if re.search(r"\bamos_id\b|^id$", name or "", re.IGNORECASE)), None)
    sex = next((name for name in columns if re.search(r"\b(sex|gender)\b", name or "", re.IGNORECASE)), None)
    if number is None or sex is None:
        expected = "columns such as amos_id and Patient's Sex"
        raise UserError(path, f"has the columns {columns}", expected, "download it again, or move it away")
    sexes: dict[int, str] = {}
    for row in rows:
        digits = re.search(r"\d+$", (row[number] or "").strip())
        word = SEXES.get((row[sex] or "").strip().lower())
        if digits and word:
            sexes[int(digits[0])] = word
    return sexes


SOURCES = (
    AmosSource(
        name="amos22",
        title="AMOS22, Multi-Modality Abdominal Multi-Organ Segmentation Challenge 2022, CT part",
        licence="CC BY 4.0 (Zenodo; CC BY-SA 4.0 in its dataset.json)",
        url="https://zenodo.org/records/7262581",
        unpack="the folder amos22 with imagesTr, labelsTr, imagesVa, labelsVa; in it or beside it the table "
        "labeled_data_meta_0000_0599.csv, without which no prostate is annotated",
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
