"""Our evaluations in the layout of the paper's tables, its own rows beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_clip.evaluation.figures import grouped_bars, save_figure
from nnunetv2_clip.evaluation.paper.published import NOT_REMEASURED, PUBLISHED_TABLES, SOURCE, PublishedTable
from nnunetv2_clip.evaluation.report import write_tables
from nnunetv2_clip.evaluation.results import Evaluation, PairScore, Statistic
from nnunetv2_clip.evaluation.tables import MISSING, Table, number


def scores_of(evaluation: Evaluation, table: PublishedTable) -> list[PairScore]:
    """The headline pairs of the table's source datasets."""
    return [pair for pair in evaluation.headline_pairs if pair.dataset.startswith(table.dataset)]


def paper_table(table: PublishedTable, evaluations: Mapping[str, Evaluation], all_datasets: bool = False) -> Table:
    """The published rows (marked), then two rows per evaluation: mean Dice and its standard deviation over cases.

    A column is the mean over its classes of the class's mean Dice; an average is the mean over its classes and exists
    only if all of them were scored.

    Args:
        evaluations: name of the row -> evaluation.
        all_datasets: take every case instead of those whose dataset has the table's name.
    """
    headings = (*table.columns, *table.averages)
    rows = [(f"{method} *", *(number(value, 2) for value in printed)) for method, printed in table.rows.items()]
    for name, evaluation in evaluations.items():
        statistics = _statistics(table, evaluation, all_datasets)
        groups = (*table.columns.values(), *table.averages.values())
        rows.append((name, *(number(_percent(classes, statistics, "mean"), 2) for classes in groups)))
        deviations = (number(_percent(classes, statistics, "std"), 2) for classes in table.columns.values())
        rows.append(("± over cases", *deviations, *(MISSING for _ in table.averages)))
    note = f"{NOT_REMEASURED} ({SOURCE}), on other splits than ours." if table.rows else ""
    return Table(table.title, ("Method", *headings), tuple(rows), note)


def write_paper_tables(
    keys: Sequence[str],
    evaluations: Mapping[str, Evaluation],
    folder: Path,
    name: str,
    title: str,
    all_datasets: bool = False,
    before: Sequence[Table] = (),
) -> list[Table]:
    """<name>.md, .html and .tex with these tables of the paper, and a picture <key>.svg and .png of its figures.

    Args:
        keys: of `PUBLISHED_TABLES`.
        before: tables that stand first.
    """
    tables, drawn = list(before), []
    for key in keys:
        table = PUBLISHED_TABLES[key]
        tables.append(paper_table(table, evaluations, all_datasets))
        bars = column_bars(table, evaluations, all_datasets)
        if table.is_figure and bars:
            heading = table.title.replace(", Dice in percent", "")
            drawn.append(save_figure(grouped_bars(bars, heading), folder, key))
    write_tables(tables, folder, name, title, pictures=drawn)
    return tables


def column_bars(
    table: PublishedTable, evaluations: Mapping[str, Evaluation], all_datasets: bool
) -> dict[str, dict[str, tuple[float, float]]]:
    """Column -> evaluation -> mean and standard deviation of Dice over cases, where it was scored."""
    bars: dict[str, dict[str, tuple[float, float]]] = {}
    for name, evaluation in evaluations.items():
        statistics = _statistics(table, evaluation, all_datasets)
        for heading, classes in table.columns.items():
            mean, std = _percent(classes, statistics, "mean"), _percent(classes, statistics, "std")
            if mean == mean:
                bars.setdefault(heading, {})[name] = mean / 100, std / 100
    return {heading: bars[heading] for heading in table.columns if heading in bars}


def _statistics(table: PublishedTable, evaluation: Evaluation, all_datasets: bool) -> dict[str, Statistic]:
    """Class -> Dice over the cases of the table."""
    pairs = evaluation.headline_pairs if all_datasets else scores_of(evaluation, table)
    return {key: row["Dice"] for key, row in evaluation.summarise(pairs).items()}


def _percent(classes: tuple[str, ...], statistics: Mapping[str, Statistic], field: str) -> float:
    """The mean over classes of one field of their Dice, in percent; NaN if a class has none."""
    values = [getattr(statistics[name], field) if name in statistics else float("nan") for name in classes]
    return 100 * sum(values) / len(values)
