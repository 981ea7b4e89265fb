"""`nnunetv2_clip pseudo-label`: complete a partly labelled dataset with a model's predictions."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="ID", help="raw dataset to complete, id or name; it is only read")
    parser.add_argument(
        "-m", type=Path, required=True, metavar="MODEL", help="model folder, or a zip of nnUNetv2_export_model_to_zip"
    )
    parser.add_argument("-o", required=True, metavar="ID", help="id or full name of the new dataset")
    parser.add_argument("--name", default="Completed", help="name after the id of -o (default: Completed)")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by name or alias (default: all)")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability above which a voxel belongs to a class (default 0.5)"
    )
    parser.add_argument(
        "--max-uncertainty",
        type=float,
        default=0.3,
        help="a class whose prediction in a case is less certain than this stays unknown there: one minus the Dice "
        "that the model expects of its own mask, 0 to 1 (default 0.3)",
    )
    parser.add_argument(
        "--weight", type=float, default=0.5, help="of a pseudo label in the loss; truth has 1 (default 0.5)"
    )
    parser.add_argument("-c", help="configuration, of a zip with several")
    parser.add_argument("-f", nargs="+", help="folds (default: all that are there, as an ensemble)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="default: the fastest that is there")
    parser.add_argument("-step_size", type=float, default=0.5, help="of the sliding window, in patches (default 0.5)")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring (left and right never are mirrored)")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.paths import dataset_folder, nnunet_folder
    from nnunetv2_clip.pseudo_labels.label import pseudo_label
    from nnunetv2_clip.pseudo_labels.report import SUMMARY, TABLE
    from nnunetv2_clip.trained_model import TrainedModel

    source = dataset_folder("nnUNet_raw", args.d)
    output = nnunet_folder("nnUNet_raw") / _output_name(args.o, args.name)
    done = pseudo_label(
        source,
        TrainedModel.open(args.m, args.c),
        output,
        classes=args.classes,
        threshold=args.threshold,
        max_uncertainty=args.max_uncertainty,
        weight=args.weight,
        device=args.device,
        folds=args.f,
        checkpoint=args.chk,
        use_mirroring=not args.disable_tta,
        step_size=args.step_size,
        copy_images=args.copy,
    )
    if done.not_in_dataset:
        print(f"Left out, because {source.name} has no such class: {', '.join(done.not_in_dataset)}")
    print((output / SUMMARY).read_text(encoding="utf-8"))
    print(f"Every pair: {output / TABLE}")
    number = output.name.split("_")[0].removeprefix("Dataset")
    print(
        f"Next: nnunetv2_clip embed -d {number}; nnUNetv2_plan_and_preprocess -d {number}; nnUNetv2_train {number} ... "
        "(or 'nnunetv2_clip extend' for a new class: docs/extend.md)"
    )


def _output_name(text: str, name: str) -> str:
    """Raises UserError: neither an id nor a full name, or characters that nnU-Net's folders do not have."""
    import re

    from nnunetv2_clip.errors import UserError

    is_number = re.fullmatch(r"0*[1-9][0-9]{0,2}", text)
    full = f"Dataset{int(text):03d}_{name}" if is_number else text
    if not re.fullmatch(r"Dataset[0-9]{3}_[A-Za-z0-9_-]+", full):
        found = f"{text!r} with --name {name!r}" if is_number else f"{text!r}"
        raise UserError("-o", found, "a dataset id such as 910 or a name such as Dataset910_Completed")
    return full
