"""nnunetv2_clip feature-map"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("-m", type=Path, required=True, help="model folder: TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("-i", type=Path, required=True, help="folder of CT images (*.nii.gz), or one image")
    parser.add_argument("-f", help="fold whose weights are used [the first that is there]")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint [checkpoint_final.pth]")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes [all of the model]")
    parser.add_argument("--per-class", type=int, default=150, help="voxels sampled per class [150]")
    parser.add_argument("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="[cuda]")
    parser.add_argument("-o", type=Path, required=True, help="output folder")


def run(args):
    import numpy as np

    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.errors import UserError
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
