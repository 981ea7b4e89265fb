"""A comparison of two models as table, picture and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_clip.evaluation.comparison import Comparison
from nnunetv2_clip.evaluation.figures import difference_figure, save_figure
from nnunetv2_clip.evaluation.report import write_tables
from nnunetv2_clip.evaluation.results import strict_json
from nnunetv2_clip.evaluation.tables import MISSING, Table, number
from nnunetv2_clip.files import write_json

NOTE = (
    "Paired over cases. Interval: 95 % bootstrap of the mean difference. p: Wilcoxon signed-rank test, two-sided; "
    "Holm: corrected for the number of classes."
)


def write_comparison(rows: Sequence[Comparison], names: tuple[str, str], metric: str, folder: Path) -> Table:
    """compare.json, .md, .html, .tex, .svg and .png; gives the table."""
    table = comparison_table(rows, names, metric)
    svg = save_figure(difference_figure(rows, names, metric), folder, "compare")
    write_json(folder / "compare.json", strict_json(_json(rows, names, metric)))
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


def _json(rows: Sequence[Comparison], names: tuple[str, str], metric: str) -> dict:
    return {
        "metric": metric,
        "first": names[0],
        "second": names[1],
        "classes": {
            row.class_name: {
                "n": len(row.differences),
                "means": row.means,
                "mean_difference": row.mean_difference,
                "interval": row.interval,
                "p_value": row.p_value,
                "p_holm": row.p_holm,
            }
            for row in rows
        },
    }


def _p_text(p: float) -> str:
    if p != p:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
