"""`nnunetv2_clip extend`: prepare a training that starts from a trained model: more classes, or others."""

import argparse
import sys

from nnunetv2_clip.choices import FROZEN, MODES
from nnunetv2_clip.commands._arguments import ENCODER_DEVICE, FILE, add


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-m", required=True)
    add(parser, "-d", required=True)
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=FROZEN,
        help="frozen: add classes, the old ones stay bit for bit; fine-tune: add classes, all weights learn, the old "
        "classes by pseudo labels; transfer: start from the weights with any classes",
    )
    add(parser, "-c", help="configuration (default: of a zip, the only one that is in it)")
    add(parser, "-f", nargs=None, help="fold (default: the first that is there)")
    add(parser, "-chk")
    add(parser, "-overwrite_plans_name", help="name of the plans to write (default: the model's and a suffix)")
    parser.add_argument("--text-table", **FILE, help="text table that holds the new classes (embed -o)")
    add(parser, "--weights")
    add(parser, "-device", help=ENCODER_DEVICE)
    add(parser, "--overwrite")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.trained_model import TrainedModel
    from nnunetv2_clip.training.prepare_extension import TrainedFold, prepare_extension

    old = TrainedFold.of(TrainedModel.open(args.m, args.c), args.f, args.chk)
    plans_name, device = args.overwrite_plans_name, args.device or "cpu"
    found = prepare_extension(old, args.d, args.mode, plans_name, args.text_table, args.weights, device, args.overwrite)
    describe(found)


def describe(found) -> None:
    """Print what was prepared and the commands that follow; warnings go to stderr."""
    extension = found.extension
    print(f"{extension.mode} from {extension.model}, fold {extension.fold}")
    print(f"  new classes      {', '.join(found.new) or 'none'}")
    if extension.known:
        kept = "stay bit for bit" if extension.is_frozen else "learn on"
        print(f"  old classes      {len(extension.known)}, which {kept}")
    for file in found.files:
        print(f"  wrote            {file}")
    for warning in found.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print("Next: " + "\n      ".join(found.next_commands))
