"""nnunetv2_clip phantom"""


def add_arguments(parser):
    parser.add_argument("-o", required=True, metavar="FOLDER", help="output; one folder per source is made inside")
    parser.add_argument("--sources", nargs="+", required=True, metavar="SOURCE", help="source keys such as msd_liver")
    parser.add_argument("--cases", type=int, default=6, help="labelled cases per source (default 6)")
    parser.add_argument("--test-cases", type=int, default=1, help="cases without label per source (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other patients (default 0)")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="voxel size in mm")
    parser.add_argument("--orientation", metavar="CODES", help="voxel axes of all files, e.g. LPS")


def run(args):
    from pathlib import Path

    from nnunetv2_clip.phantom.write import PhantomOrder, write_sources

    order = PhantomOrder(
        sources=tuple(args.sources),
        cases=args.cases,
        test_cases=args.test_cases,
        seed=args.seed,
        spacing_mm=tuple(args.spacing) if args.spacing else None,
        orientation=args.orientation,
    )
    for source, truth in write_sources(Path(args.o), order).items():
        print(f"{source}: {len(truth.cases)} cases in {truth.root}")
