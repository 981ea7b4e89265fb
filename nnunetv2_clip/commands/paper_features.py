"""nnunetv2_clip paper features"""

from nnunetv2_clip.commands._arguments import add
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-m", required=True, help="trained model: its folder (TRAINER__PLANS__CONFIGURATION)")
    add(parser, "-i", required=True, help="CT images (*.nii.gz): a folder, or one image")
    add(parser, "-f", nargs=None, help="fold (default: the first that is there)")
    add(parser, "-chk", "-device", "--classes")
    parser.add_argument("--per-class", type=int, default=150, metavar="N", help="voxels sampled per class")
    add(parser, "-o", required=True, help="output folder")


def run(args):
    import numpy as np

    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.evaluation.figures import save_figure
    from nnunetv2_clip.evaluation.paper.features import map_figure, project, sample_cases
    from nnunetv2_clip.imaging.nifti import SUFFIXES
    from nnunetv2_clip.inference.loading import load_predictor
    from nnunetv2_clip.trained_model import TrainedModel

    images = [args.i] if args.i.is_file() else sorted(p for p in args.i.glob("*") if p.name.endswith(SUFFIXES))
    if not images:
        raise UserError(args.i, "holds no image", "files *.nii.gz")
    names = [UNIVERSAL.find(name).name if name in UNIVERSAL else name for name in args.classes or ()] or None
    folds = [args.f] if args.f is not None else None
    predictor = load_predictor(TrainedModel.open(args.m), names, folds=folds, checkpoint=args.chk, device=args.device)
    if len(predictor.configuration_manager.patch_size) != 3:
        raise UserError(args.m, "is a 2d configuration", "a 3d one", "name the folder of 3d_fullres")
    features = sample_cases(predictor, images, args.per_class)
    print(f"t-SNE of {sum(map(len, features.values()))} voxels of {len(features)} classes", flush=True)
    plane = project(features)
    save_figure(map_figure(plane), args.o, "feature_map")
    np.savez_compressed(args.o / "feature_map.npz", **plane)
    for name, dots in plane.items():
        print(f"{name:26s} {len(dots):5d} voxels")
    print(f"Written: {args.o}/feature_map.svg, .png and .npz")
