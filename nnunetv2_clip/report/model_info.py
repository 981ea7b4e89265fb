"""What a trained model is: classes, prompts, encoder, training data, validation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.trained_model import EXTENSION_ENTRY, PLANS_KEY, ModelFiles, taxonomy_of_plans

SUMMARY = "validation/summary.json"


def describe_model(model: ModelFiles) -> dict:
    """Everything that `info` tells, as JSON.

    Raises:
        UserError: plans or dataset.json are missing or damaged, or the model is not universal.
    """
    plans, dataset_json = model.read_json("plans.json"), model.read_json("dataset.json")
    ours = plans.get(PLANS_KEY)
    if not isinstance(ours, Mapping) or not isinstance(dataset_json.get("labels"), Mapping):
        raise UserError(
            f"{model.where}, {model.name}",
            f"plans.json has no entry {PLANS_KEY!r}, or dataset.json no labels",
            "a model trained with CLIPUniversalTrainer",
        )
    if not isinstance(plans.get("configurations", {}), Mapping):
        raise UserError(
            f"{model.where}, {model.name}", "plans.json holds no table of configurations", "nnU-Net's plans"
        )
    trainer, _, rest = model.name.partition("__")
    plans_name, _, configuration = rest.rpartition("__")
    if configuration not in plans.get("configurations", {}):  # a renamed folder
        trainer, plans_name, configuration = "", "", _universal_configuration(plans)
    text = ours.get("text") or {}
    folds = _folds(model)
    return {
        "model": str(model.where),
        "name": model.name,
        "trainer": trainer,
        "plans": plans_name or plans.get("plans_name", ""),
        "configuration": configuration,
        "dataset": plans.get("dataset_name", ""),
        "nnunetv2_clip": ours.get("version", ""),
        "network": _network(plans, configuration),
        "text": {key: text.get(key, "") for key in ("encoder", "library", "weights", "sha256")},
        "datasets": ours.get("datasets") or {},
        "extends": ours.get(EXTENSION_ENTRY),
        "folds": folds,
        "classes": _classes(model, dataset_json, ours, taxonomy_of_plans(plans, model.where), folds),
    }


def _universal_configuration(plans: Mapping) -> str:
    """The configuration in which the trainer has put the universal network."""
    configurations = plans.get("configurations", {})
    return next((name for name, each in configurations.items() if "class_names" in _arguments(each)), "")


def _arguments(settings: Mapping) -> Mapping:
    return settings.get("architecture", {}).get("arch_kwargs", {})


def _network(plans: Mapping, configuration: str) -> dict:
    """What the configuration builds; empty for a name that is not in the plans."""
    settings = plans.get("configurations", {}).get(configuration, {})
    return {
        "class": settings.get("architecture", {}).get("network_class_name", ""),
        "backbone": str(_arguments(settings).get("backbone_class", "")).rpartition(".")[2],
        "patch_size": settings.get("patch_size", []),
        "spacing": settings.get("spacing", []),
        "batch_size": settings.get("batch_size"),
    }


def _folds(model: ModelFiles) -> dict[str, dict]:
    """Fold -> its checkpoints, and the file of its validation."""
    folds: dict[str, dict] = {}
    for name in sorted(model.files):
        folder, _, file = name.partition("/")
        if not folder.startswith("fold_"):
            continue
        entry = folds.setdefault(folder.removeprefix("fold_"), {"checkpoints": [], "validated": False})
        if file.endswith(".pth"):
            entry["checkpoints"].append(file)
        entry["validated"] |= file == SUMMARY
    return folds


def _classes(model: ModelFiles, dataset_json: Mapping, ours: Mapping, taxonomy: Taxonomy, folds: Mapping) -> list[dict]:
    text = ours.get("text") or {}
    prompts = dict(zip(text.get("class_names", ()), text.get("prompts", ()), strict=False))
    datasets = ours.get("datasets") or {}
    dice = _validation_dice(model, folds)
    rows = []
    for name in class_names(dataset_json["labels"]):
        supervised = {
            source: entry["supervised"][name]
            for source, entry in datasets.items()
            if name in entry.get("supervised", {})
        }
        values = dice.get(name, [])
        rows.append(
            {
                "index": taxonomy.find(name, model.where).index,
                "name": name,
                "prompts": list(prompts.get(name, ())),
                "cases": supervised,
                "pseudo_cases": sum(entry.get("pseudo", {}).get(name, 0) for entry in datasets.values()),
                "validation_dice": sum(values) / len(values) if values else None,
                "validation_cases": len(values),
            }
        )
    return rows


def _validation_dice(model: ModelFiles, folds: Mapping) -> dict[str, list[float]]:
    """Class -> Dice of every validation case of all folds in which it is defined.

    Raises:
        UserError: a summary.json that names no classes (written by another trainer).
    """
    found: dict[str, list[float]] = {}
    for fold in (fold for fold, entry in folds.items() if entry["validated"]):
        summary = model.read_json(f"fold_{fold}/{SUMMARY}")
        try:
            names = summary["class_names"]
            for case in summary["metric_per_case"]:
                for region, metrics in case["metrics"].items():
                    value = metrics["Dice"]
                    if value is not None and not math.isnan(value):
                        found.setdefault(names[region], []).append(value)
        except (KeyError, TypeError, AttributeError) as error:
            where = f"{model.where}, fold_{fold}/{SUMMARY}"
            raise UserError(where, f"cannot be used ({error!r})", "the validation of CLIPUniversalTrainer") from None
    return found


def as_text(info: Mapping) -> str:
    """The description for a terminal."""
    network, text = info["network"], info["text"]
    head = [
        ("model", info["name"]),
        ("dataset", info["dataset"]),
        ("network", f"{network['backbone']}, patch {network['patch_size']}, spacing {network['spacing']} mm"),
        ("text", f"{text['encoder']} ({text['library']})"),
        ("text hash", text["sha256"]),
        ("made with", f"nnunetv2_clip {info['nnunetv2_clip']}"),
        ("folds", "; ".join(f"{fold}: {_fold_text(entry)}" for fold, entry in info["folds"].items()) or "none"),
    ]
    if info["extends"]:
        head.append(("extends", _extension_text(info["extends"])))
    lines = [f"{key + ':':11} {value}" for key, value in head]
    if info["datasets"]:
        lines += ["", f"{'source':24} cases  classes"]
        lines += [f"{name:24} {e['cases']:5}  {', '.join(e['supervised'])}" for name, e in info["datasets"].items()]
    lines += ["", f"{'':3} {'class':26} {'cases':>6} {'val. Dice':>10} {'n':>5}  prompt"]
    for row in info["classes"]:
        dice = "" if row["validation_dice"] is None else f"{row['validation_dice']:.3f}"
        number = row["validation_cases"] or ""
        cases = sum(row["cases"].values()) or ""
        prompt = " | ".join(row["prompts"])
        lines.append(f"{row['index']:3} {row['name']:26} {cases:>6} {dice:>10} {number:>5}  {prompt}".rstrip())
    guessed = [f"{row['name']} {row['pseudo_cases']}" for row in info["classes"] if row["pseudo_cases"]]
    if guessed:
        lines += ["", f"Pseudo labels, no truth, in so many of these cases: {', '.join(guessed)}"]
    return "\n".join(lines)


def _extension_text(entry: Mapping) -> str:
    text = f"{entry['model']}, fold {entry['fold']} ({entry['mode']})"
    return text + (f"; known before: {', '.join(entry['known'])}" if entry["known"] else "")


def _fold_text(entry: Mapping) -> str:
    checkpoints = ", ".join(name.removesuffix(".pth") for name in entry["checkpoints"]) or "no checkpoint"
    return checkpoints + (", validated" if entry["validated"] else "")
