"""Predict the Decathlon's CT test images with a trained model, each task with its own classes and label values."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.export.msd import check_model_knows, check_universal_model, refuse
from nnunetv2_clip.export.msd_masks import READ_ERRORS, BadMask, open_image
from nnunetv2_clip.export.msd_tasks import CT_TASKS, FILE_ENDING, MsdTask, TestImage, test_images
from nnunetv2_clip.manifest import read_json, write_json
from nnunetv2_clip.model_files import taxonomy_beside

RECORD = "predictions_of.json"


def is_model_folder(folder: Path) -> bool:
    """A trained model (as nnUNetv2_train leaves it), in contrast to predictions, beside which nnU-Net copies plans."""
    return all((folder / name).is_file() for name in ("plans.json", "dataset.json")) and any(folder.glob("fold_*"))


def predict_tasks(
    model_folder: Path,
    msd_root: Path,
    predictions: Path,
    folds: Sequence[str] | None,
    checkpoint: str,
    device: str,
    processes: int = 1,
) -> None:
    """Fill `predictions`/<task> with the label maps (task values) of every CT task's test images.

    Each task is predicted with its own classes alone, so that overlaps which a universal label map hides
    (a hepatic vessel below a liver tumour) do not touch it.
    A second call goes on where the first was interrupted, and refuses a folder that another model has filled.

    Raises:
        UserError: the model lacks a class or a fold, test images are missing, or the folder belongs to another model.
    """
    labels = check_universal_model(model_folder / "dataset.json", taxonomy_beside(model_folder))
    check_model_knows(labels, CT_TASKS, model_folder)
    checkpoints = _checkpoints(model_folder, folds, checkpoint)
    images = {task.folder: _existing_images(msd_root, task) for task in CT_TASKS}
    _claim(predictions, model_folder, checkpoints)
    for task in tqdm(CT_TASKS, "tasks", unit="task"):
        folder = predictions / task.folder
        folder.mkdir(parents=True, exist_ok=True)
        waiting = [image for image in images[task.folder] if not _is_whole(folder / image.name)]
        if waiting:
            _predict(model_folder, task, waiting, folder, folds, checkpoint, device, processes)


def _checkpoints(model_folder: Path, folds: Sequence[str] | None, checkpoint: str) -> list[Path]:
    there = sorted(model_folder.glob(f"fold_*/{checkpoint}"))
    wanted = [model_folder / f"fold_{fold}" / checkpoint for fold in folds] if folds else there
    missing = [path.relative_to(model_folder).as_posix() for path in wanted if path not in there]
    if missing or not wanted:
        names = [path.relative_to(model_folder).as_posix() for path in sorted(model_folder.glob("fold_*/*.pth"))]
        raise UserError(
            model_folder,
            f"has no {', '.join(missing) or checkpoint}",
            f"one of {names}",
            "choose folds with -f and the checkpoint's name with -chk",
        )
    return wanted


def _existing_images(msd_root: Path, task: MsdTask) -> list[TestImage]:
    images = list(test_images(msd_root, task))
    missing = [f"{image.label}: the test image {image.path} is missing" for image in images if not image.path.is_file()]
    refuse(missing, msd_root)
    return images


def _claim(predictions: Path, model_folder: Path, checkpoints: Iterable[Path]) -> None:
    """Write down whose predictions the folder holds, or see that they are the same model's."""
    stats = [(path, path.stat()) for path in checkpoints]
    record = {
        "model": str(model_folder.resolve()),
        "checkpoints": [[path.relative_to(model_folder).as_posix(), s.st_size, s.st_mtime_ns] for path, s in stats],
    }
    path = predictions / RECORD
    if predictions.is_dir() and any(predictions.iterdir()):
        found = read_json(path, "choose another -o") if path.is_file() else None
        if found != record:
            raise UserError(
                predictions,
                "holds files of another model, or of other checkpoints or folds",
                "an empty folder, or the beginning of the same predictions",
                "remove the folder, or choose another -o",
            )
    write_json(path, record)


def _is_whole(path: Path) -> bool:
    """An interrupted run may leave half a file."""
    try:
        np.asanyarray(open_image(path).dataobj)
    except (BadMask, *READ_ERRORS):
        return False
    return True


def _predict(
    model_folder: Path,
    task: MsdTask,
    images: Sequence[TestImage],
    folder: Path,
    folds: Sequence[str] | None,
    checkpoint: str,
    device: str,
    processes: int,
) -> None:
    from nnunetv2_clip.inference.restricted import load_predictor

    predictor = load_predictor(model_folder, tuple(task.classes), dict(task.classes), folds, checkpoint, device)
    predictor.predict_from_files(
        [[str(image.path)] for image in images],
        [str(folder / image.name[: -len(FILE_ENDING)]) for image in images],
        num_processes_preprocessing=processes,
        num_processes_segmentation_export=processes,
    )


def remove_predictions(predictions: Path) -> None:
    """Once the zip is there, the folder has served."""
    shutil.rmtree(predictions, ignore_errors=True)
