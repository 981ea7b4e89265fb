"""Prepare a training that starts from another universal model: plans, text table and initial weights for a dataset.

The new training gets patch, voxel size, normalisation and architecture of the old one; nothing of its data is needed.
"""

from __future__ import annotations

import re
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nnunetv2_clip.choices import CHECKPOINT, FINE_TUNE, FROZEN, PLANS, TRAINER, TRANSFER
from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.conversion.splits import SPLITS_FILE
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing, write_json
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.paths import dataset_folder, nnunet_folder
from nnunetv2_clip.pseudo_labels.datasets import RawDataset
from nnunetv2_clip.text.extension import extended_table
from nnunetv2_clip.text.similarity import warnings_of
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import (
    CLASS_EMBEDDING,
    EXTENSION_ENTRY,
    LICENCE_ENTRY,
    LICENCES_ENTRY,
    PLANS_KEY,
    REDISTRIBUTION_ENTRY,
    RULES_ENTRY,
    TrainedModel,
    weights_file,
)
from nnunetv2_clip.training.extension import Extension, start_file, start_weights, text_file
from nnunetv2_clip.training.pretrained import read_checkpoint

SUFFIX = {FROZEN: "extended", FINE_TUNE: "finetuned", TRANSFER: "transferred"}
OURS = ("backbone_class", "class_names", "text_width", "extensions")  # arguments that are not the backbone's


