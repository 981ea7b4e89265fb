"""nnunetv2_clip paper tables"""

from nnunetv2_clip.choices import PAPER_TABLES
from nnunetv2_clip.commands._arguments import add, named_paths
from nnunetv2_clip.errors import UserError, suggestion


def add_arguments(parser):
    parser.add_argument(
        "-i", nargs="+", required=True, metavar="NAME=EVALUATION", help="row name and evaluation.json, or its folder"
    )
    parser.add_argument(
        "--table", nargs="+", default=["btcv"], metavar="TABLE", help=f"tables out of {', '.join(PAPER_TABLES)}"
    )
    parser.add_argument(
        "--all-datasets", action="store_true", help="take every case, not only those of the table's own dataset"
    )
    add(parser, "-o", required=True, help="output folder")


def run(args):
    from nnunetv2_clip.evaluation.paper.published import PUBLISHED_TABLES
    from nnunetv2_clip.evaluation.paper.tables import scores_of, write_paper_tables
    from nnunetv2_clip.evaluation.results import Evaluation

    evaluations = {name: Evaluation.load(path) for name, path in named_paths("-i", args.i).items()}
    for key in args.table:
        table = PUBLISHED_TABLES.get(key)
        if table is None:
            hint = suggestion(key, PUBLISHED_TABLES)
            raise UserError("--table", f"unknown table {key!r}.{hint}", f"one of {', '.join(PUBLISHED_TABLES)}")
        for name, evaluation in evaluations.items():
            if not args.all_datasets and not scores_of(evaluation, table):
                expected = f"cases of datasets whose names begin with {table.dataset!r}, which table {key} is about"
                raise UserError(
                    f"-i {name}",
                    _holds(evaluation),
                    expected,
                    "add --all-datasets if all its cases belong in the table",
                )
    for table in write_paper_tables(args.table, evaluations, args.o, "tables", "The paper's tables", args.all_datasets):
        print(table.markdown())
    drawn = "".join(f", {key}.png and .svg" for key in args.table if PUBLISHED_TABLES[key].is_figure)
    print(f"Written to {args.o}: tables.md, .html and .tex{drawn}")


def _holds(evaluation) -> str:
    """Whose cases an evaluation scores, in words."""
    from nnunetv2_clip.evaluation.study import UNKNOWN_DATASET

    datasets = evaluation.datasets()
    if not datasets:
        return "scores no class in any case"
    if datasets == (UNKNOWN_DATASET,):
        return "does not tell from which dataset its cases are (it was made without label_presence.json)"
    return f"holds cases of {', '.join(datasets)}"
