"""nnunetv2_clip paper embeddings"""

import sys
from pathlib import Path

from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    parser.add_argument(
        "-i", nargs="+", type=Path, required=True, metavar="TABLE", help="text tables (.npz) that 'embed' has made"
    )
    add(parser, "-d", help="dataset id or name, for the meaning of its own classes (default: the universal classes)")
    add(parser, "-o", required=True, help="output folder")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.commands.embed import dataset_taxonomy
    from nnunetv2_clip.text.similarity import rank_report, save_similarity_figure, warnings_of
    from nnunetv2_clip.text.table import TextTable

    tables = {}
    for file in args.i:
        label = file.stem if file.stem not in tables else str(file)
        tables[label] = TextTable.load(file)
    taxonomy = dataset_taxonomy(args.d)[0] if args.d else UNIVERSAL
    print(rank_report(tables, taxonomy))
    for label, table in tables.items():
        for warning in warnings_of(table):
            print(f"Warning: {label}: {warning}", file=sys.stderr)
    save_similarity_figure(tables, args.o / "similarity.png")
    print(f"Written: {args.o}/similarity.png and .svg")
