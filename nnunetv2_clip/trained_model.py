"""A trained model: the folder that nnUNetv2_train leaves, a zip of nnUNetv2_export_model_to_zip, or hf:ORG/NAME.

Its tables can be read without torch, and nothing of a zip is unpacked but the weights that are wanted.
"""

# Shapes: K classes, E text embedding.

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import product
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from nnunetv2_clip.choices import CHECKPOINT, FROZEN
from nnunetv2_clip.classes import FIRST_USER_INDEX, UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import leaves_its_folder
from nnunetv2_clip.hub import download, is_on_hub
from nnunetv2_clip.labels import class_names, require_labels
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.text.table import text_hash

if TYPE_CHECKING:
    from torch import Tensor

NETWORK = "nnunetv2_clip.networks.universal.CLIPUniversalNet"
CLASS_EMBEDDING = "class_embedding.seg_layers."  # the network's rows of classes, in the names of its weights
PLANS_JSON, DATASET_JSON = "plans.json", "dataset.json"
PLANS_KEY = "nnunetv2_clip"  # our entry in plans.json
EXTENSION_ENTRY = "extension"  # in it: the model from which the training started (training/extension.py)
RULES_ENTRY = "postprocessing"  # in our entry: so the rules are in every copy and zip (inference/postprocessing.py)
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # read by torch.load
LICENCE_ENTRY = "licence"  # in it: of weights that were made elsewhere
REDISTRIBUTION_ENTRY = "redistribution"  # False: that licence forbids to pass the model on
LICENCES_ENTRY = "licences"  # in it: of the data of the model from which the training started, source -> text
MAX_JSON_BYTES = 256 << 20  # plans and summaries are far smaller; a zip bomb is not
MAX_CHECKPOINT_BYTES = 32 << 30
NETWORK_PACKAGES = ("nnunetv2_clip", "dynamic_network_architectures", "monai")  # whose classes plans may name
IMPORTED = "_kw_requires_import"  # nnU-Net's list of the arguments that name code
OPERATION_PACKAGES = (*NETWORK_PACKAGES, "torch.nn")
_FILES = ("*.json", "fold_*/*", "fold_*/validation/summary.json")
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)


