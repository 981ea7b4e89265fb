"""`nnunetv2_clip extend`: prepare a training that starts from a trained model: more classes, or others."""

from __future__ import annotations

import argparse
from pathlib import Path

MODES = ("frozen", "fine-tune", "transfer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", type=Path, required=True, metavar="MODEL", help="trained universal model: folder or zip")
    parser.add_argument("-d", required=True, help="raw dataset to train on (id or name), made by 'convert'")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="frozen: add classes, the old ones stay to the bit; fine-tune: add classes, all weights learn, the old "
        "classes by pseudo labels; transfer: start from the weights with any classes (default: %(default)s)",
    )
    parser.add_argument("-c", help="with a zip of several models: the configuration")
    parser.add_argument("-f", metavar="FOLD", help="fold of the model to start from (default: the first there is)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    parser.add_argument("-p", metavar="NAME", help="name of the new plans (default: the model's with a suffix)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="text table that holds the new classes (embed -o)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="local weights file for open_clip, as in 'embed'")
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), default="cpu", help="where the encoder runs")
    parser.add_argument("--overwrite", action="store_true", help="replace plans of this name")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.trained_model import TrainedModel
    from nnunetv2_clip.training.prepare_extension import TrainedFold, prepare_extension

    old = TrainedFold.of(TrainedModel.open(args.m, args.c), args.f, args.chk)
    describe(prepare_extension(old, args.d, args.mode, args.p, args.table, args.weights, args.device, args.overwrite))


def describe(found) -> None:
    """Print what was prepared and the commands that follow; warnings go to stderr."""
    import sys

    extension = found.extension
    print(f"{extension.mode} from {extension.model}, fold {extension.fold}")
    print(f"  new classes      {', '.join(found.new) or 'none'}")
    if extension.known:
        kept = "stay to the bit" if extension.is_frozen else "learn on"
        print(f"  old classes      {len(extension.known)}, which {kept}")
    for file in found.files:
        print(f"  wrote            {file}")
    for warning in found.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print("Next: " + "\n      ".join(found.next_commands))
