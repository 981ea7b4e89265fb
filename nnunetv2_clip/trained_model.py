"""The small files of a trained model (plans, dataset.json, validation), from its folder or an exported zip."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunetv2_clip.choices import FROZEN
from nnunetv2_clip.classes import FIRST_USER_INDEX, UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json
from nnunetv2_clip.labels import class_names

MAX_JSON_BYTES = 256 << 20  # plans and summaries are far smaller; a zip bomb is not
PLANS_KEY = "nnunetv2_clip"  # our entry in plans.json
EXTENSION_ENTRY = "extension"  # in it: the model from which the training started (training/extension.py)
RULES_ENTRY = "postprocessing"  # in our entry: so the rules are in every copy and zip (inference/postprocessing.py)


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model (TRAINER__PLANS__CONFIGURATION).

    Attributes:
        where: the folder or zip, for messages.
        name: the model's folder name.
        files: path below the model's folder -> size in bytes.
    """

    where: Path
    name: str
    files: Mapping[str, int]
    prefix: str = ""

    def read_json(self, name: str) -> dict:
        """The content of one of the files.

        Raises:
            UserError: it is not there, or no JSON table.
        """
        label = f"{self.where}, {self.prefix}{name}" if self.prefix else self.where / name
        if name not in self.files:
            raise UserError(label, "is missing", "a trained model with plans.json and dataset.json")
        if self.files[name] > MAX_JSON_BYTES:
            raise UserError(label, f"has {self.files[name]} bytes", f"at most {MAX_JSON_BYTES}")
        try:
            content = json.loads(self._read(name).decode("utf-8"))
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise UserError(label, f"cannot be read as JSON ({error})", "the file that nnU-Net wrote") from None
        if not isinstance(content, dict):
            raise UserError(label, "holds no table", "the file that nnU-Net wrote")
        return content

    def _read(self, name: str) -> bytes:
        if not self.prefix:
            return (self.where / name).read_bytes()
        with zipfile.ZipFile(self.where) as archive, archive.open(self.prefix + name) as file:
            return file.read(MAX_JSON_BYTES)


def find_models(where: Path) -> list[ModelFiles]:
    """The models of a folder (one) or of a zip that nnUNetv2_export_model_to_zip made (one per configuration).

    Nothing is unpacked.

    Raises:
        UserError: neither, no model in it, or a zip with paths that would leave the folder it is unpacked into.
    """
    if where.is_dir():
        files = {
            path.relative_to(where).as_posix(): path.stat().st_size
            for pattern in ("*.json", "fold_*/*", "fold_*/validation/summary.json")
            for path in sorted(where.glob(pattern))
            if path.is_file()
        }
        if "plans.json" not in files:
            raise UserError(
                where, "has no plans.json", "a model folder (TRAINER__PLANS__CONFIGURATION)", "check the path"
            )
        return [ModelFiles(where, where.resolve().name, files)]
    try:
        with zipfile.ZipFile(where) as archive:
            entries = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(where, f"is no model folder and no zip ({error})", "one of the two", "check the path") from None
    evil = [info.filename for info in entries if leaves_its_folder(info.orig_filename)]
    if evil:
        raise UserError(
            where,
            f"holds paths that leave the folder it is unpacked into: {', '.join(map(repr, evil[:5]))}",
            "paths below the dataset's folder",
            "do not install this zip; ask its author for another",
        )
    folders = [info.filename[: -len("plans.json")] for info in entries if info.filename.endswith("/plans.json")]
    if not folders:
        raise UserError(where, "holds no plans.json", "a zip made by nnUNetv2_export_model_to_zip")
    return [
        ModelFiles(
            where,
            PurePosixPath(folder).name,
            {info.filename[len(folder) :]: info.file_size for info in entries if info.filename.startswith(folder)},
            folder,
        )
        for folder in folders
    ]


def leaves_its_folder(name: str) -> bool:
    """Would a zip entry of this name be written outside the folder into which it is unpacked?"""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return name.startswith(("/", "\\")) or ".." in parts or ":" in name


def taxonomy_of_plans(plans: Mapping, where: object) -> Taxonomy:
    """The universal taxonomy with the user's own classes that the model's plans name.

    Raises:
        UserError: the plans hold class rows that do not fit.
    """
    ours = plans.get(PLANS_KEY)
    rows = ours.get("classes", []) if isinstance(ours, Mapping) else []
    try:
        own = [row for row in rows if row["index"] >= FIRST_USER_INDEX]
    except (TypeError, KeyError):
        raise UserError(where, f"the entry {PLANS_KEY!r} has damaged class rows", "the plans of the training") from None
    if not own:
        return UNIVERSAL
    return Taxonomy.from_json([*UNIVERSAL.to_json(), *own], str(where))


def known_classes(folder: Path) -> tuple[str, ...] | None:
    """The classes that a model has learnt, in channel order, from the files in its folder or beside its predictions.

    dataset.json declares every class that the model has a channel for; the plans tell which of them a training case
    supervised, or the model knew from which the training started. None without a dataset.json.

    Raises:
        UserError: damaged files.
    """
    if not (folder / "dataset.json").is_file():
        return None
    content = read_json(folder / "dataset.json", "take the file from the model's folder")
    labels = content.get("labels") if isinstance(content, Mapping) else None
    if not isinstance(labels, Mapping):
        raise UserError(folder / "dataset.json", "has no table 'labels'", "the model's dataset.json")
    supervised = _supervised_classes(folder)
    return tuple(name for name in class_names(labels) if supervised is None or name in supervised)


def _supervised_classes(folder: Path) -> set[str] | None:
    ours = _own_entry(folder)
    datasets = ours.get("datasets")
    if not datasets:
        return None
    names = {name for entry in datasets.values() for name in entry["supervised"]}
    extension = ours.get(EXTENSION_ENTRY) or {}
    if extension.get("mode") == FROZEN:
        names &= set(extension["parts"][-1])
    return names | set(extension.get("known", ()))


def _own_entry(folder: Path) -> Mapping:
    """Our entry in the plans of a folder; empty if there is none."""
    if not (folder / "plans.json").is_file():
        return {}
    ours = find_models(folder)[0].read_json("plans.json").get(PLANS_KEY)
    return ours if isinstance(ours, Mapping) else {}


def taxonomy_beside(folder: Path) -> Taxonomy:
    """The taxonomy of a model folder, or of predictions beside which nnU-Net has left the model's plans."""
    if not (folder / "plans.json").is_file():
        return UNIVERSAL
    return taxonomy_of_plans(find_models(folder)[0].read_json("plans.json"), folder / "plans.json")


def learned_rules(folder: Path) -> dict | None:
    """What `nnunetv2_clip learn-postprocessing` has written into the plans of a model folder; None: nothing.

    Raises:
        UserError: damaged plans.
    """
    return _own_entry(folder).get(RULES_ENTRY)
