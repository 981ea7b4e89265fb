"""What a trained model is: classes, prompts, encoder, training data, validation."""

import math
from collections.abc import Mapping

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.trained_model import PLANS_JSON, TrainedModel
from nnunetv2_clip.training.progress_picture import CURVES_FILE, dead_classes

SUMMARY = "validation/summary.json"


def describe_model(model: TrainedModel) -> dict:
    """Everything that `info` tells, as JSON.

    Raises:
        UserError: plans or dataset.json are missing or damaged, or the model is not universal.
    """
    trainer, _, rest = model.name.partition("__")
    plans_name, _, configuration = rest.rpartition("__")
    if not is_named_as_trained(model):
        trainer, plans_name = "", model.plans.get("plans_name", "")
    return {
        "model": str(model.where),
        "name": model.name,
        "trainer": trainer,
        "plans": plans_name,
        "configuration": model.configuration,
        "dataset": model.plans.get("dataset_name", ""),
        "nnunetv2_clip": model.entry.get("version", ""),
        "commit": model.entry.get("commit", ""),
        "licence": model.licence,
        "redistribution": model.may_be_shared,
        "licences": model.licences,
        "network": _network(model),
        "text": {key: model.text.get(key, "") for key in ("encoder", "library", "weights", "sha256")},
        "datasets": model.entry.get("datasets") or {},
        "extends": model.extension,
        "folds": {
            fold: {
                "checkpoints": list(names),
                "validated": f"fold_{fold}/{SUMMARY}" in model.files,
                "dead": _dead_classes(model, f"fold_{fold}/{CURVES_FILE}"),
            }
            for fold, names in model.checkpoints.items()
        },
        "classes": _classes(model),
    }


def is_named_as_trained(model: TrainedModel) -> bool:
    """Is the folder called TRAINER__PLANS__CONFIGURATION still."""
    return model.name.count("__") > 1 and model.name.endswith(f"__{model.configuration}")


def _network(model: TrainedModel) -> dict:
    """What the trained configuration builds."""
    settings = model.settings
    return {
        "class": settings["architecture"]["network_class_name"],
        "backbone": str(model.arguments.get("backbone_class", "")).rpartition(".")[2],
        "patch_size": settings.get("patch_size", []),
        "spacing": settings.get("spacing", []),
        "batch_size": settings.get("batch_size"),
    }


def _classes(model: TrainedModel) -> list[dict]:
    prompts = dict(zip(model.text.get("class_names", ()), model.text.get("prompts", ()), strict=False))
    datasets = model.entry.get("datasets") or {}
    dice = _validation_dice(model)
    rows = []
    for name in model.classes:
        supervised = {
            source: entry["supervised"][name]
            for source, entry in datasets.items()
            if name in entry.get("supervised", {})
        }
        values = dice.get(name, [])
        rows.append(
            {
                "index": model.taxonomy.find(name, model.label(PLANS_JSON)).index,
                "name": name,
                "prompts": list(prompts.get(name, ())),
                "cases": supervised,
                **{f"{state}_cases": _num_cases(datasets, state, name) for state in ("pseudo", "incomplete")},
                "validation_dice": sum(values) / len(values) if values else None,
                "validation_cases": len(values),
            }
        )
    return rows


def _num_cases(datasets: Mapping, state: str, name: str) -> int:
    return sum(entry.get(state, {}).get(name, 0) for entry in datasets.values())


def _validation_dice(model: TrainedModel) -> dict[str, list[float]]:
    """Class -> Dice of every validation case of all folds in which it is defined.

    Raises:
        UserError: a summary.json that names no classes (written by another trainer).
    """
    found: dict[str, list[float]] = {}
    for file in (file for fold in model.checkpoints if (file := f"fold_{fold}/{SUMMARY}") in model.files):
        summary = model.read_json(file)
        try:
            names = summary["class_names"]
            for case in summary["metric_per_case"]:
                for region, metrics in case["metrics"].items():
                    value = metrics["Dice"]
                    if value is not None and not math.isnan(value):
                        found.setdefault(names[region], []).append(value)
        except (KeyError, TypeError, AttributeError) as error:
            found = f"cannot be used ({error!r})"
            raise UserError(model.label(file), found, "the validation of CLIPUniversalTrainer") from None
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
        ("made with", f"nnunetv2_clip {info['nnunetv2_clip']} {info['commit'][:12]}".rstrip()),
        ("folds", "; ".join(f"{fold}: {_fold_text(entry)}" for fold, entry in info["folds"].items()) or "none"),
    ]
    if info["extends"]:
        head.append(("extends", _extension_text(info["extends"])))
    if info["licence"]:
        head.append(("licence", info["licence"] + ("" if info["redistribution"] else "; not to be passed on")))
    lines = [f"{key + ':':11} {value}" for key, value in head]
    if info["datasets"]:
        lines += ["", f"{'source':24} cases  classes"]
        lines += [f"{name:24} {e['cases']:5}  {', '.join(e['supervised'])}" for name, e in info["datasets"].items()]
    if info["licences"]:
        lines += ["", f"{'source':24} licence of the training data"]
        lines += [f"{name:24} {text}" for name, text in info["licences"].items()]
    lines += ["", f"{'':3} {'class':26} {'cases':>6} {'val. Dice':>10} {'n':>5}  prompt"]
    for row in info["classes"]:
        dice = "" if row["validation_dice"] is None else f"{row['validation_dice']:.3f}"
        number = row["validation_cases"] or ""
        cases = sum(row["cases"].values()) or ""
        prompt = " | ".join(row["prompts"])
        lines.append(f"{row['index']:3} {row['name']:26} {cases:>6} {dice:>10} {number:>5}  {prompt}".rstrip())
    for state, what in (("pseudo", "Pseudo labels, no truth,"), ("incomplete", "Incomplete, drawn in part,")):
        counted = [f"{row['name']} {number}" for row in info["classes"] if (number := row[f"{state}_cases"])]
        lines += ["", f"{what} in so many of these cases: {', '.join(counted)}"] if counted else []
    return "\n".join(lines)


def _extension_text(entry: Mapping) -> str:
    text = f"{entry['model']}, fold {entry['fold']} ({entry['mode']})"
    return text + (f"; known before: {', '.join(entry['known'])}" if entry["known"] else "")


def _dead_classes(model: TrainedModel, curves: str) -> list[str]:
    """Empty as well where the training left no log, as in a zip."""
    if curves not in model.files:
        return []
    try:
        return dead_classes(model.read_json(curves))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(model.label(curves), f"cannot be used ({error!r})", "the log of CLIPUniversalTrainer") from None


def _fold_text(entry: Mapping) -> str:
    checkpoints = ", ".join(name.removesuffix(".pth") for name in entry["checkpoints"]) or "no checkpoint"
    dead = f", DEAD (empty in training): {', '.join(entry['dead'])}" if entry["dead"] else ""
    return checkpoints + (", validated" if entry["validated"] else "") + dead
