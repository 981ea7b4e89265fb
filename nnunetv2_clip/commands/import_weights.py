"""nnunetv2_clip import-weights"""

from nnunetv2_clip.commands._arguments import FILE, add
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    parser.add_argument("weights", **FILE, help="checkpoint of the authors (clip_driven_universal_unet.pth, ...)")
    add(parser, "-o", required=True, metavar="MODEL", help="model folder to write")
    add(parser, "--class-order")
    parser.add_argument("--licence-read", action="store_true", help="you have read the licence and keep to it")


def run(args):
    from nnunetv2_clip.files import few
    from nnunetv2_clip.published.recipe import LICENCE, TERMS

    print(f"Licence: {LICENCE}. That is: {TERMS}.")
    if not args.licence_read:
        found, remedy = "the licence has not been confirmed", "read it where you got the file; then add --licence-read"
        raise UserError(args.weights, found, remedy=remedy)
    from nnunetv2_clip.published.model_folder import FOLD, import_weights

    done = import_weights(args.weights, args.o, args.class_order)
    print(f"{args.o}: {done.variant}, {len(done.classes)} classes, {done.num_tensors} tensors.")
    if done.unused:
        print(f"Left out, because no network uses them: {len(done.unused)} tensors ({few(done.unused)})")
    print(
        f"Next: nnunetv2_clip predict -i CT_FOLDER -o PREDICTIONS -m {args.o}\n"
        f"  or: nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {args.o} -f {FOLD}"
    )
