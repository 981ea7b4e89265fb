"""`nnunetv2_clip predict`: label maps, masks, statistics, pictures and DICOM segmentations of CTs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunetv2_clip.choices import OUTPUTS
from nnunetv2_clip.commands._arguments import add, add_model_or_dataset, trained_model
from nnunetv2_clip.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-i", required=True, metavar="IMAGES", help="a CT, or a folder of CTs")
    add(parser, "--series")
    add(parser, "-o", required=True, help="output folder")
    add_model_or_dataset(parser)
    add(parser, "-step_size", "--disable_tta", "--classes")
    parser.add_argument(
        "--outputs",
        nargs="+",
        metavar="OUTPUT",
        choices=OUTPUTS,
        default=["labels"],
        help="what to write; msd: label maps of the Decathlon's tasks; ct: the CT as NIfTI; "
        "dicom_seg: a DICOM segmentation of a DICOM series",
    )
    parser.add_argument(
        "--probabilities", nargs="+", metavar="CLASS", default=[], help="also write probabilities of these"
    )
    parser.add_argument("--postprocess", action="store_true", help="apply the rules that the model has learned")
    parser.add_argument("--max-ram", metavar="SIZE", help="stay below this much memory, for instance 6GB")
    parser.add_argument("--skip-air", action="store_true", help="do not look at most of the air around the patient")
    parser.add_argument("--continue_prediction", action="store_true", help="leave out cases whose outputs are there")
    add(parser, "-num_parts", "-part_id", "--json")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.imaging.scans import find_scans
    from nnunetv2_clip.inference.memory import parse_size

    if args.o.is_file():
        raise UserError("-o", f"{args.o} is a file", "a folder")
    model = trained_model("predict", args)
    max_ram = parse_size(args.max_ram) if args.max_ram else None
    found = find_scans(args.i, args.series)
    cases = found.cases
    _keep_input(args, cases)
    _require_series(args, cases)
    images = args.i.parent if [case.path for case in cases] == [args.i] else args.i
    _predict(args, model, images.resolve(), cases[args.part_id :: args.num_parts], found.left_out, max_ram)


def _keep_input(args: argparse.Namespace, cases) -> None:
    """No label map may take the place of a CT."""
    same_folder = args.i.resolve() == args.o.resolve()
    if same_folder or any((args.o / f"{case.name}.nii.gz").resolve() == case.path.resolve() for case in cases):
        raise UserError("-o", f"{args.o} holds the input, which label maps would replace", "another folder than -i")


def _require_series(args: argparse.Namespace, cases) -> None:
    if "dicom_seg" in args.outputs and not any(case.may_be_dicom for case in cases):
        found, expected = f"{args.i} holds no DICOM series", "slices to which a DICOM segmentation can refer"
        raise UserError("--outputs dicom_seg", found, expected, "give the series, or leave dicom_seg out")


def _predict(args: argparse.Namespace, trained, images: Path, cases, left_out: list[str], max_ram: int | None) -> None:
    from nnunetv2_clip.inference.case_predictor import CasePredictor
    from nnunetv2_clip.inference.folder import Job, PredictionFolder, predict_cases
    from nnunetv2_clip.inference.loaded_model import load_model
    from nnunetv2_clip.inference.loading import write_tables_beside
    from nnunetv2_clip.inference.outputs import Outputs
    from nnunetv2_clip.inference.wanted import Wanted
    from nnunetv2_clip.msd.tasks import predictable_tasks
    from nnunetv2_clip.runner import CasesFailed

    wanted = Wanted.of(trained, args.classes, args.probabilities, args.postprocess)
    model = load_model(trained, args.device, args.f, args.chk, not args.disable_tta, args.step_size)
    wanted = wanted.learnt(model.classes)
    predictor = CasePredictor(model.predictor, max_ram, args.skip_air)
    predictor = predictor.for_classes(wanted.needed, wanted.thresholds, wanted.probabilities)
    settings = {
        "model": str(trained.where.resolve()),
        "folds": model.folds,
        "checkpoint": args.chk,
        "weights": model.algorithm.weights,
        "images": str(images),
        "step_size": args.step_size,
        "mirroring": not args.disable_tta,
        "skip_air": args.skip_air,
        "device": str(model.device),
        "never_learnt": list(wanted.never_learnt),
        "left_out": left_out,
    }
    if wanted.never_learnt:
        names = ", ".join(wanted.never_learnt)
        print(f"Warning: the model has never learnt {names}: left out of every output.", file=sys.stderr)
    tasks = predictable_tasks(wanted.classes) if "msd" in args.outputs else {}
    kinds, taxonomy = tuple(args.outputs), trained.taxonomy
    outputs = Outputs(args.o, kinds, wanted.classes, wanted.probabilities, taxonomy, tasks, model.algorithm)
    job = Job(outputs, wanted.rules, settings, args.continue_prediction)
    _make_folder(args.o)
    output = PredictionFolder(job, cases, f"_part{args.part_id}" if args.num_parts > 1 else "")
    output.claim()
    write_tables_beside(trained, outputs)
    errors = predict_cases(predictor, output)
    written = [case.name for case in cases if case.name not in errors]
    failed = {name: str(error) for name, error in errors.items()}
    args.result = {"output": str(args.o), "written": written, "failed": failed, "left_out": left_out}
    print(f"{args.o}: {len(written)} of {len(cases)} cases are there.")
    for line in left_out:
        print(f"Left out: {line}", file=sys.stderr)
    if errors:
        raise CasesFailed("predict", errors, len(cases), "correct them and go on with --continue_prediction")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("-o", f"{folder} cannot be made ({error.strerror})", "a folder that you may write to") from None
