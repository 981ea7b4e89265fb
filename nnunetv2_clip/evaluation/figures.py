"""Pictures of evaluations, as SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#2563a8", "#b5402f", "#9aa5b1"
PALETTE = ("#2563a8", "#d08c2e", "#4f8f5b", "#b5402f", "#7a5ea8", "#5b6570")


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write <name>.svg and <name>.png; gives the SVG for a page."""
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


def grouped_bars(values: Mapping[str, Mapping[str, tuple[float, float]]], title: str) -> Figure:
    """Group -> bar -> (mean, standard deviation) of Dice: groups down the axis, one colour per bar."""
    bars = list(dict.fromkeys(bar for group in values.values() for bar in group))
    figure, axis = new_figure(8, 1 + len(values) * (0.16 + 0.15 * len(bars)))
    height = 0.82 / max(len(bars), 1)
    for position, bar in enumerate(bars):
        places = [index for index, group in enumerate(values.values()) if bar in group]
        found = [values[group][bar] for group in values if bar in values[group]]
        means, deviations = [mean for mean, _ in found], [0 if np.isnan(std) else std for _, std in found]
        y = np.array(places) + (position - (len(bars) - 1) / 2) * height
        style = {"error_kw": {"linewidth": 1, "ecolor": "#333333"}, **bar_style(position)}
        axis.barh(y, means, height * 0.9, xerr=deviations, label=bar, **style)
    axis.set_yticks(range(len(values)), [name.replace("_", " ") for name in values])
    axis.set_ylim(len(values) - 0.4, -0.6)  # the first group on top
    axis.set_xlim(0, 1.02)
    axis.grid(axis="x", color="#dde3ea", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel("Dice, mean and standard deviation over cases")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure


def bar_style(position: int) -> dict[str, str]:
    """A colour of its own for each of six bars; then the same colours hatched in three ways."""
    hatch = ("", "///", "...", "xxx")[position // len(PALETTE) % 4]
    return {"color": PALETTE[position % len(PALETTE)], "edgecolor": "white", "hatch": hatch}


def bar_panels(names: Sequence[str], panels: Mapping[str, Sequence[float]]) -> Figure:
    """One panel of bars per quantity (title -> one value per name, NaN for none), its numbers at the bars."""
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(10, rows * (0.9 + 0.32 * len(names))), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, (title, values) in zip(axes, panels.items(), strict=False):
        known = np.nan_to_num(np.array(values, float))
        axis.barh(range(len(names)), known, 0.7, color=[PALETTE[number % len(PALETTE)] for number in range(len(names))])
        for place, value in enumerate(values):
            text = "not measured" if np.isnan(value) else f"{value:.3g}"
            axis.text(0 if np.isnan(value) else value, place, f" {text}", va="center", fontsize=9)
        axis.set_xlim(0, 1.18 * max(known.max(), 1e-12))
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks(range(len(names)), names)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure


def bubble_figure(points: Mapping[str, tuple[float, float, float]], xlabel: str, ylabel: str, sizes: str) -> Figure:
    """Name -> (x, y, size): a circle whose area grows with the size, named in the legend beside."""
    figure, axis = new_figure(6, 4.5)
    largest = max(size for _, _, size in points.values())
    for position, (name, (x, y, size)) in enumerate(points.items()):
        label = f"{name} ({size:.3g} {sizes})"
        area = 60 + 900 * size / largest
        axis.scatter(x, y, area, color=PALETTE[position % len(PALETTE)], alpha=0.75, edgecolors="white", label=label)
    axis.margins(0.2)
    axis.set_xlim(left=0)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(color="#dde3ea", linewidth=0.8)
    axis.set_axisbelow(True)
    legend = axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    return figure
