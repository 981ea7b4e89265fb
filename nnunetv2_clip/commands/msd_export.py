"""nnunetv2_clip msd export"""

import argparse

from nnunetv2_clip.commands._arguments import DECATHLON, FOLDER, add, model_or_predictions, require_ending
from nnunetv2_clip.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-i", required=True, help=DECATHLON)
    add(parser, "-m", help="trained model: its folder; each CT task is predicted with its own classes")
    add(parser, "-pred", help="instead of -m: predictions of the test images, one folder or one sub-folder per task")
    add(parser, "-f", "-chk", "-device")
    parser.add_argument(
        "--trust-headers", action="store_true", help="do not turn images whose header is rotated by 180 degrees"
    )
    parser.add_argument(
        "--mri",
        **FOLDER,
        help="masks of the four MRI tasks made elsewhere: the folder with Task01_BrainTumour, ...",
    )
    add(parser, "--ct-only", "--rules", "-np")
    add(parser, "-o", required=True, metavar="ZIP", help="the submission to write")
    add(parser, "--overwrite")


def run(args: argparse.Namespace) -> None:
    import shutil

    from nnunetv2_clip.msd.post_processing import read_rules
    from nnunetv2_clip.msd.submission import TaskPredictions, count_notes, plan, write_submission
    from nnunetv2_clip.msd.tasks import CT_TASKS, MRI_TASKS

    model_or_predictions("msd export", args, zips=True)
    _check_arguments(args)
    rules = read_rules(args.rules)
    sources = {}
    if not args.ct_only:
        sources.update({task.folder: TaskPredictions(args.mri) for task in MRI_TASKS})
        plan(sources, args.i)  # before hours of prediction
    ct_source, predictions = _ct_source(args)
    sources.update({task.folder: ct_source for task in CT_TASKS})
    entries = plan(sources, args.i, rules)
    write_submission(entries, args.o, args.np)
    if predictions:  # once the zip is there, they have served
        shutil.rmtree(predictions, ignore_errors=True)
    for note in count_notes(entries):
        print(f"Note: {note}.")
    if args.ct_only:
        print("Warning: without the four MRI tasks the challenge's evaluator rejects the zip; keep it for local use.")
    print(f"Wrote {args.o}: {len(entries)} masks of {len(sources)} tasks.")


def _check_arguments(args: argparse.Namespace) -> None:
    require_ending("-o", args.o, ".zip")
    if args.o.is_dir() or args.o.exists() and not args.overwrite:
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
    from nnunetv2_clip.msd.submission import TaskPredictions, prediction_source
    from nnunetv2_clip.trained_model import TrainedModel

    if args.pred:
        return prediction_source(args.pred), None
    predictions = args.o.with_name(f"{args.o.stem}_predictions")
    setup = Setup(TrainedModel.open(args.m), args.f, args.chk, args.device, args.np, args.trust_headers)
    predict_tasks(setup, args.i, predictions)
    return TaskPredictions(predictions), predictions
