"""nnunetv2_clip compare"""

from nnunetv2_clip.choices import COMPARED_METRICS
from nnunetv2_clip.commands._arguments import add, named_paths


def add_arguments(parser):
    parser.add_argument(
        "-i", nargs=2, required=True, metavar="NAME=EVALUATION", help="two models: name and evaluation.json (or folder)"
    )
    parser.add_argument("--metric", default="Dice", choices=COMPARED_METRICS, help="what is compared")
    add(parser, "-o", required=True, help="output folder")


def run(args):
    from nnunetv2_clip.evaluation.comparison import compare_models, write_comparison
    from nnunetv2_clip.evaluation.results import Evaluation

    evaluations = {name: Evaluation.load(path) for name, path in named_paths("-i", args.i).items()}
    rows = compare_models(*evaluations.values(), metric=args.metric)
    print(write_comparison(rows, tuple(evaluations), args.metric, args.o).markdown())
    print(f"Written: {args.o}/compare.json, .md, .html, .tex, .svg and .png")
