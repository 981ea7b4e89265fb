"""The files of a model that others need, below DATASET/TRAINER__PLANS__CONFIGURATION as nnU-Net's zips have them.

Neither logs nor fingerprints are among them: they hold paths of the training machine and facts about single patients.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from nnunetv2_clip.files import replacing, write_json
from nnunetv2_clip.report.model_info import SUMMARY, is_named_as_trained
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON, TrainedModel, weights_file
from nnunetv2_clip.training.pretrained import read_checkpoint
from nnunetv2_clip.training.progress_picture import CURVES_FILE

CARD = "README.md"
OF_FILES = ("prediction_file", "reference_file")  # in nnU-Net's summary.json: paths of the training machine


def write_model_files(model: TrainedModel, folds: Sequence[str], checkpoint: str, root: Path) -> Path:
    """Tables, weights, validation scores and curves of these folds; returns the model's folder below `root`.

    Raises:
        UserError: a file is missing or damaged, or weights that are not those of the plans.
    """
    with model.on_disk(folds, checkpoint) as source:
        checkpoints = {weights_file(fold, checkpoint): source / weights_file(fold, checkpoint) for fold in folds}
        folder = (
            root / Path(str(model.plans["dataset_name"])).name / _folder_name(model, next(iter(checkpoints.values())))
        )
        folder.mkdir(parents=True)
        for name in (PLANS_JSON, DATASET_JSON):
            shutil.copyfile(source / name, folder / name)
        for name, path in checkpoints.items():
            content = read_checkpoint(path)
            model.check_weights(model.label(name), content["network_weights"])
            (folder / name).parent.mkdir()
            torch.save(without_optimizer_state(content), folder / name)
    for fold in folds:
        if (name := f"fold_{fold}/{SUMMARY}") in model.files:
            write_json(folder / name, without_paths(model.read_json(name)))
        if (name := f"fold_{fold}/{CURVES_FILE}") in model.files:
            write_json(folder / name, model.read_json(name))
    return folder


def _folder_name(model: TrainedModel, checkpoint: Path) -> str:
    """TRAINER__PLANS__CONFIGURATION, by which nnU-Net finds a model; its folder may have been renamed."""
    if is_named_as_trained(model):
        return model.name
    trainer = read_checkpoint(checkpoint).get("trainer_name")
    return f"{trainer}__{model.plans.get('plans_name')}__{model.configuration}"


def without_optimizer_state(checkpoint: dict) -> dict:
    """The running means of the optimizer are dropped, half of the file or more; its settings stay, so that nnU-Net's
    loader (--val, --c) takes the checkpoint."""
    state = checkpoint.get("optimizer_state")
    return {**checkpoint, "optimizer_state": {**state, "state": {}}} if state else checkpoint


def without_paths(summary: dict) -> dict:
    """nnU-Net's summary.json without the names of files."""
    cases = summary.get("metric_per_case", [])
    kept = [{key: value for key, value in case.items() if key not in OF_FILES} for case in cases]
    return {**summary, "metric_per_case": kept}


def write_zip(root: Path, path: Path) -> None:
    """All files below `root`, in the format of nnUNetv2_install_pretrained_model_from_zip."""
    with replacing(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in root.rglob("*") if each.is_file()):
            kind = zipfile.ZIP_STORED if file.suffix == ".pth" else zipfile.ZIP_DEFLATED  # weights hardly shrink
            archive.write(file, file.relative_to(root), kind)