@dataclass(frozen=True, eq=False)
class ModelTables:
    """plans.json and dataset.json of a model. nnU-Net leaves them beside its predictions as well.

    Attributes:
        where: the folder or zip, for messages.
        name: the model's folder name (TRAINER__PLANS__CONFIGURATION).
        files: path below the model's folder -> size in bytes.
        prefix: the model's folder in a zip; empty for a folder.
    """

    where: Path
    name: str
    files: Mapping[str, int]
    prefix: str = ""

    @classmethod
    def beside(cls, folder: Path) -> ModelTables:
        """Those in a folder of predictions or of a model; either may be missing there."""
        return cls(folder, folder.resolve().name, _list_files(folder, (PLANS_JSON, DATASET_JSON)))

    @cached_property
    def plans(self) -> dict:
        """Empty where they are missing."""
        return self.read_json(PLANS_JSON) if PLANS_JSON in self.files else {}

    @cached_property
    def dataset_json(self) -> dict:
        return require_labels(self.read_json(DATASET_JSON), self.label(DATASET_JSON))

    @property
    def entry(self) -> Mapping:
        """What training with this package has added to the plans; empty for other models."""
        ours = self.plans.get(PLANS_KEY)
        return ours if isinstance(ours, Mapping) else {}

    @property
    def text(self) -> Mapping:
        """Where the text embeddings come from (`TextTable.provenance`)."""
        return self.entry.get("text") or {}

    @property
    def extension(self) -> Mapping | None:
        """From which model the training started (`training.extension.Extension`); None: from none."""
        return self.entry.get(EXTENSION_ENTRY)

    @property
    def rules(self) -> dict | None:
        """What `nnunetv2_clip learn-postprocessing` has written; None: nothing."""
        return self.entry.get(RULES_ENTRY)

    @property
    def licence(self) -> str:
        """Of weights that were made elsewhere; empty where this package has trained them from the start."""
        return str(self.entry.get(LICENCE_ENTRY) or "")

    @property
    def may_be_shared(self) -> bool:
        return self.entry.get(REDISTRIBUTION_ENTRY) is not False

    @property
    def licences(self) -> dict[str, str]:
        """Source dataset -> licence, of all data that the model or the one it started from has seen."""
        stated = self.dataset_json.get("licence") if DATASET_JSON in self.files else None
        before, now = self.entry.get(LICENCES_ENTRY), stated or {}
        if not isinstance(now, Mapping):  # a dataset that was not converted by this package
            now = {str(self.plans.get("dataset_name")): now}
        before = before if isinstance(before, Mapping) else {}
        return {str(name): str(text) for name, text in {**before, **now}.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that the model has a channel for, in channel order, which is the order of painting."""
        return class_names(self.dataset_json["labels"])

    @property
    def modality(self) -> str:
        """nnU-Net's name of the image channel; "CT" without a dataset.json."""
        names = self.dataset_json.get("channel_names") if DATASET_JSON in self.files else None
        return str(next(iter(names.values()))) if names else "CT"

    @property
    def painted_values(self) -> dict[str, int]:
        """Class -> the value that nnU-Net's export paints: its universal index."""
        return dict(zip(self.classes, self.dataset_json.get("regions_class_order") or (), strict=False))

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The universal taxonomy with the user's own classes that the plans name.

        Raises:
            UserError: the plans hold class rows that do not fit.
        """
        try:
            own = [row for row in self.entry.get("classes", []) if row["index"] >= FIRST_USER_INDEX]
        except (TypeError, KeyError):
            raise self._damaged("class rows") from None
        return Taxonomy.from_json([*UNIVERSAL.to_json(), *own], str(self.label(PLANS_JSON))) if own else UNIVERSAL

    @cached_property
    def known(self) -> tuple[str, ...] | None:
        """The classes that the model has learnt, in channel order; None without a dataset.json.

        dataset.json declares every class that the model has a channel for; the plans tell which of them a training
        case supervised, or the model knew from which the training started.

        Raises:
            UserError: damaged files.
        """
        if DATASET_JSON not in self.files:
            return None
        datasets, extension = self.entry.get("datasets"), self.extension or {}
        if not datasets:
            return self.classes
        try:
            names = {name for source in datasets.values() for name in source["supervised"]}
            if extension.get("mode") == FROZEN:
                names &= set(extension["parts"][-1])
            names |= set(extension.get("known", ()))
        except (AttributeError, TypeError, LookupError):
            raise self._damaged("training data") from None
        return tuple(name for name in self.classes if name in names)

    def label(self, name: str) -> Path | str:
        """A file of the model, for messages."""
        return f"{self.where}, {self.prefix}{name}" if self.prefix else self.where / name

    def read_json(self, name: str) -> dict:
        """The content of one of the files.

        Raises:
            UserError: it is not there, or no JSON table.
        """
        if name not in self.files:
            raise UserError(self.label(name), "is missing", "a trained model with plans.json and dataset.json")
        if self.files[name] > MAX_JSON_BYTES:
            raise UserError(self.label(name), f"has {self.files[name]} bytes", f"at most {MAX_JSON_BYTES}")
        with self._opened(name) as file:
            text = file.read(MAX_JSON_BYTES)
        try:
            content = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(self.label(name), f"is no JSON ({error})", "the file that nnU-Net wrote") from None
        if not isinstance(content, dict):
            raise UserError(self.label(name), "holds no table", "the file that nnU-Net wrote")
        return content

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            if self.prefix:
                with zipfile.ZipFile(self.where) as archive, archive.open(self.prefix + name) as file:
                    yield file
            else:
                with open(self.where / name, "rb") as file:
                    yield file
        except _UNREADABLE as error:
            found = f"cannot be read ({error})"
            raise UserError(self.label(name), found, "a complete model", "copy or fetch it again") from None

    def _damaged(self, what: str) -> UserError:
        found = f"the entry {PLANS_KEY!r} has damaged {what}"
        return UserError(self.label(PLANS_JSON), found, "the plans of the training")


class TrainedModel(ModelTables):
    """A model that can predict: its tables, and the weights of its folds."""

    @classmethod
    def open(cls, where: Path | str, configuration: str | None = None) -> TrainedModel:
        """The model of a folder, or the one of this configuration in a zip or in hf:ORG/NAME.

        Raises:
            UserError: no model, another configuration than the folder's, several in a zip without `configuration`, a
                zip that is damaged or has evil paths, or what `hub.download` raises.
        """
        models = find_models(Path(where))
        names = [model.name for model in models]
        own = [name.rpartition("__")[2] if "__" in name else configuration for name in names]
        fitting = [model for model, one in zip(models, own, strict=True) if configuration in (None, one)]
        if len(fitting) == 1:
            return fitting[0]
        found = f"holds the models {names}" + ("" if fitting else f", none of configuration {configuration}")
        raise UserError(where, found, "one model", "leave out -c" if len(models) == 1 else "choose one with -c")

    @classmethod
    def of_dataset(cls, dataset: str, trainer: str, plans: str, configuration: str) -> TrainedModel:
        """The model that nnUNetv2_train has left for a dataset.

        Raises:
            UserError: it is not there; the models of the dataset that are there are named.
        """
        root = dataset_folder("nnUNet_results", dataset)
        folder = root / f"{trainer}__{plans}__{configuration}"
        if not folder.is_dir():
            there = sorted(path.parent.name for path in root.glob(f"*__*__*/{PLANS_JSON}"))
            expected = f"one of {there}" if there else "a trained model"
            raise UserError(folder, "does not exist", expected, "check -tr, -p, -c")
        return cls.open(folder)

    @cached_property
    def checkpoints(self) -> dict[str, tuple[str, ...]]:
        """Fold -> the names of its checkpoints, for every fold that was begun."""
        found: dict[str, list[str]] = {}
        for folder, _, file in sorted(name.partition("/") for name in self.files):
            if folder.startswith("fold_"):
                found.setdefault(folder.removeprefix("fold_"), []).extend([file] if file.endswith(".pth") else [])
        return {fold: tuple(names) for fold, names in found.items()}

    def folds(
        self, checkpoint: str = CHECKPOINT, wanted: Iterable[int | str] | int | str | None = None
    ) -> tuple[str, ...]:
        """The folds to use: the wanted ones, else all that have this checkpoint.

        Raises:
            UserError: there is none, or a wanted one is missing.
        """
        there = tuple(fold for fold, names in self.checkpoints.items() if checkpoint in names)
        wanted = [wanted] if isinstance(wanted, int | str) else wanted
        chosen = there if wanted is None else tuple(map(str, wanted))
        missing = [fold for fold in chosen if fold not in there]
        if chosen and not missing:
            return chosen
        places = missing or self.checkpoints
        others = [weights_file(fold, name) for fold in places for name in self.checkpoints.get(fold, ())]
        expected = f"folds out of {list(there)}" if there else f"one of {others}" if others else "a finished training"
        remedy = "name other folds with -f" if there else "train the model, or give another"
        if others:
            remedy = f"take another checkpoint ({', '.join(others)}) with -chk {others[0].partition('/')[2]}"
        place = f"fold {', '.join(missing)}" if missing else "any fold"
        raise UserError(self.where, f"has no {checkpoint} in {place}", expected, remedy)

    @cached_property
    def configuration(self) -> str:
        """The configuration that was trained: the one into which the trainer has put the universal network.

        Raises:
            UserError: the model is not universal.
        """
        found, configurations = [], self.plans.get("configurations")
        for name, settings in configurations.items() if isinstance(configurations, Mapping) else ():
            architecture = settings.get("architecture") if isinstance(settings, Mapping) else None
            if isinstance(architecture, Mapping) and architecture.get("network_class_name") == NETWORK:
                found.append(name)
        if PLANS_KEY not in self.plans or len(found) != 1:
            where = self.label(PLANS_JSON)
            raise UserError(where, "was not trained with CLIPUniversalTrainer", "a universal model", "give another -m")
        return found[0]

    @property
    def settings(self) -> Mapping:
        """What the plans say about the trained configuration."""
        return self.plans["configurations"][self.configuration]

    @property
    def arguments(self) -> Mapping:
        """Of the universal network."""
        return self.settings["architecture"]["arch_kwargs"]

    @property
    def title(self) -> str:
        """Dataset and model folder, for people."""
        return f"{self.plans.get('dataset_name')}/{self.name}"

    @contextmanager
    def on_disk(self, folds: Sequence[str], checkpoint: str) -> Iterator[Path]:
        """A folder with tables and these checkpoints; that of a zip lives only inside the `with`.

        Raises:
            UserError: a file is too large or cannot be unpacked.
        """
        if not self.prefix:
            yield self.where
            return
        with tempfile.TemporaryDirectory(prefix="nnunetv2_clip_model_") as folder:
            target = Path(folder) / self.name
            for name in (PLANS_JSON, DATASET_JSON, *(weights_file(fold, checkpoint) for fold in folds)):
                if self.files[name] > MAX_CHECKPOINT_BYTES:
                    found = f"has {self.files[name]} bytes"
                    raise UserError(self.label(name), found, f"at most {MAX_CHECKPOINT_BYTES}")
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with self._opened(name) as source, open(target / name, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            yield target

    def checksums(self, folds: Iterable[str], checkpoint: str) -> dict[str, str]:
        """Weights file -> its SHA-256: what makes predictions those of this model."""
        found = {}
        for name in (weights_file(fold, checkpoint) for fold in folds):
            digest = hashlib.sha256()
            with self._opened(name) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            found[name] = digest.hexdigest()
        return found

    def check_weights(self, where: object, weights: Mapping[str, Tensor]) -> None:
        """The weights of one fold can be those of this model.

        Raises:
            UserError: they hold NaN or infinite values, or text embeddings that are not those of the plans, or the two
                tables name the channels differently.
        """
        names = tuple(self.arguments["class_names"])
        if names != self.classes:
            at = next((n for n, pair in enumerate(zip(names, self.classes, strict=False)) if pair[0] != pair[1]), -1)
            found = f"calls channel {at} {names[at]!r}" if at >= 0 else f"has {len(names)} classes"
            expected = f"{self.classes[at]!r}, as" if at >= 0 else f"the {len(self.classes)} of"
            remedy = "take plans.json and dataset.json from one model"
            raise UserError(self.label(PLANS_JSON), found, f"{expected} {self.label(DATASET_JSON)}", remedy)
        wrong = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
        if wrong:
            found = f"holds NaN or infinite weights in {len(wrong)} of {len(weights)} tensors ({wrong[0]})"
            raise UserError(where, found, "the weights of a training that went well", "take another fold or checkpoint")
        vectors = weights[f"{CLASS_EMBEDDING}text_embedding"].float().cpu().numpy()
        expected, found = self.text.get("sha256"), text_hash(self.arguments["class_names"], vectors)
        if expected not in (None, found):
            found = f"its text embeddings have the hash {found[:12]}"
            remedy = "take plans.json and every fold from one training"
            raise UserError(where, found, f"{expected[:12]}, which plans.json states", remedy)


def require_known_classes(plans: Mapping, where: object) -> None:
    """Make sure that plans name no code but networks and layers: whoever builds the network runs what they name.

    Raises:
        UserError: a class elsewhere.
    """
    configurations = plans.get("configurations")
    for settings in configurations.values() if isinstance(configurations, Mapping) else ():
        entry = _table(_table(settings).get("architecture"))
        arguments = _table(entry.get("arch_kwargs"))
        imported = entry.get(IMPORTED)
        operations = imported if isinstance(imported, Iterable) else ()
        networks = entry.get("network_class_name"), arguments.get("backbone_class")
        named = [(name, NETWORK_PACKAGES) for name in networks]
        named += [(arguments.get(str(key)), OPERATION_PACKAGES) for key in operations]
        for name, packages in named:
            if name is not None and not _is_class_of(name, packages):
                expected = f"the name of a class below {', '.join(packages)}"
                remedy = "do not use this model; ask its author for the plans of the training"
                raise UserError(where, f"names the class {name!r} to be built", expected, remedy)


def _table(content: object) -> Mapping:
    return content if isinstance(content, Mapping) else {}


def _is_class_of(name: object, packages: Iterable[str]) -> bool:
    """Is it MODULE.NAME, with a module of its own file below one of the packages? (Not what a module has imported: a
    dotted path may lead from any module to `os.system`.) Nothing is imported."""
    module = str(name).rpartition(".")[0]
    if not any(module == package or module.startswith(f"{package}.") for package in packages):
        return False
    top, *rest = module.split(".")
    spec = find_spec(top)
    places = [Path(place, *rest) for place in (spec and spec.submodule_search_locations) or ()]
    return any(place.is_dir() or place.with_name(f"{place.name}.py").is_file() for place in places)


@contextmanager
def weights_only(where: object) -> Iterator[None]:
    """Inside, torch.load makes nothing but tensors, numbers and tables, whatever its caller (nnU-Net) asks for.

    Raises:
        UserError: the checkpoint names other code.
    """
    import numpy as np
    from torch.serialization import safe_globals

    scalar = np.float64(0).__reduce__()[0]  # nnU-Net's checkpoints hold the history of losses as numpy's numbers
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        with safe_globals([np.dtype, *names, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")]):
            yield
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise
        remedy = "do not use it; ask its author for the checkpoint of the training"
        raise UserError(where, f"names {code[1]}, which is code", "weights and settings alone", remedy) from None
    finally:
        if before is None:
            del os.environ[FORCE_WEIGHTS_ONLY]
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = before


def load_checkpoint(path: Path, expected: str) -> object:
    """What torch.save has written, on the CPU.

    Args:
        expected: in words, for the message.

    Raises:
        UserError: it cannot be read (half a download, for instance), is no such file, or names code.
    """
    import torch

    try:
        with weights_only(path):
            content = torch.load(path, map_location="cpu")
        _require_checksums(path)
        return content
    except UserError as error:
        entry = _entry_that_names(path, error.found.removeprefix("names ").partition(",")[0])
        raise UserError(path, f"{entry}{error.found}", error.expected, error.remedy) from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", expected, "check the path") from None
    except Exception as error:  # unpickling, zip and end of file fail in their own ways
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = "download or copy it again; compare its size with that of the original"
        raise UserError(path, f"is no checkpoint, or a damaged one ({reason})", expected, remedy) from None


def _require_checksums(path: Path) -> None:
    """What torch.load leaves out: a download with holes may have its full size. Raises BadZipFile."""
    if zipfile.is_zipfile(path):  # not so before PyTorch 1.6
        with zipfile.ZipFile(path) as archive:
            if wrong := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {wrong} is wrong")


def _entry_that_names(path: Path, code: str) -> str:
    """Where the table in a file of torch.save names this code: "its entry 'scheduler' "; empty if that is unknown."""
    import pickletools

    if not zipfile.is_zipfile(path):  # PyTorch before 1.6
        return ""
    with zipfile.ZipFile(path) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    key, depth = "", 0
    for operation, argument, _ in pickletools.genops(content):
        depth += (operation.name == "MARK") - (pickletools.markobject in operation.stack_before)
        if depth == 1 and isinstance(argument, str) and "UNICODE" in operation.name:
            key = argument
        if operation.name == "GLOBAL" and str(argument).replace(" ", ".") == code:
            return f"its entry {key!r} "
    return ""


def find_models(where: Path) -> list[TrainedModel]:
    """The models of a folder (one), or of a zip that nnUNetv2_export_model_to_zip made or hf:ORG/NAME (one per
    configuration).

    Raises:
        UserError: none of these, no model in it, a zip with paths that would leave the folder it is unpacked into, or
            what `hub.download` raises.
    """
    if is_on_hub(where):
        return _downloaded(where)
    folder = TrainedModel(where, where.resolve().name, _list_files(where, _FILES))
    models = [folder] if where.is_dir() else _zipped(where)
    for model, name in product(models, (PLANS_JSON, DATASET_JSON)):
        if name not in model.files:
            expected = "a model (TRAINER__PLANS__CONFIGURATION) with plans.json and dataset.json"
            raise UserError(model.label(name), "is missing", expected, "check the path")
    for model in models:
        require_known_classes(model.plans, model.label(PLANS_JSON))
    return models


def _downloaded(where: Path) -> list[TrainedModel]:
    folders = sorted(path.parent for path in download(where).rglob(PLANS_JSON))
    if not folders:
        raise UserError(where.as_posix(), f"holds no {PLANS_JSON}", "a repository with a model folder")
    return [model for folder in folders for model in find_models(folder)]


def _zipped(where: Path) -> list[TrainedModel]:
    try:
        with zipfile.ZipFile(where) as archive:
            entries = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(where, f"is no model folder and no zip ({error})", "one of the two", "check the path") from None
    evil = ", ".join([repr(info.filename) for info in entries if leaves_its_folder(info.orig_filename)][:5])
    if evil:
        found = f"holds paths that leave the folder it is unpacked into: {evil}"
        remedy = "do not install this zip; ask its author for another"
        raise UserError(where, found, "paths below the dataset's folder", remedy)
    folders = [info.filename.removesuffix(PLANS_JSON) for info in entries if info.filename.endswith(f"/{PLANS_JSON}")]
    if not folders:
        raise UserError(where, f"holds no {PLANS_JSON}", "a zip made by nnUNetv2_export_model_to_zip")
    models = []
    for folder in folders:
        own = {one.filename.removeprefix(folder): one.file_size for one in entries if one.filename.startswith(folder)}
        models.append(TrainedModel(where, PurePosixPath(folder).name, own, folder))
    return models


def weights_file(fold: str, checkpoint: str) -> str:
    """Path below the model's folder."""
    return f"fold_{fold}/{checkpoint}"


def validation_folders(folder: Path) -> list[Path]:
    """The validation predictions of every fold below a model's folder."""
    return sorted(folder.glob("fold_*/validation"))


def _list_files(folder: Path, patterns: Iterable[str]) -> dict[str, int]:
    paths = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
