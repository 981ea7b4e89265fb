"""Small label files for the tests of the evaluation."""

from pathlib import Path

import nibabel
import numpy as np

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.evaluation.volumes import LabelVolume
from nnunetv2_clip.imaging.nifti import Geometry
from nnunetv2_clip.labels import IGNORE, LabelTable, label_sets, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest

TABLE = LabelTable.of()
INDEX = {row.name: row.index for row in UNIVERSAL}


def grid(shape: tuple, spacing_mm: tuple = (1, 1, 1)) -> Geometry:
    return Geometry(tuple(shape), np.diag([*spacing_mm, 1.0]))


def volume(label_map: np.ndarray, ignore: int | None = None, spacing_mm: tuple = (1, 1, 1), **values) -> LabelVolume:
    labels = values if ignore is None else {**values, IGNORE: ignore}
    return LabelVolume(label_map, label_sets(labels), grid(label_map.shape, spacing_mm))


def row(*values: int) -> np.ndarray:
    """(n, 1, 1) label map of the values in a row."""
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def save(label_map: np.ndarray, path: Path, spacing_mm: tuple = (1, 1, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(label_map, np.diag([*spacing_mm, 1.0])), path)
    return path


def dataset_json(*names: str, ignore: bool = False) -> dict:
    labels, order = nnunet_labels(TABLE, UNIVERSAL, names, ignore)
    return {"labels": labels, "regions_class_order": order, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}


def manifest(**cases: CasePresence) -> Manifest:
    return Manifest(UNIVERSAL, cases)


def presence(*annotated: str, absent: tuple = (), dataset: str = "drawn", **other) -> CasePresence:
    return CasePresence(dataset, tuple(annotated), tuple(absent), **other)
