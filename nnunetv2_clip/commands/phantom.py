"""nnunetv2_clip phantom"""

from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    add(parser, "-o", required=True, help="output; one folder per source is made inside")
    parser.add_argument(
        "--layouts", nargs="+", required=True, metavar="NAME", help="sources whose layout is drawn, such as msd_liver"
    )
    parser.add_argument("--cases", type=int, default=6, metavar="N", help="labelled cases per source")
    parser.add_argument("--test-cases", type=int, default=1, metavar="N", help="cases without label per source")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other seeds give other patients")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="voxel size in mm, 0.5 to 12 each (default: 5 5 6)",
    )
    parser.add_argument("--orientation", metavar="CODES", help="voxel axes of all files, e.g. LPS")


def run(args):
    from nnunetv2_clip.phantom.write import PhantomOrder, write_sources

    spacing_mm = tuple(args.spacing) if args.spacing else None
    order = PhantomOrder(tuple(args.layouts), args.cases, args.test_cases, args.seed, spacing_mm, args.orientation)
    for source, truth in write_sources(args.o, order).items():
        print(f"{source}: {len(truth.cases)} cases in {truth.root}")
