"""A class added to a trained model: what becomes of the old classes, and does the new one learn faster than alone?

    python benchmarks/bench_extension.py            # 3 seeds, each trains 4 networks
    python benchmarks/bench_extension.py --small    # a smoke test; the table says so

The patients are those of bench_proof.py. The old model learns from three partly labelled datasets; the fourth hospital
annotates one new class alone: both kidneys as one, which no universal class is. From the same old model the class is
added frozen, and by fine-tuning with the old model's pseudo labels; a network with the same plans learns it from
scratch in as many steps. Seeds that are finished are kept in the work folder (-w). Writes results/extension.md.
"""

# Shapes: K classes; X Y Z voxels of a patient, RAS; nnU-Net's arrays are Z Y X.

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from common import RESULTS, table, verdict, write_result
from proof_patients import SOURCES
from proof_study import (
    MEMORY_GB,
    PLANS,
    Dataset,
    Size,
    Study,
    as_input,
    begin,
    call,
    convert,
    dice,
    make_predictor,
    preprocess,
    preprocessed,
    train,
)
from proof_trainers import trainers

from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.phantom.anatomy import Phantom

OLD, NEW, COMPLETED = (900, "Old"), (901, "Kidneys"), (911, "Completed")
NEW_SOURCE, NEW_CLASS, NEW_IS = "renal", "kidneys", ("right_kidney", "left_kidney")
OLD_SOURCES = tuple(source for source in SOURCES if source != NEW_SOURCE)
OLD_CLASSES = tuple(name for source in OLD_SOURCES for name in SOURCES[source])
MODELS = ("old", "frozen", "fine-tuned", "from scratch")
MOST_LOST = 0.005  # Dice that fine-tuning may cost the old classes


