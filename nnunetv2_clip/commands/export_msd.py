"""`nnunetv2_clip export-msd`: make or check a submission to the Medical Segmentation Decathlon."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        type=Path,
        help="predictions of nnUNetv2_predict for the CT tasks' test images (one folder, or one sub-folder per task), "
        "or a trained model folder, which then predicts each task with its own classes",
    )
    parser.add_argument(
        "--msd",
        type=Path,
        required=True,
        help="the challenge's data as downloaded (the folder with Task01_BrainTumour, ...)",
    )
    parser.add_argument(
        "--mri", type=Path, help="masks of the four MRI tasks made elsewhere: the folder with Task01_BrainTumour, ..."
    )
    parser.add_argument("-o", type=Path, help="the zip to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing zip")
    parser.add_argument("--ct-only", action="store_true", help="leave the MRI tasks out (for local use only)")
    parser.add_argument(
        "--post", type=Path, metavar="RULES", help="YAML table of post-processing per task (docs/msd.md); default none"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="score the predictions of training images in -i (a model's fold_*/validation, or a folder) instead",
    )
    parser.add_argument("--verify", type=Path, metavar="ZIP", help="check this zip instead of making one")
    parser.add_argument("-f", nargs="+", help="a model's folds (default: all that are there)")
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", help="a model's checkpoint (default checkpoint_final.pth)"
    )
    parser.add_argument(
        "--trust-headers", action="store_true", help="do not turn images whose header is rotated by 180 degrees"
    )
    parser.add_argument("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="where a model predicts")
    parser.add_argument("-np", type=int, default=2, help="processes that read and write images (default 2)")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_clip.msd.tasks import CT_TASKS, TASKS

    tasks = CT_TASKS if args.ct_only else TASKS
    if args.verify:
        return _verify(args, tasks)
    return _rehearse(args) if args.rehearse else _export(args, tasks)


def _verify(args: argparse.Namespace, tasks) -> int:
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.msd.verify import verify

    problems = verify(args.verify, args.msd, tasks)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(args.verify, f"{len(problems)} problem{'s' * (len(problems) > 1)}:{lines}\n", "none")
    print(f"{args.verify}: complete; names, geometry and label values are right.")
    return 0


def _rehearse(args: argparse.Namespace) -> int:
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.evaluation.parallel import run_cases
    from nnunetv2_clip.files import write_json
    from nnunetv2_clip.msd.post_processing import read_rules
    from nnunetv2_clip.msd.rehearsal import as_text, find_rehearsal, score_case, summarise
    from nnunetv2_clip.trained_model import ModelTables

    if args.i is None or not args.i.is_dir():
        raise UserError("-i", f"{args.i}", "a model folder with fold_*/validation, or a folder of predictions")
    if args.o is not None and args.o.suffix != ".json":
        raise UserError("-o", f"{str(args.o)!r}", "the name of a file that ends in .json, for the rehearsal's scores")
    cases = find_rehearsal(args.i, args.msd, ModelTables.beside(args.i).taxonomy, read_rules(args.post))
    rows = summarise(score for scores in run_cases(score_case, cases, args.np, "rehearsal") for score in scores)
    print(as_text(rows))
    if args.o is not None:
        write_json(args.o, rows)
    return 0


def _export(args: argparse.Namespace, tasks) -> int:
    from nnunetv2_clip.msd.post_processing import read_rules
    from nnunetv2_clip.msd.predict import remove_predictions
    from nnunetv2_clip.msd.submission import Source, count_notes, plan, write_submission
    from nnunetv2_clip.msd.tasks import MRI_TASKS

    _check_arguments(args)
    rules = read_rules(args.post)
    sources = {}
    if not args.ct_only:
        sources.update({task.folder: Source(args.mri) for task in MRI_TASKS})
        plan(sources, args.msd)  # before hours of prediction
    ct_source, predictions = _ct_source(args)
    sources.update({task.folder: ct_source for task in tasks if task not in MRI_TASKS})
    entries = plan(sources, args.msd, rules)
    write_submission(entries, args.o, args.np)
    if predictions:
        remove_predictions(predictions)
    for note in count_notes(entries):
        print(f"Note: {note}.")
    if args.ct_only:
        print("Warning: without the four MRI tasks the challenge's evaluator rejects the zip; keep it for local use.")
    print(f"Wrote {args.o}: {len(entries)} masks of {len(sources)} tasks.")
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    from nnunetv2_clip.errors import UserError

    for option, value in (("-i", args.i), ("-o", args.o)):
        if value is None:
            raise UserError("export-msd", f"{option} is missing", "-i PREDICTIONS_OR_MODEL -o submission.zip")
    if args.o.suffix != ".zip" or args.o.is_dir():
        raise UserError("-o", f"{str(args.o)!r}", "the name of a file that ends in .zip")
    if args.o.exists() and not args.overwrite:
        raise UserError(args.o, "exists already", "a new file", "choose another name, or say --overwrite")
    if args.mri is None and not args.ct_only:
        raise UserError(
            "--mri",
            "is missing",
            "masks of Task01_BrainTumour, Task02_Heart, Task04_Hippocampus and Task05_Prostate, made elsewhere "
            "(stock nnU-Net): the challenge rejects a submission without them",
            "give their folder with --mri, or leave them out with --ct-only for local use",
        )
    if args.mri is not None and args.ct_only:
        raise UserError("--ct-only", "contradicts --mri", "one of the two")


def _ct_source(args: argparse.Namespace):
    """The source of the CT tasks, and the folder of predictions to remove in the end (None: the user's own)."""
    from nnunetv2_clip.msd.predict import Setup, predict_tasks
    from nnunetv2_clip.msd.submission import Source, prediction_source
    from nnunetv2_clip.trained_model import TrainedModel, holds_model

    if not holds_model(args.i):
        return prediction_source(args.i), None
    predictions = args.o.with_name(f"{args.o.stem}_predictions")
    setup = Setup(TrainedModel.open(args.i), args.f, args.chk, args.device, args.np, args.trust_headers)
    predict_tasks(setup, args.msd, predictions)
    return Source(predictions), predictions
