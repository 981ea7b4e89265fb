"""Pictures of evaluations, as SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.evaluation.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#2563a8", "#b5402f", "#9aa5b1"
PALETTE = ("#2563a8", "#d08c2e", "#4f8f5b", "#b5402f", "#7a5ea8", "#5b6570")


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write <name>.svg and <name>.png; gives the SVG for a page."""
    from nnunetv2_clip.evaluation.report import write_text

    folder.mkdir(parents=True, exist_ok=True)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
    write_text(folder / f"{name}.svg", stream.getvalue())
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def new_figure(width: float, height: float) -> tuple[Figure, object]:
    """A figure in inches with one plain axis, independent of any screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


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
    axis.set_yticks(range(len(rows)), [f"{row.class_name} (n = {len(row.differences)})" for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel(f"{metric}: {names[1]} minus {names[0]}\nline: 95 % interval of the mean; colour: p < 0.05")
    return figure


def grouped_bars(values: Mapping[str, Mapping[str, tuple[float, float]]], ylabel: str) -> Figure:
    """Group -> bar -> (mean, standard deviation): groups along the axis, one colour per bar."""
    bars = list(dict.fromkeys(bar for group in values.values() for bar in group))
    figure, axis = new_figure(max(6, 1.5 + 0.28 * len(values) * (len(bars) + 1)), 4)
    width = 0.8 / max(len(bars), 1)
    for position, bar in enumerate(bars):
        places = [index for index, group in enumerate(values.values()) if bar in group]
        found = [values[group][bar] for group in values if bar in values[group]]
        means, deviations = [mean for mean, _ in found], [0 if np.isnan(std) else std for _, std in found]
        x = np.array(places) + (position - (len(bars) - 1) / 2) * width
        colour = PALETTE[position % len(PALETTE)]
        axis.bar(x, means, width * 0.92, yerr=deviations, color=colour, label=bar, error_kw={"linewidth": 1})
    axis.set_xticks(range(len(values)), [name.replace("_", " ") for name in values], rotation=35, ha="right")
    axis.set_ylabel(ylabel)
    axis.set_ylim(0, 1.05)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
