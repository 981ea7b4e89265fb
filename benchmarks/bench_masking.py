"""What the masked loss is for: against a baseline that takes unknown for background, on two partly labelled datasets.

    python benchmarks/bench_masking.py                                # 3 seeds of 5 x 100 iterations for each trainer
    python benchmarks/bench_masking.py --epochs 1 --iterations 2 --seeds 1   # a smoke test; the table says so

One synthetic dataset annotates the liver and its tumours, the other the spleen; both organs are visible in all images.
Both trainers get the same plans, cases, iterations and seeds, and differ in nothing but which (case, class) pairs give
loss. Dice of the validation cases of fold 0, each class in the cases that annotate it. Writes results/masking.md.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import table, write_result

from nnunetv2_clip.manifest import read_json

DATASET, PLANS = "Dataset900_Masking", "CLIPSmallPlans"
TASKS = {"msd_liver": "Task03_Liver", "msd_spleen": "Task09_Spleen"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10, help="training cases of each dataset (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="of each epoch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each trainer (default: %(default)s)")
    parser.add_argument("--spacing", type=float, nargs=3, default=(8, 8, 10), metavar="MM")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args)
        os.environ["nnUNet_n_proc_DA"] = "0"  # batches in this process: the seed decides them
        os.environ["nnUNet_clip_demo_epochs"] = str(args.epochs)
        os.environ["nnUNet_clip_demo_iterations"] = str(args.iterations)
        dice = {
            name: [train(unmasked, seed, Path(folder)) for seed in range(args.seeds)]
            for name, unmasked in (("masked", False), ("unmasked", True))
        }
    write_result("masking", "Masked loss against unknown = background", describe(args), report(dice))


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Phantoms, merge, plans and preprocessed cases, by the commands that a user types."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1")
    sources = [f"{name}={folder / 'msd' / name / task}" for name, task in TASKS.items()]
    size = ["--cases", args.cases, "--test-cases", 1, "--spacing", *args.spacing]
    call("nnunetv2_clip", "phantom", "-o", folder / "msd", *size, "--sources", *TASKS)
    given = [text for source in sources for text in ("--source", source)]
    call("nnunetv2_clip", "convert", "-d", 900, "--name", "Masking", "-np", 1, *given)
    call("nnunetv2_clip", "embed", "-d", 900, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", 900, "-np", 1)
    call("nnunetv2_clip", "plan", "-d", 900, "-pl", "small")
    call("nnUNetv2_preprocess", "-d", 900, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1)


def call(*command: object) -> None:
    script = Path(sys.executable).parent / str(command[0])
    subprocess.run([script, *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)


def train(unmasked: bool, seed: int, folder: Path) -> dict[str, float]:
    """One training of fold 0 on the CPU: class -> Dice over the validation cases that annotate it."""
    from nnunetv2_clip.training.variants import CLIPUniversalTrainerDemo, CLIPUniversalTrainerUnmasked

    class UnmaskedDemo(CLIPUniversalTrainerUnmasked, CLIPUniversalTrainerDemo):
        """The baseline with the recipe of the demo."""

    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    os.environ["nnUNet_results"] = str(folder / f"results_{seed}")
    preprocessed = folder / "nnUNet_preprocessed" / DATASET
    plans = {**read_json(preprocessed / f"{PLANS}.json", "plan"), "continue_training": False}
    dataset_json = read_json(preprocessed / "dataset.json", "plan")
    trainer_class = UnmaskedDemo if unmasked else CLIPUniversalTrainerDemo
    trainer = trainer_class(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.run_training()
    trainer.perform_actual_validation()
    mean = read_json(Path(trainer.output_folder) / "validation" / "summary.json", "train")["mean"]
    return {
        name: mean[str(tuple(dataset_json["labels"][name]))]["Dice"]
        for name, trained in zip(trainer.classes, trainer.trained, strict=True)
        if trained
    }


def describe(args: argparse.Namespace) -> str:
    spacing = " x ".join(map(str, args.spacing))
    return (
        f"{args.cases} training cases of each of {', '.join(TASKS)} (synthetic, {spacing} mm), "
        f"small plans, {args.epochs} x {args.iterations} iterations, {args.seeds} seed(s), fold 0. "
        "Dice of the validation cases that annotate the class: mean over the seeds (lowest to highest)."
    )


def report(dice: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name in dice["masked"][0]:
        values = {trainer: np.array([run[name] for run in runs]) for trainer, runs in dice.items()}
        cells = [f"{v.mean():.3f} ({v.min():.3f} to {v.max():.3f})" for v in values.values()]
        rows.append([name, *cells, f"{values['masked'].mean() - values['unmasked'].mean():+.3f}"])
    return table(["class", *dice, "difference"], rows)


if __name__ == "__main__":
    main()
