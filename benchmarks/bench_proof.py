"""Does the idea work here: masked back-propagation, text embeddings, fewer false positives. Measured on phantoms.

    python benchmarks/bench_proof.py masking            # four datasets: universal, specific, upper bound
    python benchmarks/bench_proof.py encodings          # one-hot, random, MiniLM with three prompts, CLIP if there
    python benchmarks/bench_proof.py false-positives    # of the models of `masking`, in patients without tumour
    python benchmarks/bench_proof.py dying --steps 3000 # all labels: Dice where a class is present, or everywhere
    python benchmarks/bench_proof.py masking --small    # a smoke test; the table says so

Four synthetic datasets annotate different classes of different patients; the test patients are others again, with all
labels. All arms of a seed get the same patients, plans, steps, optimizer and start, and none has augmentation.
Trainings that are finished are kept in the work folder (-w): the experiments share them, and a run that was stopped
goes on. Writes results/proof_masking.md, proof_encodings.md, proof_false_positives.md and proof_dying.md; with another
number of steps NAME_STEPSsteps.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from common import results_folder, table, verdict, write_result
from proof_patients import CLASSES, ORGANS, SOURCES, TUMOUR_SHARE, TUMOURS
from proof_study import FULL, LEARNING_RATE, WEIGHT_DECAY, Size, Study, class_dice, spread
from proof_trainers import trainers

MIN_LESION_ML = 3.0  # a suspicion is at least this large: two to three voxels
NORMAL = Size(cases=40, test_cases=24, steps=1000, spacing_mm=(9, 9, 9))
SMALL = Size(cases=2, test_cases=2, steps=20, spacing_mm=(12, 12, 12))
PROMPTS = {"V1": "A photo of a {}.", "V2": "There is {} in this computerized tomography."}
ABOUT = {  # arm -> what it is
    "upper_bound": "all labels of all patients, hence four times the annotations in as many steps",
    "upper_bound_quarter": "the same in a quarter of the steps, hence with as many annotations",
    "masked_batch": "(and `unmasked_batch`) Dice over the batch, as nnU-Net plans it for 2d, and for 3d_fullres where "
    "there is a 3d_lowres",
    "everywhere": "(and `everywhere_batch`) Dice also against empty references, as nnU-Net's loss has it",
    "specific": "nnU-Net's own trainer and network, a model for each dataset, each with half as many steps: it sees "
    "its patients twice as often",
}
Scores = dict[str, list[list[dict]]]  # arm -> seed -> test patient -> class -> figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=tuple(ARMS))
    parser.add_argument("-w", "--work", type=Path, default=Path("proof_work"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help=f"of each training (default: {NORMAL.steps})")
    parser.add_argument("--cases", type=int, help=f"training patients of each dataset (default: {NORMAL.cases})")
    parser.add_argument("--test-cases", type=int, help=f"(default: {NORMAL.test_cases})")
    parser.add_argument("--spacing", type=float, nargs=3, metavar="MM", help=f"(default: {NORMAL.spacing_mm})")
    parser.add_argument("--small", action="store_true", help="a smoke test in minutes: the figures mean nothing")
    parser.add_argument("--clip-weights", type=Path, help="ViT-B-32 of OpenAI, for the arm CLIP of `encodings`")
    parser.add_argument("--arms", nargs="+", help="only these (to share the work, or to time one)")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pages", type=Path, help="folder of the page (default: results, or the work folder)")
    args = parser.parse_args()
    size = chosen_size(args)
    arms = ARMS[args.experiment](args)
    arms = {name: arm for name, arm in arms.items() if not args.arms or name in args.arms}
    scores: Scores = {name: [] for name in arms}
    args.batch_sizes = set()  # nnU-Net plans each seed's patients for itself
    for seed in range(args.seeds):
        study = Study(args.work.resolve() / folder_name(size, args.device, seed), seed, size, args.device)
        study.prepare()
        args.batch_sizes.add(study.batch_size())
        for name, arm in arms.items():
            print(f"seed {seed}: {name}", flush=True)
            scores[name].append(study.scores(name, arm))
    name, title, write = PAGES[args.experiment]
    write_result(page_name(name, size), title, describe(args, size), *write(scores), folder=page_folder(args))


def chosen_size(args: argparse.Namespace) -> Size:
    base = SMALL if args.small else NORMAL
    spacing = tuple(args.spacing) if args.spacing else base.spacing_mm
    return Size(args.cases or base.cases, args.test_cases or base.test_cases, args.steps or base.steps, spacing)


def page_folder(args: argparse.Namespace) -> Path:
    """Where results are kept, or the work folder for a run that is smaller than those, or of some arms only."""
    if args.pages:
        return args.pages
    is_result = not (args.small or args.cases or args.test_cases or args.spacing or args.arms) and args.seeds >= 3
    return results_folder(args.device) if is_result else args.work


def page_name(experiment: str, size: Size) -> str:
    """Other budgets than the usual one have pages of their own."""
    return experiment if size.steps == NORMAL.steps else f"{experiment}_{size.steps}steps"


def folder_name(size: Size, device: str, seed: int) -> str:
    """Whatever changes the figures is in the name, so that scores of different sizes never mix."""
    spacing = "x".join(f"{step:g}" for step in size.spacing_mm)
    return f"{size.cases}cases_{size.test_cases}test_{size.steps}steps_{spacing}mm_{device}_seed{seed}"


# ---------------------------------------------------------------- arms


def universal_arm(kind: str, **options) -> Callable:
    return lambda study: study.train_universal(trainers()[kind], **options)


def masking_arms(args: argparse.Namespace) -> dict[str, Callable]:
    specific = {
        f"specific_{source}": partial(
            lambda source, study: study.train_specific(trainers()["specific"], source), source
        )
        for source in SOURCES
    }
    return {
        "masked": universal_arm("masked"),
        "unmasked": universal_arm("unmasked"),
        "masked_batch": universal_arm("masked_batch"),
        "unmasked_batch": universal_arm("unmasked_batch"),
        "upper_bound": universal_arm("masked", dataset=FULL),
        "upper_bound_quarter": universal_arm("masked", dataset=FULL, share_of_steps=0.25),
        **specific,
    }


def dying_arms(args: argparse.Namespace) -> dict[str, Callable]:
    kinds = {"upper_bound": "masked", "upper_bound_batch": "masked_batch"}
    kinds |= {"everywhere": "everywhere", "everywhere_batch": "everywhere_batch"}
    return {name: universal_arm(kind, dataset=FULL) for name, kind in kinds.items()}


def false_positive_arms(args: argparse.Namespace) -> dict[str, Callable]:
    with_tumours = {f"specific_{source}" for source, names in SOURCES.items() if set(names) & set(TUMOURS)}
    return {
        name: arm
        for name, arm in masking_arms(args).items()
        if name in ("masked", "unmasked", "upper_bound") or name in with_tumours
    }


def encoding_arms(args: argparse.Namespace) -> dict[str, Callable]:
    """`masked` is MiniLM with prompt V3."""

    def encoded(encoder: str, template: str | None = None, weights: Path | None = None) -> Callable:
        from nnunetv2_clip.text.encode import encode

        def text(trainer):
            rows = [trainer.manifest.taxonomy.find(name) for name in trainer.classes]
            return encode(encoder, rows, [template] if template else None, weights)

        return universal_arm("masked", text=text)

    arms = {"onehot": encoded("onehot"), "random": lambda study: encoded(f"random:{study.seed}")(study)}
    arms |= {f"minilm_{version}": encoded("minilm", template) for version, template in PROMPTS.items()}
    arms["masked"] = universal_arm("masked")
    if args.clip_weights:
        arms["clip_V3"] = encoded("open_clip:ViT-B-32/openai", weights=args.clip_weights)
    return arms


# ---------------------------------------------------------------- figures


def mean_dice(scores: Scores, arm: str, names: Sequence[str]) -> np.ndarray:
    """(seeds,) mean over classes; of the arm `specific`, each class by the model of its dataset."""
    return np.nanmean([class_dice(runs_of(scores, arm, name), name) for name in names], axis=0)


def runs_of(scores: Scores, arm: str, name: str) -> list[list[dict]]:
    if arm != "specific":
        return scores[arm]
    return scores[f"specific_{next(source for source, names in SOURCES.items() if name in names)}"]


def masking_page(scores: Scores) -> list[str]:
    universal = ("upper_bound", "upper_bound_quarter", "masked", "unmasked", "masked_batch", "unmasked_batch")
    arms = [arm for arm in universal if arm in scores]
    if all(f"specific_{source}" in scores for source in SOURCES):
        arms.append("specific")
    rows = [
        [name, source_of(name), *(spread(class_dice(runs_of(scores, arm, name), name)) for arm in arms)]
        for name in CLASSES
    ]
    for title, names in (("organs", ORGANS), ("tumours", TUMOURS), ("all", CLASSES)):
        rows.append([f"**{title}**", "", *(spread(mean_dice(scores, arm, names)) for arm in arms)])
    parts = [
        about(arms),
        "Dice (%), mean ± standard deviation over the seeds.",
        table(["class", "annotated in", *arms], rows),
    ]
    goals = masking_goals({arm: 100 * np.nanmean(mean_dice(scores, arm, CLASSES)) for arm in arms})
    if goals:
        parts.append(table(["Dice points, all classes", "measured", "goal", "reached"], goals))
    return parts


def masking_goals(means: dict[str, float]) -> list[list[str]]:
    """A row for each comparison of two arms that ran."""
    rows = []
    behind = {
        bound: means[bound] - means["masked"] for bound in means if "masked" in means and bound.startswith("upper")
    }
    for bound, points in behind.items():
        has_goal = bound == "upper_bound"
        reached = verdict(points, 1, at_most=True) if has_goal else "-"
        rows.append([f"masked behind {bound}", f"{points:.1f}", "at most 1" if has_goal else "-", reached])
    for suffix, title in (("_batch", "Dice over the batch"), ("", "Dice over each case")):
        if {f"masked{suffix}", f"unmasked{suffix}"} <= set(means):
            above = means[f"masked{suffix}"] - means[f"unmasked{suffix}"]
            rows.append([f"masked above unmasked, {title}", f"{above:.1f}", "at least 10", verdict(above, 10)])
    return rows


def dying_page(scores: Scores) -> list[str]:
    rows = []
    for arm, runs in scores.items():
        empty = [
            f"{name} (seed {seed})"
            for seed, patients in enumerate(runs)
            for name in CLASSES
            if not class_dice([patients], name).any()
        ]
        means = (spread(mean_dice(scores, arm, names)) for names in (ORGANS, TUMOURS[:1], TUMOURS[1:]))
        rows.append([arm, *means, ", ".join(empty) or "-"])
    header = ["loss", "organs", *TUMOURS, "found in no patient"]
    return [about(tuple(scores)), "Dice (%), mean ± standard deviation over the seeds.", table(header, rows)]


def encodings_page(scores: Scores) -> list[str]:
    titles = {
        "onehot": ("one-hot (DoDNet)", ""),
        "random": ("random vectors", ""),
        "minilm_V1": ("MiniLM, V1", PROMPTS["V1"]),
        "minilm_V2": ("MiniLM, V2", PROMPTS["V2"]),
        "masked": ("MiniLM, V3", "A computerized tomography of a {}."),
        "clip_V3": ("CLIP ViT-B/32, V3", "A computerized tomography of a {}."),
    }
    rows = [
        [*titles[arm], *(spread(mean_dice(scores, arm, names)) for names in (ORGANS, TUMOURS, CLASSES))]
        for arm in scores
    ]
    notes = ["Dice (%), mean ± standard deviation over the seeds; reported as it came out."]
    if "clip_V3" not in scores:
        notes.append("CLIP: not measured, its weights were not at hand (`--clip-weights`).")
    header = ["embedding", "prompt", "organs", "tumours", "all"]
    return [*notes, table(header, rows)]


def false_positives_page(scores: Scores) -> list[str]:
    arms = [arm for arm in ("masked", "upper_bound", "unmasked") if arm in scores] + ["specific"]
    rows = []
    for name in TUMOURS:
        for arm in arms:
            if arm == "specific" and f"specific_{source_of(name)}" not in scores:
                continue
            sensitivity, specificity, false_ml = np.array(
                [detection(patients, name) for patients in runs_of(scores, arm, name)]
            ).T
            harmonic = 2 * sensitivity * specificity / np.maximum(sensitivity + specificity, 1e-9)
            rates = [spread(values) for values in (sensitivity, specificity, harmonic)]
            rows.append([name, arm, *rates, spread(false_ml, scale=1)])
    numbers = [counts(scores[next(iter(scores))], name) for name in TUMOURS]
    text = ", ".join(f"{name}: {ill} with, {free} without" for name, (ill, free) in zip(TUMOURS, numbers, strict=True))
    header = [
        "tumour",
        "model",
        "sensitivity",
        "specificity",
        "harmonic mean",
        "largest false lesion of patients without (ml)",
    ]
    return [
        about(arms),
        f"A patient is suspected when a connected part of the predicted tumour has at least {MIN_LESION_ML:g} ml, "
        f"wherever it lies. Test patients over all seeds: {text}. In %, mean ± standard deviation over the seeds.",
        table(header, rows),
    ]


def detection(patients: Sequence[dict], name: str) -> tuple[float, float, float]:
    """Sensitivity, specificity, and the mean volume of the largest false lesion in patients without tumour."""
    known = [patient[name] for patient in patients if name in patient]
    ill = [entry["lesion_ml"] >= MIN_LESION_ML for entry in known if entry["reference_ml"]]
    free = [entry for entry in known if not entry["reference_ml"]]
    clear = [entry["lesion_ml"] < MIN_LESION_ML for entry in free]
    false_ml = [entry["lesion_ml"] for entry in free]
    return tuple(float(np.mean(values)) if values else float("nan") for values in (ill, clear, false_ml))


def counts(runs: Sequence[Sequence[dict]], name: str) -> tuple[int, int]:
    """Test patients with and without the tumour, over all seeds."""
    ill = [patient[name]["reference_ml"] > 0 for patients in runs for patient in patients if name in patient]
    return sum(ill), len(ill) - sum(ill)


def source_of(name: str) -> str:
    return next(source for source, names in SOURCES.items() if name in names)


def about(arms: Sequence[str]) -> str:
    """What the arms of a table are."""
    return "; ".join(f"`{arm}`: {text}" for arm, text in ABOUT.items() if arm in arms) + "."


def describe(args: argparse.Namespace, size: Size) -> str:
    spacing = " x ".join(f"{step:g}" for step in size.spacing_mm)
    datasets = "; ".join(f"{source}: {', '.join(names)}" for source, names in SOURCES.items())
    batches = " or ".join(map(str, sorted(args.batch_sizes)))
    smoke = " **A smoke test: the figures mean nothing.**" if args.small else ""
    return (
        f"{size.cases} training patients of each of four datasets ({datasets}), {size.test_cases} other test patients, "
        f"{args.seeds} seed(s), each with patients and initial weights of its own. Synthetic abdominal CTs, {spacing} "
        f"mm; body size, organs, field of view and noise vary, organs may be missing, {TUMOUR_SHARE:.0%} of the "
        f"patients have a tumour (each kind). Small plans, batches of {batches}, {size.steps} steps, AdamW "
        f"{LEARNING_RATE:g} (weight decay {WEIGHT_DECAY:g}), no augmentation, device {args.device}. Loss with Dice "
        f"over each case, unless another is named.{smoke}"
    )


ARMS = {
    "masking": masking_arms,
    "encodings": encoding_arms,
    "false-positives": false_positive_arms,
    "dying": dying_arms,
}
PAGES = {  # file, title, what stands below the description
    "masking": ("proof_masking", "One network from four partly labelled datasets", masking_page),
    "encodings": ("proof_encodings", "Encodings of the classes, as the paper's Table 1", encodings_page),
    "false-positives": (
        "proof_false_positives",
        "False positives in patients known to be free of tumours",
        false_positives_page,
    ),
    "dying": ("proof_dying", "Classes that die: Dice where a class is present, or everywhere", dying_page),
}


if __name__ == "__main__":
    main()
