"""A trained model to predict with: a folder, or a zip of nnUNetv2_export_model_to_zip, of which only weights and tables
are unpacked, into a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.trained_model import ModelFiles, find_models

MAX_CHECKPOINT_BYTES = 32 << 30


def trained_model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Where nnUNetv2_train has left a model.

    Raises:
        UserError: it is not there; the models of the dataset that are there are named.
    """
    root = dataset_folder("nnUNet_results", dataset)
    folder = root / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        there = sorted(path.parent.name for path in root.glob("*__*__*/plans.json"))
        raise UserError(
            folder, "does not exist", f"one of {there}" if there else "a trained model", "check -tr, -p, -c"
        )
    return folder


@contextmanager
def opened_model(
    where: Path, configuration: str | None = None, folds: Sequence[str] | None = None, checkpoint: str | None = None
) -> Iterator[Path]:
    """The model's folder; that of a zip lives only inside the `with`.

    Raises:
        UserError: no model, several in a zip without `configuration`, another configuration than the folder's, or a
            zip that is damaged or has evil paths.
    """
    models = find_models(where)
    if where.is_dir():
        own = where.resolve().name.rpartition("__")
        if configuration and own[0] and own[2] != configuration:
            raise UserError("-c", f"{configuration}, but the model {where} is of {own[2]}", own[2], "leave out -c")
        yield where
        return
    model = _chosen(models, where, configuration)
    with tempfile.TemporaryDirectory(prefix="nnunetv2_clip_model_") as folder:
        target = Path(folder) / model.name
        _require_weights(model, folds, checkpoint)
        for name in _wanted_files(model, folds, checkpoint):
            _extract(model, name, target / name)
        yield target


def _chosen(models: Sequence[ModelFiles], where: Path, configuration: str | None) -> ModelFiles:
    fitting = [model for model in models if configuration in (None, model.name.rpartition("__")[2])]
    if len(fitting) != 1:
        names = [model.name for model in models]
        found = f"holds the models {names}" + (f", none of configuration {configuration}" if not fitting else "")
        raise UserError(where, found, "one that -c chooses", "name its configuration with -c")
    return fitting[0]


def _require_weights(model: ModelFiles, folds: Sequence[str] | None, checkpoint: str | None) -> None:
    there = sorted(
        name.removeprefix("fold_").partition("/")[0]
        for name in model.files
        if name.startswith("fold_") and name.endswith(f"/{checkpoint}" if checkpoint else ".pth")
    )
    missing = [str(fold) for fold in folds or () if str(fold) not in there]
    if missing or not there:
        raise UserError(
            model.where,
            f"has no {checkpoint or 'checkpoint'} in fold {', '.join(missing) or 'any'}",
            f"folds out of {there}" if there else "a zip with the checkpoints of the training",
            "name others with -f or -chk",
        )


def _wanted_files(model: ModelFiles, folds: Sequence[str] | None, checkpoint: str | None) -> list[str]:
    """The tables, and the checkpoints of the wanted folds."""
    folders = None if folds is None else {f"fold_{fold}" for fold in folds}
    weights = [
        name
        for name in model.files
        if name.startswith("fold_")
        and name.endswith(checkpoint or ".pth")
        and (folders is None or name.partition("/")[0] in folders)
    ]
    return [name for name in ("plans.json", "dataset.json") if name in model.files] + weights


def _extract(model: ModelFiles, name: str, target: Path) -> None:
    if model.files[name] > MAX_CHECKPOINT_BYTES:
        raise UserError(model.where, f"{name} has {model.files[name]} bytes", f"at most {MAX_CHECKPOINT_BYTES}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(model.where) as archive,
            archive.open(model.prefix + name) as source,
            open(target, "wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise UserError(
            model.where, f"{name} cannot be unpacked ({error})", "a complete zip", "fetch it again"
        ) from None
