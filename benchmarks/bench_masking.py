"""What the mask is for: two partly labelled datasets, unknown classes left out of the loss or taken for background.

    python benchmarks/bench_masking.py            # 2 x 2 trainings for each of 3 seeds
    python benchmarks/bench_masking.py --small    # a smoke test; the table says so

Two hospitals annotate different organs. Once each has a scanner of its own, as datasets from different hospitals do:
standard dose, or low dose (more noise) with a smooth kernel. Once the patients of both go to either scanner by lot. The
test patients, half from each scanner, are the same both times. Trainings that are finished are kept in the work folder
(-w). Writes results/masking.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import table, write_result
from proof_patients import Scanner
from proof_study import LEARNING_RATE, WEIGHT_DECAY, Size, Study, class_dice, spread
from proof_trainers import trainers

SOURCES = {"standard": ("liver", "right_kidney", "aorta"), "low_dose": ("stomach", "spleen", "left_kidney", "postcava")}
SCANNERS = {"standard": Scanner("standard"), "low_dose": Scanner("low_dose", noise_hu=25, blur_mm=5)}
ARMS = ("masked", "unmasked")
SETTINGS = {"own": "a scanner for each hospital", "lot": "either scanner by lot"}
Scores = dict[str, dict[str, list[list[dict]]]]  # setting -> arm -> seed -> test patient -> class -> figures


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
    scores = {setting: {arm: [] for arm in ARMS} for setting in SETTINGS}
    for seed in range(args.seeds):
        for setting in SETTINGS:
            study = make_study(args, size, setting, seed)
            study.prepare()
            for arm in ARMS:
                print(f"seed {seed}, {SETTINGS[setting]}: {arm}", flush=True)
                trainer_class = trainers()[arm]
                scores[setting][arm].append(study.scores(arm, lambda study, t=trainer_class: study.train_universal(t)))
    write_result("masking", "Masked back-propagation against unknown as background", *report(args, size, scores))


def make_study(args: argparse.Namespace, size: Size, setting: str, seed: int) -> Study:
    name = f"{setting}_{size.cases}cases_{size.steps}steps_{args.device}_seed{seed}"
    own = SCANNERS if setting == "own" else None
    return Study(args.work.resolve() / name, seed, size, args.device, SOURCES, tuple(SCANNERS.values()), own)


def report(args: argparse.Namespace, size: Size, scores: Scores) -> list[str]:
    columns = [(setting, arm) for setting in SETTINGS for arm in ARMS]
    header = ["class", "annotated by", *(f"{SETTINGS[setting]}: {arm}" for setting, arm in columns)]
    rows = [
        [name, source, *(spread(class_dice(scores[setting][arm], name)) for setting, arm in columns)]
        for source, names in SOURCES.items()
        for name in names
    ]
    for title, home in (("scanner of the annotating hospital", True), ("the other scanner", False)):
        cells = [spread(by_scanner(scores[setting][arm], home)) for setting, arm in columns]
        rows.append([f"all, {title}", "", *cells])
    every = [name for names in SOURCES.values() for name in names]
    rows.append(["**all**", "", *(spread(mean_dice(scores[setting][arm], every)) for setting, arm in columns)])
    ahead = {
        setting: sum(
            bool(class_dice(arms["masked"], name).mean() > class_dice(arms["unmasked"], name).mean()) for name in every
        )
        for setting, arms in scores.items()
    }
    seeds = {
        setting: sum(
            int((class_dice(arms["masked"], name) > class_dice(arms["unmasked"], name)).sum()) for name in every
        )
        for setting, arms in scores.items()
    }
    verdicts = [
        [SETTINGS[setting], f"{ahead[setting]} of {len(every)}", f"{seeds[setting]} of {len(every) * args.seeds}"]
        for setting in SETTINGS
    ]
    return [
        describe(args, size),
        "Dice (%), mean ± standard deviation over the seeds.",
        table(header, rows),
        table(["masked is ahead", "classes (mean)", "classes x seeds"], verdicts),
    ]


def mean_dice(runs: list[list[dict]], names: list[str]) -> np.ndarray:
    """(seeds,) mean over classes."""
    return np.nanmean([class_dice(runs, name) for name in names], axis=0)


def by_scanner(runs: list[list[dict]], home: bool) -> np.ndarray:
    """(seeds,) mean over classes in the test patients from the scanner of the hospital that annotates the class.

    Args:
        home: False: in those from the other scanner.
    """
    means = []
    for number, (source, names) in enumerate(SOURCES.items()):
        assert list(SCANNERS)[number] == source
        chosen = [patients[number if home else 1 - number :: 2] for patients in runs]
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
        f"decay {WEIGHT_DECAY:g}), no augmentation, device {args.device}. The trainers differ in the mask alone."
    )


if __name__ == "__main__":
    main()
