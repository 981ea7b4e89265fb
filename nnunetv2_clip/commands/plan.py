"""nnunetv2_clip plan"""

CHOICES = ("small", "default", "resenc_l")


def add_arguments(parser):
    parser.add_argument("-d", required=True, help="dataset id or name; its fingerprint must exist")
    parser.add_argument("-pl", choices=CHOICES, default="default", help="planner (default: %(default)s)")
    parser.add_argument("-gpu_memory_target", type=float, help="GB of memory to plan for")
    parser.add_argument("-overwrite_plans_name", help="name of the plans file, without .json")
    parser.add_argument(
        "-overwrite_target_spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="voxel size of 3d_fullres",
    )


def run(args):
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.paths import dataset_folder
    from nnunetv2_clip.plans.planners import PLANNERS

    assert tuple(PLANNERS) == CHOICES
    raw = dataset_folder("nnUNet_raw", args.d)
    preprocessed = dataset_folder("nnUNet_preprocessed", raw.name)
    if not (preprocessed / "dataset_fingerprint.json").is_file():
        raise UserError(
            preprocessed,
            "has no dataset_fingerprint.json",
            "the fingerprint that planning starts from",
            f"run 'nnUNetv2_extract_fingerprint -d {args.d}' first",
        )
    planner_class = PLANNERS[args.pl]
    name = args.overwrite_plans_name or planner_class.default_plans_name
    planner = planner_class(
        raw.name,
        args.gpu_memory_target or planner_class.default_memory_gb,
        plans_name=name,
        overwrite_target_spacing=args.overwrite_target_spacing,
    )
    planner.plan_experiment()
    print(f"Next: nnUNetv2_preprocess -d {args.d} -plans_name {name} -c 3d_fullres")
