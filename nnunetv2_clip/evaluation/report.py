"""An evaluation as files: JSON for programs, CSV for spreadsheets, Markdown and HTML for people."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nnunetv2_clip.evaluation.results import COUNTS, RECALL, RULES, Evaluation, PairScore, plus_minus
from nnunetv2_clip.evaluation.tables import Table, number
from nnunetv2_clip.files import write_csv, write_text
from nnunetv2_clip.pages import render

LABELS = {"Dice": "Dice", "NSD": "NSD", "HD95": "HD95 (mm)", "volume_difference_ml": "Volume difference (ml)"}
DIGITS = {"Dice": 3, "NSD": 3, "HD95": 2, "volume_difference_ml": 1}
NUM_WORST = 10
COUNTS_NOTE = "cases: class annotated or known absent; n: Dice is defined."


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """evaluation.json, evaluation.csv (one line per case and class), evaluation.md and evaluation.html in `folder`."""
    evaluation.save(folder / "evaluation.json")
    write_csv(folder / "evaluation.csv", _pair_rows(evaluation))
    notes = [*evaluation.notes, *(f"{name}: {rule}." for name, rule in RULES.items())]
    write_page(report_tables(evaluation), folder, "evaluation", "Evaluation", notes)


def write_page(tables: Sequence[Table], folder: Path, name: str, title: str, notes: Sequence[str]) -> None:
    """The tables with title and notes as <name>.md and .html."""
    lines = "\n".join(f"- {note}" for note in notes)
    write_text(folder / f"{name}.md", "\n".join([f"# {title}\n", *(table.markdown() for table in tables), lines, ""]))
    write_text(folder / f"{name}.html", render("tables.html.j2", title=title, tables=tables, notes=notes, pictures=()))


def write_tables(tables: Sequence[Table], folder: Path, name: str, title: str, pictures: Iterable[str] = ()) -> None:
    """The tables as <name>.md, .html and .tex; pictures (inline SVG texts) in the page only."""
    write_text(folder / f"{name}.md", "\n".join(table.markdown() for table in tables))
    page = render("tables.html.j2", title=title, tables=tables, notes=(), pictures=pictures)
    write_text(folder / f"{name}.html", page)
    write_text(folder / f"{name}.tex", "\n".join(table.latex() for table in tables))


def report_tables(evaluation: Evaluation) -> list[Table]:
    """Per class, per dataset, incomplete classes, cases seen in training, worst pairs: those that have rows."""
    tables = [class_table(evaluation, evaluation.headline_pairs, "Per class")]
    datasets = evaluation.datasets()
    if len(datasets) > 1:
        tables += [
            class_table(evaluation, [pair for pair in evaluation.headline_pairs if pair.dataset == name], name)
            for name in datasets
        ]
    if evaluation.recalls:
        tables.append(recall_table(evaluation))
    if evaluation.leaked:
        note = "Not in any other figure of this page: the scan also stood in the model's training."
        tables.append(class_table(evaluation, evaluation.leaked_pairs, "Cases seen in training", note))
        tables.append(leak_table(evaluation.leaked))
    return [*tables, _worst_table(evaluation)]


def recall_table(evaluation: Evaluation) -> Table:
    """Of the voxels that were drawn of incomplete classes, how many are predicted."""
    rows = tuple((name, str(values.n), plus_minus(values)) for name, values in evaluation.recalls.items())
    note = "What is drawn of these classes is true, the rest is unknown: no Dice and no false alarms in these cases."
    return Table("Incomplete classes", ("Class", "cases with voxels", "Recall"), rows, note)


def leak_table(leaked: Mapping[str, str]) -> Table:
    """Every case whose scan the model saw in training, and how that was found."""
    return Table("Why cases count as seen in training", ("Case", "Reason"), tuple(sorted(leaked.items())))


def class_table(evaluation: Evaluation, pairs: Sequence[PairScore], title: str, note: str = "") -> Table:
    """Mean ± standard deviation per class with n, the number of cases in which Dice is defined; last the mean."""
    pairs = tuple(pairs)
    metrics = evaluation.metrics
    summary = evaluation.summarise(pairs)
    num_pairs = Counter(pair.class_name for pair in pairs)
    rows = []
    for name, row in summary.items():
        cells = (plus_minus(row[metric], DIGITS[metric]) for metric in metrics)
        rows.append((name, str(num_pairs[name]), str(row["Dice"].n), *cells))
    if rows:
        means = (number(over.mean, DIGITS[metric]) for metric, over in evaluation.mean_over_classes(pairs).items())
        rows.append(("mean over classes", str(sum(num_pairs[name] for name in summary)), "", *means))
    columns = ("Class", "cases", "n", *(LABELS[metric] for metric in metrics))
    return Table(title, columns, tuple(rows), note or COUNTS_NOTE, has_total=True)


def _pair_rows(evaluation: Evaluation) -> Iterator[tuple]:
    """One line per scored (case, class) pair; an empty field where a metric is not defined."""
    columns = (*evaluation.metrics, *((RECALL,) if evaluation.recalls else ()), *COUNTS)
    yield ("case", "dataset", "class", "state", "seen_in_training", *columns)
    for pair in evaluation.pairs:
        values = (pair.metrics.get(column, float("nan")) for column in columns)
        start = (pair.case_id, pair.dataset, pair.class_name, pair.state, int(pair.case_id in evaluation.leaked))
        yield (*start, *("" if value != value else value for value in values))


def _worst_table(evaluation: Evaluation) -> Table:
    """The annotated pairs with the lowest Dice: where to look first."""
    defined = [pair for pair in evaluation.headline_pairs if pair.metrics["Dice"] == pair.metrics["Dice"]]
    worst = sorted(defined, key=lambda pair: (pair.metrics["Dice"], -pair.metrics["n_ref"]))[:NUM_WORST]
    rows = tuple(
        (pair.case_id, pair.class_name, number(pair.metrics["Dice"]), *(str(pair.metrics[count]) for count in COUNTS))
        for pair in worst
    )
    return Table("Lowest Dice", ("Case", "Class", "Dice", "reference voxels", "predicted", "common"), rows)
