"""nnunetv2_clip paper-tables"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument(
        "-i", nargs="+", required=True, metavar="NAME=EVALUATION", help="row name and evaluation.json, or its folder"
    )
    parser.add_argument(
        "--table", nargs="+", default=["btcv"], metavar="TABLE", help="btcv, msd, ircadb, jhh, totalsegmentator [btcv]"
    )
    parser.add_argument(
        "--all-datasets", action="store_true", help="take every case, not only those of the table's own dataset"
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")


def run(args):
    from nnunetv2_clip.commands._evaluation import named_paths
    from nnunetv2_clip.errors import UserError, suggestion
    from nnunetv2_clip.evaluation.paper_tables import pairs_of, paper_table
    from nnunetv2_clip.evaluation.published import PUBLISHED_TABLES
    from nnunetv2_clip.evaluation.report import write_tables
    from nnunetv2_clip.evaluation.results import Evaluation

    evaluations = {name: Evaluation.load(path) for name, path in named_paths(args.i, "-i").items()}
    tables = []
    for key in args.table:
        table = PUBLISHED_TABLES.get(key)
        if table is None:
            hint = suggestion(key, PUBLISHED_TABLES)
            raise UserError("--table", f"unknown table {key!r}.{hint}", f"one of {', '.join(PUBLISHED_TABLES)}")
        for name, evaluation in evaluations.items():
            if not args.all_datasets and not pairs_of(evaluation, table):
                raise UserError(
                    f"-i {name}",
                    f"no case of a dataset {table.dataset}* is in this evaluation (but {evaluation.datasets()})",
                    f"the dataset of table {key}",
                    "add --all-datasets if all cases belong in the table",
                )
        tables.append(paper_table(table, evaluations, args.all_datasets))
        print(tables[-1].markdown())
    write_tables(tables, args.o, "tables")
    print(f"Written: {args.o}/tables.md, .html and .tex")
