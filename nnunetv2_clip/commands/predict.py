"""`nnunetv2_clip predict`: label maps, masks, statistics and pictures of CTs."""

from __future__ import annotations

import argparse
from pathlib import Path

KINDS = ("labels", "masks", "statistics", "preview", "msd")
INCOMPLETE = 3  # exit code: some cases failed, the others are there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", type=Path, required=True, help="a CT as NIfTI, a folder of them, a DICOM series, or a folder of series"
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")
    parser.add_argument("-m", type=Path, metavar="MODEL", help="model folder, or a zip of nnUNetv2_export_model_to_zip")
    parser.add_argument("-d", help="instead of -m: dataset id or name; its model is found with -tr, -p and -c")
    parser.add_argument("-tr", default="CLIPUniversalTrainer", help="trainer (default %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default %(default)s)")
    parser.add_argument("-c", help="configuration (default 3d_fullres; with a zip: the only one in it)")
    parser.add_argument("-f", nargs="+", help="folds (default: all that are there, as an ensemble)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: the fastest that is there")
    parser.add_argument("-step_size", type=float, default=0.5, help="of the sliding window, in patches (default 0.5)")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring (left and right never are mirrored)")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by name or alias (default: all)")
    parser.add_argument(
        "--outputs",
        nargs="+",
        choices=KINDS,
        default=["labels"],
        help="what to write (default: labels; msd: label maps of the Decathlon's tasks)",
    )
    parser.add_argument("--probabilities", nargs="+", metavar="CLASS", default=[], help="also write probabilities of")
    parser.add_argument("--postprocess", action="store_true", help="apply the rules that the model has learned")
    parser.add_argument("--max-ram", metavar="SIZE", help="stay below this much memory, for instance 6GB")
    parser.add_argument("--continue_prediction", action="store_true", help="leave out cases whose outputs are there")
    parser.add_argument("-num_parts", type=int, default=1, help="number of processes that share the cases")
    parser.add_argument("-part_id", type=int, default=0, help="which of them this is (from 0)")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_clip.inference.inputs import find_cases
    from nnunetv2_clip.inference.memory import parse_size

    _check(args)
    max_ram = parse_size(args.max_ram) if args.max_ram else None
    cases = find_cases(args.i)
    _keep_input(args, cases)
    cases = cases[args.part_id :: args.num_parts]
    return _predict(args, _model(args), cases, max_ram)


def _check(args: argparse.Namespace) -> None:
    from nnunetv2_clip.errors import UserError

    if (args.m is None) == (args.d is None):
        raise UserError("predict", "needs either -m or -d", "-m MODEL_FOLDER_OR_ZIP, or -d DATASET with -tr, -p, -c")
    if not 0 <= args.part_id < args.num_parts:
        raise UserError("-part_id", f"{args.part_id}", f"0 to {args.num_parts - 1} with -num_parts {args.num_parts}")
    if not 0 < args.step_size <= 1:
        raise UserError("-step_size", f"{args.step_size}", "above 0, at most 1")
    if args.o.is_file():
        raise UserError("-o", f"{args.o} is a file", "a folder")


def _keep_input(args: argparse.Namespace, cases) -> None:
    """No label map may take the place of a CT."""
    from nnunetv2_clip.errors import UserError

    same_folder = args.i.resolve() == args.o.resolve()
    if same_folder or any((args.o / f"{case.name}.nii.gz").resolve() == case.path.resolve() for case in cases):
        raise UserError("-o", f"{args.o} holds the input, which label maps would replace", "another folder than -i")


def _model(args: argparse.Namespace):
    from nnunetv2_clip.trained_model import TrainedModel

    if args.m:
        return TrainedModel.open(args.m, args.c)
    return TrainedModel.of_dataset(args.d, args.tr, args.p, args.c or "3d_fullres")


def _predict(args: argparse.Namespace, trained, cases, max_ram: int | None) -> int:
    from nnunetv2_clip.inference.case_predictor import CasePredictor
    from nnunetv2_clip.inference.folder import Job, predict_cases, require_same_job
    from nnunetv2_clip.inference.loading import load_model, write_model_tables

    model = load_model(
        trained,
        args.device,
        args.f,
        args.chk,
        args.classes,
        args.probabilities,
        args.postprocess,
        use_mirroring=not args.disable_tta,
        step_size=args.step_size,
    )
    never_learnt = _never_learnt(model)
    predictor = CasePredictor(model.predictor, model.thresholds, model.probabilities, max_ram)
    settings = {
        "model": str(trained.where.resolve()),
        "folds": model.folds,
        "checkpoint": args.chk,
        "step_size": args.step_size,
        "mirroring": not args.disable_tta,
        "device": str(model.predictor.device),
        "never_learnt": never_learnt,
    }
    job = Job(
        args.o,
        tuple(args.outputs),
        model.classes,
        model.probabilities,
        model.taxonomy,
        model.rules,
        settings,
        args.continue_prediction,
        _tasks(model.classes, predictor.trained) if "msd" in args.outputs else {},
    )
    _make_folder(args.o)
    require_same_job(job)
    write_model_tables(trained, model.classes, args.o)
    failed = predict_cases(predictor, cases, job, f"_part{args.part_id}" if args.num_parts > 1 else "")
    return _summary(args.o, len(cases), failed)


def _never_learnt(model) -> list[str]:
    """The wanted classes that no training case has shown to the model: their masks are empty whatever the CT holds."""
    import sys

    from nnunetv2_clip.inference.restricted import learnt_classes

    learnt = learnt_classes(model.predictor)
    names = [name for name in dict.fromkeys((*model.classes, *model.probabilities)) if name not in learnt]
    if names:
        print(f"Warning: the model has never learnt {', '.join(names)}: empty in every output.", file=sys.stderr)
    return names


def _make_folder(folder: Path) -> None:
    from nnunetv2_clip.errors import UserError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("-o", f"{folder} cannot be made ({error.strerror})", "a folder that you may write to") from None


def _tasks(classes, trained) -> dict[str, dict[str, int]]:
    """The CT tasks of the Decathlon of which every class is predicted."""
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.msd.tasks import CT_TASKS

    there = set(classes) & set(trained)
    tasks = {task.folder: dict(task.classes) for task in CT_TASKS if set(task.classes) <= there}
    if not tasks:
        needs = "; ".join(f"{task.folder}: {', '.join(task.classes)}" for task in CT_TASKS)
        raise UserError("--outputs msd", f"no task has all its classes among {', '.join(sorted(there))}", needs)
    return tasks


def _summary(output: Path, count: int, failed: dict[str, str]) -> int:
    import sys

    print(f"{output}: {count - len(failed)} of {count} cases are there.")
    for error in failed.values():
        print(f"Failed: {error}", file=sys.stderr)
    return INCOMPLETE if failed else 0
