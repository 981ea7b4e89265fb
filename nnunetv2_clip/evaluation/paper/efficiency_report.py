"""Costs of networks as tables and pictures (paper, Figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.evaluation.figures import bar_panels, bubble_figure, save_figure
from nnunetv2_clip.evaluation.paper.efficiency import NNUNET, SWIN, TASKS, UNIVERSAL_NET, Cost
from nnunetv2_clip.evaluation.report import write_tables
from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.evaluation.tables import Table

WITH_DICE = (UNIVERSAL_NET, NNUNET, TASKS, SWIN)  # networks that can have an evaluation


def write_efficiency(
    tables: Sequence[Table], costs: Mapping[tuple[int, ...], list[Cost]], dice: Mapping[str, float], folder: Path
) -> list[str]:
    """efficiency.md, .html and .tex, a picture per size, and Dice against FLOPs where Dice is known.

    Args:
        costs: input size -> networks that were measured.
        dice: short name of a network -> mean Dice.

    Returns:
        The names of the files.
    """
    pictures = {}
    for number, (size, found) in enumerate(costs.items()):
        pictures["efficiency" if number == 0 else f"efficiency_{'x'.join(map(str, size))}"] = _bars(found)
    size, found = next(iter(costs.items()))
    points = {
        cost.name: (cost.flops / 1e9, dice[cost.key], cost.parameters / 1e6) for cost in found if cost.key in dice
    }
    if points:
        shape = " x ".join(map(str, size))
        axes = f"GFLOPs of one forward pass, {shape} voxels", "Dice, mean over classes"
        pictures["efficiency_dice"] = bubble_figure(points, *axes, "M parameters")
    drawn = [save_figure(figure, folder, name) for name, figure in pictures.items()]
    write_tables(tables, folder, "efficiency", "Efficiency", pictures=drawn)
    return ["efficiency.md", "efficiency.html", "efficiency.tex", *(f"{name}.png" for name in pictures)]


def mean_dice(evaluations: Mapping[str, Path]) -> dict[str, float]:
    """Short name of a network -> Dice, the mean over the classes of its evaluation.

    Raises:
        UserError: no such network, or no evaluation.
    """
    for key in evaluations:
        if key not in WITH_DICE:
            raise UserError("-i", f"unknown network {key!r}.{suggestion(key, WITH_DICE)}", f"of {', '.join(WITH_DICE)}")
    loaded = {key: Evaluation.load(path) for key, path in evaluations.items()}
    return {key: found.mean_over_classes(found.headline_pairs)["Dice"].mean for key, found in loaded.items()}


def _bars(costs: Sequence[Cost]):
    panels = {
        "GFLOPs, all classes": [cost.flops / 1e9 for cost in costs],
        "GFLOPs per class": [cost.flops / 1e9 / cost.num_classes for cost in costs],
        "Parameters (M)": [cost.parameters / 1e6 for cost in costs],
        "Seconds, all classes": [cost.seconds for cost in costs],
        "Peak memory (MiB)": [cost.peak_bytes / 2**20 for cost in costs],
        "Seconds per class": [cost.seconds / cost.num_classes for cost in costs],
    }
    return bar_panels([cost.name for cost in costs], panels)
