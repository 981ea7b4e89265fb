"""nnunetv2_clip info"""

from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    add(parser, "-m", required=True)
    add(parser, "--json")


def run(args):
    from nnunetv2_clip.report.model_info import as_text, describe_model
    from nnunetv2_clip.trained_model import find_models

    args.result = [describe_model(model) for model in find_models(args.m)]
    print("\n\n".join(map(as_text, args.result)))
