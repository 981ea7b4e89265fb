"""A Decathlon download of tiny images, and predictions for it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.msd.tasks import CT_TASKS, MRI_TASKS, MsdTask

SHAPE = (4, 3, 2)
# LPS-like: x and y run backwards, anisotropic, shifted
AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.8, 0, -20.5], [0, 0, 2.5, -300], [0, 0, 0, 1]])


def case_names(task: MsdTask) -> list[str]:
    stem = task.folder.split("_")[1].lower()
    return [f"{stem}_{number:03d}.nii.gz" for number in (1, 14)]


def image_shape(task: MsdTask) -> tuple[int, ...]:
    return (*SHAPE, 4) if task.folder in ("Task01_BrainTumour", "Task05_Prostate") else SHAPE


def write_download(root: Path) -> Path:
    for task in (*CT_TASKS, *MRI_TASKS):
        folder = root / task.folder / "imagesTs"
        folder.mkdir(parents=True)
        for name in case_names(task):
            image = nib.Nifti1Image(np.full(image_shape(task), -7, np.int16), AFFINE)
            image.header["descrip"] = b"scanner"
            image.header["cal_max"] = 240
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, folder / name)
            (folder / f"._{name}").write_bytes(b"macOS")
        names = [f"./imagesTs/{name}" for name in case_names(task)]
        listed = {"test": [*names, f"./imagesTs/._{case_names(task)[0]}"]}
        (folder.parent / "dataset.json").write_text(json.dumps(listed))
    return root


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_mri(root: Path) -> Path:
    """Masks of the MRI tasks as stock nnU-Net predicts them: the task's own values."""
    for task in MRI_TASKS:
        for name in case_names(task):
            mask = np.zeros(SHAPE, np.uint8)
            mask.flat[: len(task.values)] = task.values
            save(root / task.folder / name, mask)
    return root


def write_painted(folder: Path, values: list[int], per_task: bool = False) -> Path:
    """Painted universal indices, the same `values` at the beginning of every case."""
    painted = np.zeros(SHAPE, np.uint8)
    painted.flat[: len(values)] = values
    for task in CT_TASKS:
        for name in case_names(task):
            save(folder / task.folder / name if per_task else folder / name, painted)
    return folder
