"""Two models on the same cases: paired differences with intervals and corrected tests, as table, picture and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.bootstrap import Interval, mean_interval
from nnunetv2_clip.evaluation.figures import BLUE, GREY, RED, new_figure, save_figure
from nnunetv2_clip.evaluation.report import write_tables
from nnunetv2_clip.evaluation.results import Evaluation, strict_json
from nnunetv2_clip.evaluation.tables import MISSING, Table, number
from nnunetv2_clip.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_CLASSES = "all classes"
NOTE = (
    "Paired over cases. Interval: 95 % bootstrap of the mean difference. p: Wilcoxon signed-rank test, two-sided; "
    "Holm: corrected for the number of classes."
)


@dataclass(frozen=True)
class Comparison:
    """Second minus first model in one class.

    Attributes:
        differences: (n,) of the metric, one per case that both models were scored in.
        interval: 95 % bootstrap interval of the mean difference over cases.
        p_value: Wilcoxon signed-rank test, two-sided; 1 if no case differs, NaN with fewer than two cases.
        p_holm: p_value corrected for the number of classes (Holm); NaN for the row over all classes.
    """

    class_name: str
    means: tuple[float, float]
    differences: np.ndarray
    interval: Interval
    p_value: float
    p_holm: float = float("nan")

    @property
    def mean_difference(self) -> float:
        return float(self.differences.mean())


def compare_models(first: Evaluation, second: Evaluation, metric: str = "Dice") -> list[Comparison]:
    """One comparison per class, then one over all classes (per case the mean over its classes).

    Only pairs of case and class in which the metric is defined for both models count. Cases that either model saw in
    training are left out.

    Raises:
        UserError: the metric was not computed, or the evaluations share no pair.
    """
    values = [_values(evaluation, metric) for evaluation in (first, second)]
    common = sorted(set(values[0]) & set(values[1]))
    if not common:
        found = f"the two evaluations share no case and class in which {metric} is defined"
        expected = "evaluations of the same cases with this metric"
        raise UserError("compare", found, expected, "evaluate both models on the same references")
    per_class: dict[str, list[str]] = {}
    for case_id, name in common:
        per_class.setdefault(name, []).append(case_id)
    rows = []
    for name in (name for name in first.class_order if name in per_class):
        paired = np.array([[side[case_id, name] for side in values] for case_id in per_class[name]])
        rows.append(_compare(name, paired))
    corrected = holm([row.p_value for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]
    return [*rows, _compare(ALL_CLASSES, _case_means(values, common))]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN are no tests and stay NaN.

    Source: S. Holm, Scand J Statist 6 (1979) 65-70.
    """
    tests = sorted((p, position) for position, p in enumerate(p_values) if not np.isnan(p))
    corrected, highest = [float("nan")] * len(p_values), 0.0
    for rank, (p, position) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        corrected[position] = highest
    return corrected


def _compare(name: str, paired: np.ndarray) -> Comparison:
    """From (n, 2) values of first and second model."""
    differences = paired[:, 1] - paired[:, 0]
    means = (float(paired[:, 0].mean()), float(paired[:, 1].mean()))
    return Comparison(name, means, differences, mean_interval(differences), _wilcoxon(differences))


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if len(differences) < 2:
        return float("nan")
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _values(evaluation: Evaluation, metric: str) -> dict[tuple[str, str], float]:
    """(case, class) -> the metric where it is defined."""
    if metric not in evaluation.metrics:
        raise UserError("compare", f"{metric} was not computed", f"one of {', '.join(evaluation.metrics)}")
    pairs = {(pair.case_id, pair.class_name): pair.metrics[metric] for pair in evaluation.headline_pairs}
    return {key: value for key, value in pairs.items() if not np.isnan(value)}


def _case_means(values: list[dict[tuple[str, str], float]], common: list[tuple[str, str]]) -> np.ndarray:
    """(cases, 2) mean over the common classes of each case."""
    per_case: dict[str, list[list[float]]] = {}
    for key in common:
        per_case.setdefault(key[0], []).append([side[key] for side in values])
    return np.array([np.mean(rows, axis=0) for rows in per_case.values()])


def write_comparison(rows: Sequence[Comparison], names: tuple[str, str], metric: str, folder: Path) -> Table:
    """compare.json, .md, .html, .tex, .svg and .png; gives the table."""
    table = comparison_table(rows, names, metric)
    svg = save_figure(difference_figure(rows, names, metric), folder, "compare")
    classes = {
        row.class_name: {
            "n": len(row.differences),
            **{key: getattr(row, key) for key in ("means", "mean_difference", "interval", "p_value", "p_holm")},
        }
        for row in rows
    }
    content = {"metric": metric, "first": names[0], "second": names[1], "classes": classes}
    write_json(folder / "compare.json", strict_json(content))
    write_tables([table], folder, "compare", "Comparison", [svg])
    return table


def comparison_table(rows: Sequence[Comparison], names: tuple[str, str], metric: str) -> Table:
    columns = ("Class", "n", *names, "difference", "95 % interval", "p", "p (Holm)")
    cells = tuple(
        (
            row.class_name,
            str(len(row.differences)),
            *(number(mean) for mean in row.means),
            f"{row.mean_difference:+.3f}",
            "[{:+.3f}, {:+.3f}]".format(*row.interval),
            _p_text(row.p_value),
            _p_text(row.p_holm),
        )
        for row in rows
    )
    return Table(f"{metric}: {names[1]} against {names[0]}", columns, cells, NOTE)


def _p_text(p: float) -> str:
    if p != p:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference_figure(rows: Sequence[Comparison], names: tuple[str, str], metric: str) -> Figure:
    """One line per class: every case as a dot, the mean difference with its interval, colour if p (Holm) < 0.05."""
    figure, axis = new_figure(8, 1.2 + 0.34 * len(rows))
    jitter = np.random.default_rng(0)
    for line, row in enumerate(rows):
        spread = jitter.uniform(-0.22, 0.22, len(row.differences))
        axis.plot(row.differences, line + spread, "o", color=GREY, markersize=3, alpha=0.8, zorder=1)
        significant = (row.p_value if np.isnan(row.p_holm) else row.p_holm) < 0.05
        colour = (BLUE if row.mean_difference > 0 else RED) if significant else "#333333"
        axis.plot(row.interval, (line, line), color=colour, linewidth=2.5, zorder=2)
        axis.plot(row.mean_difference, line, "o", color=colour, markersize=6, zorder=3)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_yticks(
        range(len(rows)), [f"{row.class_name.replace('_', ' ')} (n = {len(row.differences)})" for row in rows]
    )
    axis.invert_yaxis()
    legend = "line: 95 % interval of the mean; colour: p < 0.05 after Holm's correction"
    axis.set_xlabel(f"{metric}: {names[1]} minus {names[0]}\n{legend}")
    return figure
