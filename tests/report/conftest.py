"""A tiny study: two cases of two partly labelled datasets, images, painted predictions, references, manifest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest

SHAPE = (8, 6, 4)
# RAS, so that array axes are the body's: x to the right, y to the front, z to the head
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
TABLE = LabelTable.of()


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def study(tmp_path):
    """case_a annotates liver and its tumour, case_b the spleen (empty, and empty in the prediction)."""
    root = tmp_path / "study"
    for case_id in ("case_a", "case_b"):
        save(root / "images" / f"{case_id}_0000.nii.gz", np.full(SHAPE, 40, np.int16))
    # liver 16 voxels; the reference has a tumour of 4 in it, the prediction one of 2
    reference = np.zeros(SHAPE, np.uint8)
    reference[2:6, 1:5, 1] = TABLE.encode({"liver"})
    reference[2:4, 1:3, 1] = TABLE.encode({"liver", "liver_tumor"})
    painted = np.zeros(SHAPE, np.uint8)
    painted[2:6, 1:5, 1] = 6
    painted[2:4, 1, 1] = 27
    save(root / "raw" / "labelsTr" / "case_a.nii.gz", reference)
    save(root / "predictions" / "case_a.nii.gz", painted)
    save(root / "raw" / "labelsTr" / "case_b.nii.gz", np.zeros(SHAPE, np.uint8))
    save(root / "predictions" / "case_b.nii.gz", painted)
    labels, order = nnunet_labels(TABLE, UNIVERSAL, ["liver", "liver_tumor", "spleen", "pancreas"], ignore=False)
    dataset_json = {"labels": labels, "regions_class_order": order, "file_ending": ".nii.gz"}
    (root / "raw" / "dataset.json").write_text(json.dumps(dataset_json))
    cases = {
        "case_a": CasePresence("msd_liver", ("liver", "liver_tumor")),
        "case_b": CasePresence("msd_spleen", ("spleen",)),
    }
    Manifest(UNIVERSAL, cases).save(root / "raw" / "label_presence.json")
    return SimpleNamespace(
        root=root,
        images=root / "images",
        predictions=root / "predictions",
        references=root / "raw" / "labelsTr",
        raw=root / "raw",
    )
