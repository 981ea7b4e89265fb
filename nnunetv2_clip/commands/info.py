"""`nnunetv2_clip info`: what a trained model knows and how it was made."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        help="model folder (TRAINER__PLANS__CONFIGURATION), or a zip of nnUNetv2_export_model_to_zip",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a list with one entry per model")


def run(args: argparse.Namespace) -> int:
    import json

    from nnunetv2_clip.report.model_info import as_text, describe_model
    from nnunetv2_clip.trained_model import find_models

    models = [describe_model(model) for model in find_models(args.model)]
    print(json.dumps(models, indent=2) if args.json else "\n\n".join(map(as_text, models)))
    return 0