@dataclass(frozen=True)
class Steps:
    """Training steps of the old model, and of each network that learns the new class."""

    old: int
    new: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--work", type=Path, default=Path("extension_work"), help="(default: %(default)s)")
    parser.add_argument("--cases", type=int, default=40, help="patients of each dataset (default: %(default)s)")
    parser.add_argument("--test-cases", type=int, default=24, help="unseen patients (default: %(default)s)")
    parser.add_argument("--old-steps", type=int, default=600, help="of the old model (default: %(default)s)")
    parser.add_argument("--new-steps", type=int, default=300, help="of the three others (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="1 seed, 3 patients, 20 steps: the figures mean nothing")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    if args.small:
        args.cases, args.test_cases, args.old_steps, args.new_steps, args.seeds = 3, 2, 20, 20, 1
    runs = [one_seed(args, seed) for seed in range(args.seeds)]
    folder = args.work if args.small or args.seeds < 3 else RESULTS
    write_result("extension", "A class added to a trained model", describe(args), *report(runs), folder=folder)


def one_seed(args: argparse.Namespace, seed: int) -> dict:
    """Model -> class -> Dice over the test patients, seconds of the trainings, and the test of identity; kept."""
    name = f"{args.cases}cases_{args.test_cases}test_{args.old_steps}+{args.new_steps}steps_{args.device}_seed{seed}"
    folder = args.work.resolve() / name
    path = folder / "scores.json"
    if not path.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # `extend` and `pseudo-label` do not go on with other weights
        study = Study(folder, seed, Size(args.cases, args.test_cases, args.old_steps, (9, 9, 9)), args.device)
        prepare(study)
        write_json(path, train_and_score(study, Steps(args.old_steps, args.new_steps)))
    return json.loads(path.read_text())


# ---------------------------------------------------------------- data


def prepare(study: Study) -> None:
    """The dataset of the old model, planned and preprocessed, and that of the new class, converted."""
    study.use_folders()
    tables = {source: pair[0] for source, pair in study.write_patients().items()}
    convert(OLD, [tables[source] for source in OLD_SOURCES])
    call("nnunetv2_clip", "plan", "-d", OLD[0], "-pl", "small", "-gpu_memory_target", MEMORY_GB)
    preprocess(OLD, PLANS)
    (study.folder / "classes.yaml").write_text(f"classes: [{{index: 33, name: {NEW_CLASS}}}]\n")
    convert(NEW, [as_one_class(tables[NEW_SOURCE])], "--taxonomy", study.folder / "classes.yaml")


def as_one_class(path: Path) -> Path:
    """The table of a source whose every label value means the new class."""
    content = yaml.safe_load(path.read_text())
    content["values"] = {value: [NEW_CLASS] for value in content["values"]}
    path = path.with_name("kidneys.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


# ---------------------------------------------------------------- trainings


def train_and_score(study: Study, steps: Steps) -> dict:
    models, networks, seconds = {}, {}, {}

    def add(name: str, dataset: Dataset, plans: str, num_steps: int) -> None:
        start = time.perf_counter()
        trainer = train_and_save(study, dataset, plans, num_steps)
        seconds[name] = time.perf_counter() - start
        models[name], networks[name] = Path(trainer.output_folder_base), trainer

    add("old", OLD, PLANS, steps.old)
    add("frozen", NEW, extended(models["old"], NEW, "frozen", "Frozen"), steps.new)
    call(
        "nnunetv2_clip", "pseudo-label", "-d", NEW[0], "-m", models["old"], "-o", COMPLETED[0], "-device", study.device
    )
    call("nnUNetv2_extract_fingerprint", "-d", COMPLETED[0], "-np", 1)
    add("fine-tuned", COMPLETED, extended(models["old"], COMPLETED, "fine-tune", "FineTuned"), steps.new)
    add("from scratch", NEW, without_start("Frozen", "Scratch"), steps.new)
    return {
        "dice": {name: score(study, trainer) for name, trainer in networks.items()},
        "seconds": seconds,
        "identical": old_logits_are_identical(networks["old"], networks["frozen"]),
    }


def extended(model: Path, dataset: Dataset, mode: str, plans: str) -> str:
    """Prepared and preprocessed by the commands that a user types; the name of the plans."""
    call("nnunetv2_clip", "extend", "-m", model, "-d", dataset[0], "--mode", mode, "-overwrite_plans_name", plans)
    preprocess(dataset, plans)
    return plans


def without_start(plans_name: str, name: str) -> str:
    """The plans of the extension without what it starts from; they share its preprocessed cases."""
    folder = preprocessed(NEW)
    plans = read_json(folder / f"{plans_name}.json", "extend")
    write_json(folder / f"{name}.json", {**plans, "plans_name": name, "nnunetv2_clip": {}})
    return name


def train_and_save(study: Study, dataset: Dataset, plans_name: str, num_steps: int):
    """The trainer of bench_proof.py with a model folder that `extend` and `pseudo-label` can read."""
    trainer_class = type("CLIPUniversalTrainerDemo", (trainers()["masked"],), {})  # a name that prediction finds
    trainer = begin(study, trainer_class, dataset, plans_name)
    train(trainer, num_steps)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return trainer


# ---------------------------------------------------------------- figures


def score(study: Study, trainer) -> dict[str, float]:
    """Class -> mean Dice over the unseen patients in which it occurs, for each class that the model has learnt."""
    predictor = make_predictor(trainer)
    trained = trainer.network.class_embedding.trained.tolist()
    channels = {name: k for k, (name, known) in enumerate(zip(trainer.classes, trained, strict=True)) if known}
    names = [name for name in (*OLD_CLASSES, NEW_CLASS) if name in channels]
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(study.size.test_cases):
        patient = study.test_patient(number)
        masks = predicted_masks(predictor, patient)
        for name in names:
            reference = np.any([patient.masks[part] for part in (NEW_IS if name == NEW_CLASS else (name,))], axis=0)
            if reference.any():
                found[name].append(dice(reference, masks[channels[name]]))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def predicted_masks(predictor, patient: Phantom) -> np.ndarray:
    """(K, X, Y, Z) bool, each class by itself."""
    _, probabilities = predictor.predict_single_npy_array(*as_input(patient), save_or_return_probabilities=True)
    return np.asarray(probabilities).transpose(0, 3, 2, 1) > 0.5


def old_logits_are_identical(old, new) -> bool:
    """Both networks on one patch of noise, bit by bit, as prediction computes the old classes."""
    patch = torch.randn(1, 1, *old.configuration_manager.patch_size, generator=torch.Generator().manual_seed(0))
    results = []
    for trainer in (old, new):
        logits = dict(zip(trainer.classes, trainer.network.eval()(patch.to(trainer.device))[0], strict=True))
        results.append(torch.stack([logits[name] for name in OLD_CLASSES]))
    return torch.equal(*results)


def describe(args: argparse.Namespace) -> str:
    datasets = "; ".join(f"{source}: {', '.join(SOURCES[source])}" for source in OLD_SOURCES)
    kind = "**A smoke test, not a result.** " if args.small else ""
    return (
        f"{kind}Patients, plans and optimizer of bench_proof.py. The old model: {args.cases} training patients of each "
        f"of three datasets ({datasets}), {args.old_steps} steps. The others: {args.cases} more patients with the new "
        f"class alone ({NEW_CLASS}), {args.new_steps} steps. {args.test_cases} unseen patients; {args.seeds} seed(s). "
        "Dice: mean over the seeds (lowest to highest)."
    )


def report(runs: list[dict]) -> list[str]:
    rows = []
    for name in (*OLD_CLASSES, NEW_CLASS):
        cells = [spread([run["dice"][model].get(name, np.nan) for run in runs]) for model in MODELS]
        rows.append([f"**{name}** (new)" if name == NEW_CLASS else name, *cells])
    rows.append(["old classes, mean", *(spread([old_mean(run, model) for run in runs]) for model in MODELS)])
    rows.append(["seconds of training", *(spread([run["seconds"][model] for run in runs], ".0f") for model in MODELS)])
    lost = np.mean([old_mean(run, "old") - old_mean(run, "fine-tuned") for run in runs])
    ahead = {
        model: np.mean([run["dice"][model][NEW_CLASS] - run["dice"]["from scratch"][NEW_CLASS] for run in runs])
        for model in ("frozen", "fine-tuned")
    }
    identical = sum(run["identical"] for run in runs)
    goals = [
        ["frozen: old logits identical to the bit", f"{identical} of {len(runs)} seeds", verdict(identical, len(runs))],
        ["fine-tuned: old classes lose at most 0.5 Dice points", f"{100 * lost:.2f}", verdict(lost, MOST_LOST, True)],
        *(
            [f"{model}: new class against from scratch (no goal)", f"{100 * gain:+.1f} Dice points", "-"]
            for model, gain in ahead.items()
        ),
    ]
    return [table(["class", *MODELS], rows), table(["", "measured", "goal reached"], goals)]


def old_mean(run: dict, model: str) -> float:
    """NaN for the network that has never seen the old classes."""
    found = [run["dice"][model][name] for name in OLD_CLASSES if name in run["dice"][model]]
    return float(np.mean(found)) if found else np.nan


def spread(values: list[float], form: str = ".3f") -> str:
    if np.isnan(values).all():
        return "-"
    return f"{np.mean(values):{form}} ({np.min(values):{form}} to {np.max(values):{form}})"


if __name__ == "__main__":
    main()
