"""nnunetv2_clip efficiency"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("-plans", type=Path, required=True, metavar="PLANS", help="of a model or of a dataset")
    parser.add_argument("-c", default="3d_fullres", help="configuration [3d_fullres]")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"), help="where time is measured [cpu]")
    parser.add_argument("-repeats", type=int, default=3, help="timed passes after one that warms up [3]")
    parser.add_argument("-size", type=int, nargs="+", action="append", help="input, repeatable [96 96 96 and patch]")
    parser.add_argument(
        "-i",
        nargs="+",
        default=[],
        metavar="NETWORK=EVALUATION",
        help="evaluations of trained networks, for Dice against FLOPs: universal, nnunet, nnunet-per-task, swin-unetr",
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")


def run(args):
    import torch

    from nnunetv2_clip.commands._evaluation import named_paths
    from nnunetv2_clip.device import find_device
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.evaluation.paper.efficiency import candidates, check_head, cost_table, measure_all
    from nnunetv2_clip.evaluation.paper.efficiency_report import mean_dice, write_report

    device = find_device(args.device)
    if args.repeats < 1:
        raise UserError("-repeats", str(args.repeats), "1 or more")
    dice = mean_dice(named_paths(args.i, "-i"))
    networks, patch = candidates(args.plans, args.c)
    sizes = [tuple(size) for size in args.size or ((96,) * len(patch), patch)]
    for size in sizes:
        if len(size) != len(patch) or min(size) < 1:
            raise UserError("-size", str(size), f"{len(patch)} numbers above 0, as the plans' patch size {patch}")
    threads = torch.get_num_threads()
    on_cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    tables, measured = [], {}
    for size in dict.fromkeys(sizes):
        costs, left_out = measure_all(networks, size, device, args.repeats)
        if not costs:
            if args.size:
                raise UserError("-size", f"{size}: {left_out[-1]}", f"a size that the networks can take, as {patch}")
            print(f"Nothing measured at {size}: {left_out[-1]}")  # 96 x 96 x 96 does not fit every plan
            continue
        measured[size] = costs
        note = " ".join([*left_out, check_head(networks[0].num_classes, size), f"torch {torch.__version__}."])
        tables.append(cost_table(costs, size, where, note))
        print(tables[-1].markdown())
    print(f"Written to {args.o}: {', '.join(write_report(tables, measured, dice, args.o))}")
