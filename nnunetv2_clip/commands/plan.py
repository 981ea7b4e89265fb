"""nnunetv2_clip plan"""

from nnunetv2_clip.choices import CONFIGURATION, PLANNERS
from nnunetv2_clip.commands._arguments import add
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-d", required=True)
    parser.add_argument("-pl", metavar="PLANNER", choices=tuple(PLANNERS), default=next(iter(PLANNERS)), help="planner")
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="memory to plan for")
    add(parser, "-overwrite_plans_name")
    parser.add_argument("-overwrite_target_spacing", type=float, nargs=3, metavar="MM", help="voxel size of 3d_fullres")


def run(args):
    import pydoc

    from nnunetv2_clip.paths import dataset_folder

    raw = dataset_folder("nnUNet_raw", args.d)
    preprocessed = dataset_folder("nnUNet_preprocessed", raw.name)
    if not (preprocessed / "dataset_fingerprint.json").is_file():
        expected, remedy = "the fingerprint of the dataset", f"run 'nnUNetv2_extract_fingerprint -d {args.d}' first"
        raise UserError(preprocessed, "has no dataset_fingerprint.json", expected, remedy)
    planner_class = pydoc.locate(f"nnunetv2_clip.plans.{PLANNERS[args.pl]}")
    if args.gpu_memory_target and planner_class.default_memory_gb is None:
        found = f"the preset {args.pl!r} fixes patch and batch, whatever memory they take"
        remedy = "leave it out, or plan with another preset"
        raise UserError(f"-gpu_memory_target {args.gpu_memory_target}", found, remedy=remedy)
    name = args.overwrite_plans_name or planner_class.default_plans_name
    spacing = args.overwrite_target_spacing
    planner_class(raw.name, args.gpu_memory_target, plans_name=name, overwrite_target_spacing=spacing).plan_experiment()
    print(f"Next: nnUNetv2_preprocess -d {args.d} -plans_name {name} -c {CONFIGURATION}")
