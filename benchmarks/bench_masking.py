"""What the mask is for: two partly labelled datasets, unknown classes left out of the loss or taken for background.

    python benchmarks/bench_masking.py            # 2 x 2 trainings for each of 3 seeds
    python benchmarks/bench_masking.py --small    # a smoke test; the table says so

Two hospitals annotate different organs, and each has a scanner of its own, as datasets from different hospitals do:
standard dose, or low dose (more noise) with a smooth kernel. Half of the test patients come from each scanner. Masked
and unmasked are compared with Dice over the batch, which nnU-Net plans for 2d and for the 3d_fullres of scans that are
large beside the patch (there is a 3d_lowres then), and with Dice over each case, which it plans for small scans and
where a case without a class has next to no gradient. Trainings that are finished are kept in the work folder (-w).
Writes results/masking.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import RESULTS, table, write_result
from proof_patients import Scanner
from proof_study import LEARNING_RATE, WEIGHT_DECAY, Size, Study, class_dice, spread
from proof_trainers import trainers

SOURCES = {"standard": ("liver", "right_kidney", "aorta"), "low_dose": ("stomach", "spleen", "left_kidney", "postcava")}
CLASSES = tuple(name for names in SOURCES.values() for name in names)
SCANNERS = {"standard": Scanner("standard"), "low_dose": Scanner("low_dose", noise_hu=25, blur_mm=5)}
# Trainers of proof_trainers.py: masked, unmasked.
SETTINGS = {"Dice over the batch": ("masked_batch", "unmasked_batch"), "Dice over each case": ("masked", "unmasked")}
ARMS = {arm: f"{setting}: {arm.split('_')[0]}" for setting, arms in SETTINGS.items() for arm in arms}
Scores = dict[str, list[list[dict]]]  # arm -> seed -> test patient -> class -> figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--work", type=Path, default=Path("masking_work"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a smoke test in minutes: the figures mean nothing")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    if args.small:
        size, args.seeds = Size(cases=3, test_cases=2, steps=20, spacing_mm=(12, 12, 12)), 1
    else:
        size = Size(cases=40, test_cases=24, steps=args.steps, spacing_mm=(9, 9, 9))
    scores: Scores = {arm: [] for arm in ARMS}
    for seed in range(args.seeds):
        study = make_study(args, size, seed)
        study.prepare()
        for arm in ARMS:
            print(f"seed {seed}: {arm}", flush=True)
            trainer_class = trainers()[arm]
            scores[arm].append(study.scores(arm, lambda study, t=trainer_class: study.train_universal(t)))
    folder = args.work if args.small or args.seeds < 3 else RESULTS
    title = "Masked back-propagation against unknown as background"
    write_result("masking", title, *report(args, size, scores), folder=folder)


def make_study(args: argparse.Namespace, size: Size, seed: int) -> Study:
    folder = args.work.resolve() / f"{size.cases}cases_{size.steps}steps_{args.device}_seed{seed}"
    return Study(folder, seed, size, args.device, SOURCES, tuple(SCANNERS.values()), SCANNERS)


def report(args: argparse.Namespace, size: Size, scores: Scores) -> list[str]:
    rows = [
        [name, source, *(spread(class_dice(scores[arm], name)) for arm in ARMS)]
        for source, names in SOURCES.items()
        for name in names
    ]
    for title, chosen in (("all, patients of the annotating scanner", True), ("all, of the other scanner", False)):
        rows.append([title, "", *(spread(by_scanner(scores[arm], chosen)) for arm in ARMS)])
    means = {arm: np.nanmean([class_dice(scores[arm], name) for name in CLASSES], axis=0) for arm in ARMS}
    rows.append(["**all**", "", *(spread(means[arm]) for arm in ARMS)])
    return [
        describe(args, size),
        "Dice (%), mean ± standard deviation over the seeds.",
        table(["class", "annotated by", *ARMS.values()], rows),
        table(["masked is ahead", "classes", "classes x seeds", "Dice points (smallest class, all)"], gains(scores)),
    ]


def gains(scores: Scores) -> list[list[str]]:
    """A row for each setting: where masked is ahead of unmasked, and by how much."""
    rows = []
    for setting, (masked, unmasked) in SETTINGS.items():
        ahead = 100 * np.array([class_dice(scores[masked], n) - class_dice(scores[unmasked], n) for n in CLASSES])
        of_class = ahead.mean(1)
        counts = [f"{(values > 0).sum()} of {values.size}" for values in (of_class, ahead)]
        rows.append([setting, *counts, f"{of_class.min():+.1f}, {of_class.mean():+.1f}"])
    return rows


def by_scanner(runs: list[list[dict]], annotating: bool) -> np.ndarray:
    """(seeds,) mean over classes in the test patients from the scanner of the hospital that annotates the class.

    Args:
        annotating: False: in those from the other scanner.
    """
    means = []
    for number, names in enumerate(SOURCES.values()):  # test patients are scanned in turn: see Study.test_patient
        chosen = [patients[number if annotating else 1 - number :: 2] for patients in runs]
        means += [class_dice(chosen, name) for name in names]
    return np.nanmean(means, axis=0)


def describe(args: argparse.Namespace, size: Size) -> str:
    datasets = "; ".join(f"{source}: {', '.join(names)}" for source, names in SOURCES.items())
    low_dose = SCANNERS["low_dose"]
    smoke = "**A smoke test: the figures mean nothing.** " if args.small else ""
    spacing = " x ".join(f"{step:g}" for step in size.spacing_mm)
    return (
        f"{smoke}{size.cases} training patients of each of two hospitals ({datasets}), {size.test_cases} other test "
        f"patients, half from each scanner; {args.seeds} seed(s), each with patients and initial weights of its own. "
        f"Synthetic abdominal CTs of {spacing} mm as in bench_proof.py; low dose: {low_dose.noise_hu:g} HU more noise "
        f"after a kernel of {low_dose.blur_mm:g} mm. Small plans, {size.steps} steps, AdamW {LEARNING_RATE:g} (weight "
        f"decay {WEIGHT_DECAY:g}), no augmentation, device {args.device}."
    )


if __name__ == "__main__":
    main()
