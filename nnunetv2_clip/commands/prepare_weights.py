"""nnunetv2_clip prepare-weights"""


def add_arguments(parser):
    parser.add_argument("-i", required=True, help="checkpoint of a stock nnU-Net with the same plans (backbone)")
    parser.add_argument("-o", required=True, help="checkpoint to write, for nnUNetv2_train -pretrained_weights")
    parser.add_argument("-d", required=True, help="dataset id or name to train on")
    parser.add_argument("-c", default="3d_fullres", help="configuration (default: %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans name (default: %(default)s)")


def run(args):
    from nnunetv2_clip.training.pretrained import prepare_weights

    report = prepare_weights(args.i, args.o, args.d, args.c, args.p)
    print(report)
