"""nnunetv2_clip paper efficiency"""

from nnunetv2_clip.choices import CONFIGURATION
from nnunetv2_clip.commands._arguments import add, named_paths, require_one
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-m")
    add(parser, "-d", help="instead of -m: dataset id or name, with its plans -p in nnUNet_preprocessed")
    add(parser, "-p", "-c", "-device")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed passes after one that warms up")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        action="append",
        metavar="VOXELS",
        help="input; give it once per size (default: 96 96 96, and the patch of the plans)",
    )
    parser.add_argument(
        "-i",
        nargs="+",
        default=[],
        metavar="NETWORK=FILE",
        help="evaluations of trained networks, for Dice against FLOPs: universal, nnunet, nnunet-per-task, swin-unetr",
    )
    add(parser, "-o", required=True, help="output folder")


def run(args):
    import torch

    from nnunetv2_clip.device import find_device
    from nnunetv2_clip.evaluation.paper.efficiency import (
        candidates,
        check_head,
        cost_table,
        mean_dice,
        measure_all,
        write_efficiency,
    )

    dice = mean_dice(named_paths("-i", args.i))
    networks, patch = candidates(_plans(args), args.c or CONFIGURATION)
    sizes = [tuple(size) for size in args.size or ((96,) * len(patch), patch)]
    for size in sizes:
        if len(size) != len(patch) or min(size) < 1:
            raise UserError("--size", str(size), f"{len(patch)} numbers above 0, as the plans' patch size {patch}")
    device = find_device(args.device)
    threads = torch.get_num_threads()
    on_cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    tables, measured = [], {}
    for size in dict.fromkeys(sizes):
        costs, left_out = measure_all(networks, size, device, args.repeats)
        if not costs:
            if args.size:
                raise UserError("--size", f"{size}: {left_out[-1]}", f"a size that the networks can take, as {patch}")
            print(f"Nothing measured at {size}: {left_out[-1]}")  # 96 x 96 x 96 does not fit every plan
            continue
        measured[size] = costs
        note = " ".join([*left_out, check_head(networks[0].num_classes, size), f"torch {torch.__version__}."])
        tables.append(cost_table(costs, size, where, note))
        print(tables[-1].markdown())
    print(f"Written to {args.o}: {', '.join(write_efficiency(tables, measured, dice, args.o))}")


def _plans(args):
    """Raises UserError: both or neither of -m and -d, or no such dataset."""
    from nnunetv2_clip.paths import dataset_folder
    from nnunetv2_clip.trained_model import find_models

    require_one("paper efficiency", args, "d", "DATASET with -p")
    if args.m:
        return find_models(args.m)[0].where / "plans.json"
    return dataset_folder("nnUNet_preprocessed", args.d) / f"{args.p}.json"
