"""`nnunetv2_clip learn-postprocessing`: anatomical rules that raise Dice on the validation cases."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", type=Path, metavar="MODEL", help="model folder; its plans.json receives the rules")
    parser.add_argument("-d", help="instead of -m: dataset id or name; its model is found with -tr, -p and -c")
    parser.add_argument("-tr", default="CLIPUniversalTrainer", help="trainer (default %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default %(default)s)")
    parser.add_argument("-c", default="3d_fullres", help="configuration (default %(default)s)")
    parser.add_argument("-f", nargs="+", help="folds whose validation cases are used (default: all that are there)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: the fastest that is there")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.inference.learning import learn, write_rules
    from nnunetv2_clip.inference.postprocessing import NOTHING
    from nnunetv2_clip.trained_model import TrainedModel

    if (args.m is None) == (args.d is None):
        raise UserError("learn-postprocessing", "needs either -m or -d", "-m MODEL_FOLDER, or -d DATASET")
    model = TrainedModel.open(args.m) if args.m else TrainedModel.of_dataset(args.d, args.tr, args.p, args.c)
    if not model.where.is_dir():
        raise UserError(model.where, "is no folder", "a model folder: rules are written into it", "unpack the zip")
    choices = learn(model, args.f, args.chk, args.device)
    write_rules(model, choices, {"folds": args.f or "all", "checkpoint": args.chk})
    print(f"{'class':28}{'cases':>6}{'Dice':>8}{'with rule':>11}  rule")
    for name, choice in choices.items():
        rule = ", ".join(f"{key} {value}" for key, value in choice.rule.to_json().items()) or "-"
        print(f"{name:28}{choice.num_cases:6}{choice.before:8.3f}{choice.after:11.3f}  {rule}")
    kept = sum(choice.rule != NOTHING for choice in choices.values())
    print(f"Kept {kept} rules in {model.where / 'plans.json'}. They are applied by 'predict --postprocess'.")
    return 0
