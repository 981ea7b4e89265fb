"""A class added to a trained model: what becomes of the old classes, and does the new one learn faster than alone?

    python benchmarks/bench_extension.py                  # 3 seeds; each trains 4 networks of 5 x 100 iterations
    python benchmarks/bench_extension.py --small          # a smoke test; the table says so

The old model learns from three partly labelled synthetic datasets (liver and spleen, pancreas, their tumours). Other
patients annotate one new class alone: both kidneys as one, which no universal class is. From the same old model the
class is added frozen and by fine-tuning with the old model's pseudo labels; a network with the same plans learns it
from scratch in as many steps. Dice on unseen patients with truth for every class. Writes results/extension.md.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import torch
from common import table, verdict, write_result

from nnunetv2_clip.manifest import read_json, write_json
from nnunetv2_clip.phantom.layouts.base import SourceTruth

OLD, NEW = "Dataset900_Universal", "Dataset901_Kidneys"
PLANS = "CLIPSmallPlans"
TASKS = {"msd_liver": "Task03_Liver", "msd_spleen": "Task09_Spleen", "msd_pancreas": "Task07_Pancreas"}
OLD_CLASSES = ("liver", "spleen", "pancreas", "liver_tumor", "pancreas_tumor")
NEW_CLASS, NEW_IS = "kidneys", ("right_kidney", "left_kidney")
CLASS_TABLE = f"classes: [{{index: 33, name: {NEW_CLASS}}}]\n"
SOURCE_TABLE = """name: hospital
images: images/{case}.nii.gz
labels: labels/{case}.nii.gz
values: {5: kidneys}
other_values: background
"""
MODELS = ("old", "frozen", "fine-tuned", "from scratch")
MOST_LOST = 0.005  # Dice that fine-tuning may cost the old classes


@dataclass
class Run:
    """What one seed gave: model -> class -> mean Dice over the test patients, and the seconds of its training."""

    dice: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    is_identical: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=8, help="training cases of each dataset (default: %(default)s)")
    parser.add_argument("--test-cases", type=int, default=4, help="unseen patients (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="of each epoch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--spacing", type=float, nargs=3, default=(8, 8, 10), metavar="MM")
    parser.add_argument("--small", action="store_true", help="1 seed, 5 cases, 1 x 4 iterations, 12 mm")
    args = parser.parse_args()
    if args.small:
        args.cases, args.test_cases, args.epochs, args.iterations, args.seeds = 5, 1, 1, 4, 1
        args.spacing = (12, 12, 12)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, args)
        os.environ["nnUNet_n_proc_DA"] = "0"  # batches in this process: the seed decides them
        os.environ["nnUNet_clip_demo_epochs"] = str(args.epochs)
        os.environ["nnUNet_clip_demo_iterations"] = str(args.iterations)
        runs = [one_seed(seed, work) for seed in range(args.seeds)]
    write_result("extension", "A class added to a trained model", describe(args), *report(runs))


def prepare(work: Path, args: argparse.Namespace) -> None:
    """Both datasets, converted; the old one planned and preprocessed."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / name).mkdir()
        os.environ[name] = str(work / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1")
    size = ["--cases", args.cases, "--spacing", *args.spacing]
    call("nnunetv2_clip", "phantom", "-o", work / "msd", *size, "--test-cases", 1, "--sources", *TASKS)
    others = ["--test-cases", args.test_cases, "--seed", 1000]
    call("nnunetv2_clip", "phantom", "-o", work / "own", *size, *others, "--sources", "custom")
    sources = [f"{name}={work / 'msd' / name / task}" for name, task in TASKS.items()]
    given = [text for source in sources for text in ("--source", source)]
    call("nnunetv2_clip", "convert", "-d", 900, "-np", 1, *given)
    call("nnunetv2_clip", "embed", "-d", 900, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", 900, "-np", 1)
    call("nnunetv2_clip", "plan", "-d", 900, "-pl", "small")
    call("nnUNetv2_preprocess", "-d", 900, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1)
    root = Path(SourceTruth.load(work / "own" / "custom").root)
    (work / "classes.yaml").write_text(CLASS_TABLE)
    (root / "table.yaml").write_text(SOURCE_TABLE)
    own = ["--classes", work / "classes.yaml", "--source", f"custom={root / 'table.yaml'}"]
    call("nnunetv2_clip", "convert", "-d", 901, "--name", "Kidneys", "-np", 1, *own)
    call("nnunetv2_clip", "embed", "-d", 901, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", 901, "-np", 1)


def call(*command: object) -> None:
    script = Path(sys.executable).parent / str(command[0])
    subprocess.run([script, *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)


def one_seed(seed: int, work: Path) -> Run:
    """The old model, its two extensions and the network from scratch."""
    run = Run()
    models = {"old": train(run, "old", OLD, PLANS, seed)}
    models["frozen"] = train(run, "frozen", NEW, extend(models["old"], 901, "frozen", f"Frozen{seed}"), seed)
    number = 910 + seed
    call("nnunetv2_clip", "pseudo-label", "-d", 901, "-m", models["old"], "-o", number, "-device", "cpu")
    call("nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)
    plans = extend(models["old"], number, "fine-tune", f"FineTuned{seed}")
    models["fine-tuned"] = train(run, "fine-tuned", f"Dataset{number}_Completed", plans, seed)
    models["from scratch"] = train(run, "from scratch", NEW, plans_from_scratch(seed), seed)
    for name, model in models.items():
        run.dice[name] = test_dice(model, work, work / f"{name}_{seed}".replace(" ", "_"))
    run.is_identical = old_logits_are_identical(models["old"], models["frozen"])
    return run


def extend(model: Path, dataset: int, mode: str, plans: str) -> str:
    """Prepared and preprocessed by the commands that a user types; the name of the plans."""
    call("nnunetv2_clip", "extend", "-m", model, "-d", dataset, "--mode", mode, "-p", plans)
    call("nnUNetv2_preprocess", "-d", dataset, "-plans_name", plans, "-c", "3d_fullres", "-np", 1)
    return plans


def plans_from_scratch(seed: int) -> str:
    """The plans of the extension without what it starts from; they share its preprocessed cases."""
    folder = Path(os.environ["nnUNet_preprocessed"]) / NEW
    plans = read_json(folder / f"Frozen{seed}.json", "extend")
    name = f"Scratch{seed}"
    write_json(folder / f"{name}.json", {**plans, "plans_name": name, "nnunetv2_clip": {}})
    return name


def train(run: Run, name: str, dataset: str, plans_name: str, seed: int) -> Path:
    """One training on the CPU with all cases of the dataset (the test patients are others); the model folder."""
    from nnunetv2_clip.training.variants import CLIPUniversalTrainerDemo

    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    results = Path(os.environ["nnUNet_results"])
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
    plans = {**read_json(folder / f"{plans_name}.json", "plan"), "continue_training": False}
    dataset_json = read_json(folder / "dataset.json", "plan")
    os.environ["nnUNet_results"] = str(results)
    trainer = CLIPUniversalTrainerDemo(plans, "3d_fullres", "all", dataset_json, torch.device("cpu"))
    start = time.perf_counter()
    trainer.run_training()
    run.seconds[name] = time.perf_counter() - start
    model = Path(trainer.output_folder_base)
    return model.rename(model.with_name(f"{model.name}_{seed}_{name.replace(' ', '_')}"))


def test_dice(model: Path, work: Path, output: Path) -> dict[str, float]:
    """Class -> mean Dice over the unseen patients in which it occurs; only classes that the model has learnt."""
    from nnunetv2_clip.model_files import known_classes

    source = SourceTruth.load(work / "own" / "custom")
    images = Path(source.root) / "images_test"
    known = set(known_classes(model)) & {*OLD_CLASSES, NEW_CLASS}
    call("nnunetv2_clip", "predict", "-i", images, "-o", output, "-m", model, "--outputs", "masks", "--classes", *known,
         "--disable_tta", "-device", "cpu")  # fmt: skip
    labels = read_json(work / "own" / "custom" / "truth" / "dataset.json", "phantom")["labels"]
    dice: dict[str, list[float]] = {name: [] for name in (*OLD_CLASSES, NEW_CLASS) if name in known}
    for image in sorted(images.glob("*.nii.gz")):
        truth = load(work / "own" / "custom" / "truth" / image.name)
        for name, values in dice.items():
            wanted = np.isin(truth, [v for part in (NEW_IS if name == NEW_CLASS else (name,)) for v in labels[part]])
            found = load(output / image.name.removesuffix(".nii.gz") / f"{name}.nii.gz") > 0
            if wanted.any():
                values.append(2 * (wanted & found).sum() / (wanted.sum() + found.sum()))
    return {name: float(np.mean(values)) for name, values in dice.items() if values}


def load(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def old_logits_are_identical(old: Path, new: Path) -> bool:
    """Both networks on one patch of noise, bit by bit."""
    from nnunetv2_clip.inference.restricted import load_predictor

    results = []
    for model in (old, new):
        predictor = load_predictor(model, OLD_CLASSES, device="cpu")
        network = predictor.network.eval()
        network.load_state_dict(predictor.list_of_parameters[0])
        patch = predictor.configuration_manager.patch_size
        with torch.inference_mode():
            results.append(network(torch.randn(1, 1, *patch, generator=torch.Generator().manual_seed(0))))
    return torch.equal(*results)


def describe(args: argparse.Namespace) -> str:
    spacing = " x ".join(f"{each:g}" for each in args.spacing)
    kind = "**A smoke test, not a result.** " if args.small else ""
    return (
        f"{kind}{args.cases} training cases of each of {', '.join(TASKS)} for the old model, {args.cases} others with "
        f"the new class alone ({NEW_CLASS}); {args.test_cases} unseen patients (synthetic, {spacing} mm); small plans; "
        f"each training {args.epochs} x {args.iterations} iterations; {args.seeds} seed(s). Dice: mean over the seeds "
        "(lowest to highest)."
    )


def report(runs: list[Run]) -> list[str]:
    rows = []
    for name in (*OLD_CLASSES, NEW_CLASS):
        cells = [spread([run.dice[model].get(name, np.nan) for run in runs]) for model in MODELS]
        rows.append([f"**{name}** (new)" if name == NEW_CLASS else name, *cells])
    rows.append(["old classes, mean", *(spread([old_mean(run, model) for run in runs]) for model in MODELS)])
    rows.append(["seconds of training", *(spread([run.seconds[model] for run in runs], ".0f") for model in MODELS)])
    lost = max(old_mean(run, "old") - old_mean(run, "fine-tuned") for run in runs)
    ahead = [run.dice["frozen"][NEW_CLASS] - run.dice["from scratch"][NEW_CLASS] for run in runs]
    identical = sum(run.is_identical for run in runs)
    goals = [
        ["frozen: old logits identical to the bit", f"{identical} of {len(runs)} seeds", verdict(identical, len(runs))],
        ["fine-tuned: old classes lose at most 0.5 Dice points", f"{100 * lost:.2f}", verdict(lost, MOST_LOST, True)],
        ["frozen: new class against from scratch (no goal)", f"{100 * np.mean(ahead):+.1f} Dice points", "-"],
    ]
    return [table(["class", *MODELS], rows), table(["", "measured", "goal reached"], goals)]


def old_mean(run: Run, model: str) -> float:
    """NaN for the network that has never seen the old classes."""
    found = [run.dice[model][name] for name in OLD_CLASSES if name in run.dice[model]]
    return float(np.mean(found)) if found else np.nan


def spread(values: list[float], form: str = ".3f") -> str:
    if np.isnan(values).all():
        return "-"
    return f"{np.mean(values):{form}} ({np.min(values):{form}} to {np.max(values):{form}})"


if __name__ == "__main__":
    main()
