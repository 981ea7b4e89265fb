"""AMOS22: CT and MRI in the same folders, a validation part with labels, prostate and uterus under one value."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path

import numpy as np

from nnunetv2_clip.files import write_json
from nnunetv2_clip.phantom.layouts.base import (
    APPLE_DOUBLE,
    Request,
    Scan,
    annotated_classes,
    numbered,
    painted,
    write_table,
)

RECIPE = numbered(
    "spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta postcava pancreas right_adrenal_gland "
    "left_adrenal_gland duodenum bladder prostate"
)
LABEL_NAMES = (
    *("background", "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach"),
    *("arota", "postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum"),  # arota: so published
    *("bladder", "prostate/uterus"),
)
TRAINING, VALIDATION = (1, 4, 5, 7, 10, 11, 14, 15, 16, 17), (8, 13, 18, 22, 29, 32, 34, 40, 41, 42)
TEST = (2, 3, 6, 9, 12, 19, 20, 21, 26, 28)
MRI = 507
META_FIELDS = (
    *("amos_id", "Patient's Birth Date", "Patient's Sex", "Patient's Age", "Manufacturer's Model Name"),
    *("Manufacturer", "Acquisition Date", "Site"),
)
CT, MR = ("Aquilion ONE", "TOSHIBA", "20200519"), ("Ingenia", "Philips Healthcare", "20190826")
TWICE = 500  # stands in the table as a CT of a man and as an MRI of a woman


def write(request: Request) -> Path:
    """Write amos22/ with its dataset.json, metadata beside it and macOS's leavings; returns amos22/.

    Option `female`: case numbers of women (default: every third case). What carries value 15 there is the uterus.
    Option `metadata`: False leaves the metadata file out, as most downloads do.
    Option `patients`: case number -> number of the same patient that has the same sex.
    """
    root = request.folder / "AMOS" / "amos22"
    female, metadata = request.option("female", None), request.option("metadata", True)
    patients = request.option("patients", {})
    lists: dict[str, list] = {"Tr": [], "Va": [], "Ts": []}
    sexes: dict[int, str] = {}
    numbers = tuple(chain(*zip(TRAINING, VALIDATION, strict=True)))
    for n, seed, labelled in request.numbers(numbers, TEST):
        scan = request.scan(seed, ("LPS", "LAS"))
        is_female = n in female if female is not None else len(sexes) % 3 == 2
        sexes[n] = "F" if is_female else "M"
        part = ("Va" if n in VALIDATION else "Tr") if labelled else "Ts"
        name = f"amos_{n:04d}"
        image = scan.save(root / f"images{part}" / f"{name}.nii.gz", scan.phantom.image)
        labels, annotated = [], set()
        if labelled:
            labels = [scan.save(root / f"labels{part}" / f"{name}.nii.gz", painted(scan.phantom, RECIPE))]
            annotated = set(annotated_classes(RECIPE)) - ({"prostate"} if is_female else set())
        request.add(name, _as_woman(scan) if is_female else scan, image, labels, annotated)
        lists[part].append(_entry(part, name))
    _write_mri(root, scan, lists["Tr"])
    _write_dataset_json(root, dict(zip(("training", "validation", "test"), lists.values(), strict=True)))
    _write_apple_double(root)
    if metadata:
        rows = [_meta_row(n, patients.get(n, n), sex, CT) for n, sex in sorted({**sexes, TWICE: "M"}.items())]
        rows += [_meta_row(n, n + 1000, sex, MR) for n, sex in ((TWICE, "F"), (MRI, "M"))]
        write_table(root.parent / "labeled_data_meta_0000_0599.csv", [META_FIELDS, *rows])
    return root


def _meta_row(n: int, patient: int, sex: str, scanner: tuple[str, str, str]) -> tuple:
    """No two patients were born on the same day."""
    born = date(1950, 1, 1) + timedelta(days=patient)
    return (n, f"{born:%Y%m%d}", sex, "055Y", *scanner, "Longgang District People's Hospital")


def _as_woman(scan: Scan) -> Scan:
    """The same scan; what was the prostate is the uterus, which is none of the 32 classes."""
    masks = {**scan.phantom.masks, "prostate": np.zeros_like(scan.phantom.masks["prostate"])}
    return replace(scan, phantom=replace(scan.phantom, masks=masks))


def _entry(part: str, name: str) -> dict:
    entry = {"image": f"./images{part}/{name}.nii.gz"}
    return entry if part == "Ts" else {**entry, "label": f"./labels{part}/{name}.nii.gz"}


def _write_mri(root: Path, scan: Scan, training: list) -> None:
    """A labelled scan that is no CT: no negative value, other contrast."""
    signal = np.clip(300 + scan.phantom.image // 2, 0, None).astype(np.int16)
    scan.save(root / "imagesTr" / f"amos_{MRI:04d}.nii.gz", signal)
    scan.save(root / "labelsTr" / f"amos_{MRI:04d}.nii.gz", painted(scan.phantom, RECIPE))
    training.append(_entry("Tr", f"amos_{MRI:04d}"))


def _write_dataset_json(root: Path, lists: dict[str, list]) -> None:
    content = {
        "name": "AMOS",
        "description": "MICCAI2022 Multi-Modality Abdominal Multi-Organ Segmentation Challenge",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(LABEL_NAMES)},
        **{f"num{key.capitalize()}": len(entries) for key, entries in lists.items()},
        **lists,
    }
    write_json(root / "dataset.json", content)


def _write_apple_double(root: Path) -> None:
    """What unpacking leaves outside macOS: a second tree of ._ files beside the first."""
    for path in sorted(root.rglob("*.nii.gz")):
        twin = root.parent / "__MACOSX" / "amos22" / path.parent.name / f"._{path.name}"
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(APPLE_DOUBLE)
