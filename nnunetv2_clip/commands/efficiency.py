"""nnunetv2_clip efficiency"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("-plans", type=Path, required=True, metavar="PLANS", help="of a model or of a dataset")
    parser.add_argument("-c", default="3d_fullres", help="configuration [3d_fullres]")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"), help="where time is measured [cpu]")
    parser.add_argument("-repeats", type=int, default=3, help="timed passes after one that warms up [3]")
    parser.add_argument("-size", type=int, nargs="+", action="append", help="input, repeatable [96 96 96 and patch]")
    parser.add_argument("-o", type=Path, required=True, help="output folder")


def run(args):
    import torch
    from tqdm import tqdm

    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.evaluation.efficiency import candidates, cost_table, fits, measure
    from nnunetv2_clip.evaluation.report import write_tables

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda", "torch finds no GPU", "a CUDA device", "use -device cpu")
    if args.repeats < 1:
        raise UserError("-repeats", str(args.repeats), "1 or more")
    networks, patch = candidates(args.plans, args.c)
    sizes = [tuple(size) for size in args.size or ((96,) * len(patch), patch)]
    for size in sizes:
        if len(size) != len(patch):
            raise UserError("-size", str(size), f"{len(patch)} numbers, as the plans' patch size {patch}")
    device = torch.device(args.device)
    where = torch.cuda.get_device_name(device) if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    has_swin = any(network.name.startswith("Swin") for network in networks)
    note = f"torch {torch.__version__}." + ("" if has_swin else " Swin UNETR not measured: monai is not installed.")
    tables = []
    for size in dict.fromkeys(sizes):
        wanted = [network for network in networks if fits(network, size)]
        try:
            costs = [
                measure(network, size, device, args.repeats) for network in tqdm(wanted, desc=f"{size}", unit="net")
            ]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                "-size", f"{size}: {reason}", f"a multiple of the networks' strides that fits into memory, as {patch}"
            ) from None
        tables.append(cost_table(costs, size, where, note))
        print(tables[-1].markdown())
    write_tables(tables, args.o, "efficiency")
    print(f"Written: {args.o}/efficiency.md, .html and .tex")
