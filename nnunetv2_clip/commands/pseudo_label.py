"""`nnunetv2_clip pseudo-label`: complete a partly labelled dataset with a model's predictions."""

import argparse

from nnunetv2_clip.commands._arguments import add, next_steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-d", required=True)
    add(parser, "-m", required=True)
    add(parser, "-o", required=True, type=str, metavar="DATASET", help="new dataset: id (910) or name")
    add(parser, "--name", default="Completed")
    add(parser, "--classes")
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="probability above which a voxel belongs to a class"
    )
    parser.add_argument(
        "--max-uncertainty",
        type=float,
        default=0.3,
        metavar="U",
        help="a class whose prediction in a case is less certain than this stays unknown there: one minus the Dice "
        "that the model expects of its own mask, 0 to 1",
    )
    parser.add_argument(
        "--absent",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that may be found in none of the cases; others are refused then, for the model may not see them",
    )
    parser.add_argument(
        "--weight", type=float, default=0.5, metavar="W", help="of a pseudo label in the loss; truth has 1"
    )
    add(parser, "-c", "-f", "-chk", "-device", "-step_size", "--disable_tta", "--copy")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.paths import dataset_folder, new_dataset_name, nnunet_folder
    from nnunetv2_clip.pseudo_labels.label import pseudo_label
    from nnunetv2_clip.pseudo_labels.report import LEFT, SUMMARY, TABLE
    from nnunetv2_clip.trained_model import TrainedModel

    source = dataset_folder("nnUNet_raw", args.d)
    output = nnunet_folder("nnUNet_raw") / new_dataset_name("-o", args.o, args.name)
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
        absent=args.absent,
    )
    if done.not_in_dataset:
        print(f"Left out, because {source.name} has no such class: {', '.join(done.not_in_dataset)}")
    print((output / SUMMARY).read_text(encoding="utf-8").partition(LEFT)[0])  # the pairs may be thousands
    print(f"Every pair: {output / TABLE}")
    print(next_steps(output.name.split("_")[0].removeprefix("Dataset")))
    print("(or 'nnunetv2_clip extend' for a new class: docs/extend.md)")
