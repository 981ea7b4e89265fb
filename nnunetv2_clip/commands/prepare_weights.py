"""nnunetv2_clip prepare-weights"""

from nnunetv2_clip.choices import CONFIGURATION
from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    add(parser, "-i", required=True, metavar="CHECKPOINT", help="of a stock nnU-Net with the same plans, or published")
    add(parser, "-o", required=True, metavar="CHECKPOINT", help="to write, for nnUNetv2_train -pretrained_weights")
    add(parser, "-d", required=True)
    add(parser, "-p")
    add(parser, "-c", default=CONFIGURATION, help="configuration")
    parser.add_argument("--stem", default="", metavar="NAME", help="which one, of MultiTalent's files with several")


def run(args):
    from nnunetv2_clip.training.pretrained import prepare_weights

    report = prepare_weights(str(args.i), str(args.o), args.d, args.c, args.p, args.stem)
    print(report)