@dataclass(frozen=True, eq=False)
class TrainedFold:
    """What a new training takes from a trained universal model: its tables, and the weights of one fold.

    Attributes:
        text: the embeddings in the checkpoint, with the provenance in the plans.
    """

    model: TrainedModel
    fold: str
    weights: dict[str, torch.Tensor]
    text: TextTable

    @classmethod
    def of(cls, model: TrainedModel, fold: str | None = None, checkpoint: str = CHECKPOINT) -> TrainedFold:
        """Read the weights.

        Args:
            fold: None: the first that is there.

        Raises:
            UserError: no universal model, no such fold, or a checkpoint that does not belong to the plans.
        """
        names = model.arguments["class_names"]
        fold = model.folds(checkpoint, fold and [fold])[0]
        file = weights_file(fold, checkpoint)
        path = model.label(file)
        with model.on_disk([fold], checkpoint) as folder:
            weights = read_checkpoint(folder / file)["network_weights"]
        try:
            model.check_weights(path, weights)
            vectors, made = weights[f"{CLASS_EMBEDDING}text_embedding"].float().numpy(), model.text
            prompts = tuple(tuple(each) for each in made["prompts"])
            origin = made["encoder"], made["library"]
            text = TextTable(tuple(names), prompts, *origin, vectors, made.get("weights", ""), str(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(path, f"or its plans.json lack {error}", "a model trained with this package") from None
        return cls(model, fold, weights, text)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those with a channel, in channel order."""
        return self.text.class_names

    @property
    def rows(self) -> tuple[ClassRow, ...]:
        return tuple(self.model.taxonomy.find(name) for name in self.classes)

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that this fold was trained on."""
        trained = self.weights[f"{CLASS_EMBEDDING}trained"].tolist()
        return tuple(name for name, each in zip(self.classes, trained, strict=True) if each)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """See `Extension`."""
        extension = Extension.of_plans(self.model.plans)
        return extension.parts if extension else ()


@dataclass(frozen=True)
class Prepared:
    """What was written, for the message to the user."""

    extension: Extension
    new: tuple[str, ...]
    files: tuple[Path, ...]
    next_commands: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare_extension(
    old: TrainedFold,
    dataset: str | int,
    mode: str,
    plans_name: str | None = None,
    table: Path | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> Prepared:
    """Check that model and dataset fit, and write plans, text table and initial weights; the plans come last.

    Args:
        mode: FROZEN, FINE_TUNE or TRANSFER, see `Extension`.
        plans_name: of the new plans; None: the old name with a suffix.
        table, weights, device: see `extended_table`.
        overwrite: replace plans of this name.

    Raises:
        UserError: model and dataset do not fit, or the new classes cannot be embedded.
    """
    new_data = RawDataset.read(dataset_folder("nnUNet_raw", dataset), "convert the dataset first")
    check_channels(old, new_data)
    check_vectors(old)
    truth = frozenset().union(*(case.known | case.drawn for case in new_data.manifest.cases.values()))
    new = tuple(name for name in new_data.classes if name in truth.difference(old.known))
    warnings: tuple[str, ...] = ()
    if mode != TRANSFER:
        check_classes(old, new_data, new)
    if mode == FINE_TUNE:
        warnings = check_not_forgotten(old, new_data)
    plans_name = f"{old.model.plans['plans_name']}_{SUFFIX[mode]}" if plans_name is None else plans_name
    check_plans_name(plans_name)
    folder = nnunet_folder("nnUNet_preprocessed") / new_data.folder.name
    plans_file = folder / f"{plans_name}.json"
    if plans_file.exists() and not overwrite:
        raise UserError(plans_file, "is there already", "a new name", "choose one with -p, or add --overwrite")
    text = extended_table(old.text, old.rows, new_data.rows, table, weights, device)
    warnings = (*warnings, *warnings_of(text))  # two classes with one vector cannot be told apart
    known = () if mode == TRANSFER else old.known
    parts = {FROZEN: (*old.parts, new), FINE_TUNE: old.parts, TRANSFER: ()}[mode]
    extension = Extension(mode, old.model.title, old.fold, known, parts)
    plans = new_plans(old, extension, new_data, plans_name)
    _copy_tables(new_data, folder)
    start, text_path = start_file(folder, plans_name), text_file(folder, plans)
    text.save(text_path)
    _save_start(old, extension, start)
    write_json(plans_file, plans)
    commands = _next_commands(folder, plans_name, old.model.configuration)
    return Prepared(extension, new, (plans_file, text_path, start), commands, warnings)


def _next_commands(folder: Path, plans_name: str, configuration: str) -> tuple[str, ...]:
    number = int(folder.name[len("Dataset") :].split("_")[0])
    fingerprint = [f"nnUNetv2_extract_fingerprint -d {number}"]  # nnUNetv2_train demands the file, whatever the plans
    return (
        *(fingerprint if not (folder / "dataset_fingerprint.json").is_file() else []),
        f"nnUNetv2_preprocess -d {number} -plans_name {plans_name} -c {configuration}",
        f"nnUNetv2_train {number} {configuration} 0 -tr {TRAINER} -p {plans_name}",
    )


def check_plans_name(name: str) -> None:
    """Raises UserError unless the name can be that of files and is not that of a file which is none of plans."""
    taken = {"dataset", "dataset_fingerprint", *(Path(file).stem for file in (MANIFEST_FILE, SPLITS_FILE))}
    if name in taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        found = f"{name!r}, which is another file of the dataset" if name in taken else f"{name!r}"
        expected = f"a name of letters, digits, _, - and ., for example {PLANS}_extended"
        raise UserError("-overwrite_plans_name", found, expected)


def check_channels(old: TrainedFold, new: RawDataset) -> None:
    """Raises UserError: the images have another number of channels than the model's."""
    channels = new.dataset_json.get("channel_names", {})
    expected = len(old.model.dataset_json["channel_names"])
    if len(channels) != expected:
        found = f"has {len(channels)} channels"
        raise UserError(
            new.folder / "dataset.json", found, f"{expected}, as the model {old.model.title} has", "give another model"
        )


def check_vectors(old: TrainedFold) -> None:
    """Raises UserError: the text vectors have other lengths than those that `embed` makes for new classes."""
    if not np.allclose(np.linalg.norm(old.text.vectors, axis=1), 1, atol=1e-3):
        found = "has text vectors that are not of unit length, as imported weights have them"
        remedy = "to train from published weights, give their file to 'nnunetv2_clip prepare-weights'"
        raise UserError(old.model.where, found, "a model trained with this package", remedy)


def check_classes(old: TrainedFold, new: RawDataset, added: tuple[str, ...]) -> None:
    """Raises UserError unless the model's classes mean the same in the dataset, which knows the truth of a new one."""
    where = new.folder / MANIFEST_FILE
    taxonomy = {row.name: row for row in new.manifest.taxonomy}
    table = "give 'nnunetv2_clip convert --taxonomy' a table with the rows of the model and new ones after them"
    for row in old.rows:
        if row.name not in taxonomy or row.name not in new.classes:
            line = f"- {{index: {row.index}, name: {row.name}, parents: [{', '.join(row.parents)}]}}"
            raise UserError(where, f"lacks the class {row.name!r} of the model", f"the row {line}", table)
        for key in ("index", "parents", "partner"):
            found, expected = getattr(taxonomy[row.name], key), getattr(row, key)
            if found != expected:
                raise UserError(
                    where, f"{key} of class {row.name!r} is {found!r}", f"{expected!r}, as in the model", table
                )
    if not added:
        raise UserError(
            where,
            "no case annotates a class that the model has not learnt",
            f"a class other than {', '.join(old.known)}",
            "for more training of the same classes use nnUNetv2_train with -pretrained_weights, or --mode transfer",
        )


def check_not_forgotten(old: TrainedFold, new: RawDataset) -> tuple[str, ...]:
    """Warnings about classes that will fade, because no case of the dataset holds them.

    Raises:
        UserError: there are such classes, and the old model has not labelled the dataset.
    """
    missing = [name for name in old.known if name not in new.manifest.supervised_classes()]
    if not missing:
        return ()
    if not new.manifest.has_pseudo_labels:
        raise UserError(
            new.folder / MANIFEST_FILE,
            f"{len(missing)} classes of the model occur in no case and would be forgotten: {', '.join(missing)}",
            "a dataset that the old model has completed",
            "run 'nnunetv2_clip pseudo-label' with the old model and give the dataset that it writes; or --mode frozen",
        )
    return (f"no case supervises {', '.join(missing)}: fine-tuning may forget them",)


def new_plans(old: TrainedFold, extension: Extension, new: RawDataset, plans_name: str) -> dict:
    """Plans for the new dataset that preprocess and build as the old model's: the one configuration that was trained.

    They name the stock backbone, as all plans do before training; the trainer puts the universal network on it.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = deepcopy(old.model.plans)
    settings = deepcopy(PlansManager(plans).get_configuration(old.model.configuration).configuration)
    settings.pop("inherits_from", None)
    arguments = settings["architecture"]["arch_kwargs"]
    settings["architecture"]["network_class_name"] = arguments["backbone_class"]
    settings["architecture"]["arch_kwargs"] = {key: value for key, value in arguments.items() if key not in OURS}
    settings["data_identifier"] = f"{plans_name}_{old.model.configuration}"
    kept = {} if extension.mode == TRANSFER else {RULES_ENTRY: old.model.rules}
    kept |= {key: old.model.entry.get(key) for key in (LICENCE_ENTRY, REDISTRIBUTION_ENTRY)}
    kept |= {LICENCES_ENTRY: old.model.licences, EXTENSION_ENTRY: extension.to_json()}
    return {
        **plans,
        "dataset_name": new.folder.name,
        "plans_name": plans_name,
        "image_reader_writer": new.dataset_json.get("overwrite_image_reader_writer", plans["image_reader_writer"]),
        "configurations": {old.model.configuration: settings},
        PLANS_KEY: {key: value for key, value in kept.items() if value not in (None, {}, "")},
    }


def _copy_tables(new: RawDataset, preprocessed: Path) -> None:
    """dataset.json, which planning would have copied, and what a raw dataset brings from another machine."""
    write_json(preprocessed / "dataset.json", new.dataset_json)
    for name in (MANIFEST_FILE, SPLITS_FILE):
        if (new.folder / name).is_file() and not (preprocessed / name).is_file():
            shutil.copy(new.folder / name, preprocessed / name)


def _save_start(old: TrainedFold, extension: Extension, path: Path) -> None:
    vectors = {name: torch.from_numpy(row.copy()) for name, row in zip(old.classes, old.text.vectors, strict=True)}
    network = start_weights(old.weights, extension.mode, len(extension.parts))
    with replacing(path) as beside:
        torch.save({"network_weights": network, "text_embedding": vectors}, beside)
