"""From a model folder and what a user asks for to a predictor of exactly the classes that are needed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.device import find_device
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.inference.postprocessing import Rule, needed_classes, rules_of_plans
from nnunetv2_clip.inference.restricted import load_predictor, restricted_dataset_json
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.trained_model import taxonomy_of_plans

# What nnU-Net and PyTorch raise on plans, label tables and checkpoints that are damaged or of another network.
_UNLOADABLE = (
    *(RuntimeError, LookupError, EOFError, OSError, ValueError, TypeError, AttributeError, AssertionError, ImportError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)
_TABLES_REMEDY = "give the folder of a trained model (TRAINER__PLANS__CONFIG)"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A predictor and what it is used for.

    Attributes:
        predictor: nnU-Net's, restricted to `classes`, `probabilities` and what the rules look at.
        classes: to write, in painting order.
        rules: post-processing of the predictor's classes; empty: none.
    """

    predictor: object
    classes: tuple[str, ...]
    probabilities: tuple[str, ...]
    taxonomy: Taxonomy
    rules: Mapping[str, Rule]
    folds: list

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: rule.threshold for name, rule in self.rules.items()}


def load_model(
    folder: Path,
    classes: Sequence[str] | None = None,
    probabilities: Sequence[str] = (),
    use_rules: bool = False,
    device: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    **options,
) -> LoadedModel:
    """Load a trained model for some of its classes.

    Args:
        classes, probabilities: names or aliases; None: all classes of the model.
        use_rules: apply the post-processing rules of the model.
        device: None: the fastest that is there.
        options: of `load_predictor`.

    Raises:
        UserError: no model, no such fold, an unknown class, no rules, or damaged weights.
    """
    plans, dataset_json = (read_json(folder / name, _TABLES_REMEDY) for name in ("plans.json", "dataset.json"))
    if not isinstance(plans, dict) or not isinstance(dataset_json, dict) or "labels" not in dataset_json:
        raise UserError(folder, "plans.json or dataset.json hold no tables of nnU-Net", "a model", _TABLES_REMEDY)
    taxonomy = taxonomy_of_plans(plans, folder / "plans.json")
    known = class_names(dataset_json["labels"])
    wanted = _in_order(known if classes is None else _names(classes, known, taxonomy, "--classes"), known)
    likely = _in_order(_names(probabilities, known, taxonomy, "--probabilities"), known)
    rules = rules_of_plans(plans, folder / "plans.json") if use_rules else {}
    if use_rules and not rules:
        raise UserError(
            folder,
            "has no post-processing rules",
            "rules learned on the validation cases",
            "run 'nnunetv2_clip learn-postprocessing', or leave out --postprocess",
        )
    needed = _in_order(needed_classes({*wanted, *likely}, rules), known)
    chosen = find_device(device)
    try:
        predictor = load_predictor(folder, needed, None, folds, checkpoint, chosen, **options)
    except UserError:
        raise
    except _UNLOADABLE as error:
        text = " ".join(line.strip() for line in str(error).strip("'").split("\n")[:2])
        raise UserError(folder, f"cannot be loaded ({type(error).__name__}: {text})", "a finished training") from None
    own_rules = {name: rule for name, rule in rules.items() if name in needed}
    there = sorted(path.parent.name[len("fold_") :] for path in folder.glob(f"fold_*/{checkpoint}"))
    return LoadedModel(predictor, wanted, likely, taxonomy, own_rules, list(folds or there))


def write_model_tables(model_folder: Path, classes: Sequence[str], output: Path) -> None:
    """plans.json and dataset.json beside the predictions, as nnU-Net leaves them, with the predicted classes."""
    dataset_json = read_json(model_folder / "dataset.json", _TABLES_REMEDY)
    indices = dict(zip(class_names(dataset_json["labels"]), dataset_json["regions_class_order"], strict=True))
    write_json(output / "dataset.json", restricted_dataset_json(dataset_json, classes, indices))
    write_json(output / "plans.json", read_json(model_folder / "plans.json", _TABLES_REMEDY))


def _names(given: Sequence[str], known: Sequence[str], taxonomy: Taxonomy, where: str) -> list[str]:
    names = [taxonomy.find(name, where).name for name in given]
    foreign = [name for name in names if name not in known]
    if foreign:
        raise UserError(where, f"the model does not know {', '.join(foreign)}", f"classes out of {', '.join(known)}")
    return names


def _in_order(names, known: Sequence[str]) -> tuple[str, ...]:
    """In the model's order: an organ before what lies on it."""
    return tuple(name for name in known if name in set(names))
