"""Our evaluations in the layout of the paper's tables, its own rows beside them."""

from __future__ import annotations

from collections.abc import Mapping

from nnunetv2_clip.evaluation.published import NOT_REMEASURED, SOURCE, PublishedTable
from nnunetv2_clip.evaluation.results import Evaluation, Pair, Statistic
from nnunetv2_clip.evaluation.tables import MISSING, Table, number


def pairs_of(evaluation: Evaluation, table: PublishedTable) -> list[Pair]:
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
    rows = [(f"{method} *", *(_cell(value) for value in printed)) for method, printed in table.rows.items()]
    for name, evaluation in evaluations.items():
        pairs = evaluation.headline_pairs if all_datasets else pairs_of(evaluation, table)
        statistics = {key: row["Dice"] for key, row in evaluation.summarise(pairs).items()}
        groups = (*table.columns.values(), *table.averages.values())
        rows.append((name, *(_cell(_percent(classes, statistics, "mean")) for classes in groups)))
        deviations = [_percent(classes, statistics, "std") for classes in table.columns.values()]
        rows.append((f"{name}, ± over cases", *map(_cell, deviations), *(MISSING for _ in table.averages)))
    note = f"{NOT_REMEASURED} ({SOURCE}), on other splits than ours." if table.rows else ""
    return Table(table.title, ("Method", *headings), tuple(rows), note)


def _percent(classes: tuple[str, ...], statistics: Mapping[str, Statistic], field: str) -> float | None:
    """The mean over classes of one field of their Dice, in percent; None if a class has none."""
    values = [getattr(statistics[name], field) if name in statistics else float("nan") for name in classes]
    mean = 100 * sum(values) / len(values)
    return None if mean != mean else mean


def _cell(value: float | None) -> str:
    return MISSING if value is None else number(value, 2)
