"""The figures of the page: Dice per case and class, means per class, predicted volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_clip.report.cases import CaseReport

BOTH_EMPTY = "annotated, and empty in reference and prediction"


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        value: None where there is none; such cells stay last when sorting.
        text: what stands in the cell: a figure, empty (not annotated) or a dash (both masks empty).
        hint: what the mouse pointer tells.
    """

    value: float | None
    text: str
    hint: str = ""

    @property
    def level(self) -> int | None:
        """0..10, for the shade of the cell."""
        return None if self.value is None else int(round(10 * min(max(self.value, 0), 1)))


@dataclass(frozen=True)
class ClassRowOfTable:
    """Dice of one class over the cases that annotate it."""

    name: str
    mean: Cell
    lowest: Cell
    highest: Cell
    num_cases: int
    num_both_empty: int
    mean_nsd: Cell


def scored_classes(cases: Sequence[CaseReport], names: Sequence[str]) -> list[str]:
    """The classes that at least one reference annotates, in the given order."""
    return [name for name in names if any(name in case.overlaps for case in cases)]


def dice_cell(case: CaseReport, name: str) -> Cell:
    """The Dice of a case; empty when the reference does not know the class."""
    overlap = case.overlaps.get(name)
    if overlap is None:
        return Cell(None, "", "not annotated in this case")
    reference, predicted = (count * case.voxel_ml for count in (overlap.num_reference, overlap.num_predicted))
    if math.isnan(overlap.dice):
        return Cell(None, "–", BOTH_EMPTY)
    hint = f"reference {reference:.1f} ml, prediction {predicted:.1f} ml"
    return Cell(overlap.dice, f"{overlap.dice:.3f}", hint)


def mean_cell(values: Sequence[float]) -> Cell:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Cell(None, "", "no case to average")
    mean = sum(known) / len(known)
    return Cell(mean, f"{mean:.3f}")


def class_row(cases: Sequence[CaseReport], name: str) -> ClassRowOfTable:
    annotated = [case.overlaps[name] for case in cases if name in case.overlaps]
    dice = [overlap.dice for overlap in annotated if not math.isnan(overlap.dice)]
    return ClassRowOfTable(
        name,
        mean_cell(dice),
        mean_cell([min(dice)] if dice else []),
        mean_cell([max(dice)] if dice else []),
        len(dice),
        len(annotated) - len(dice),
        mean_cell([case.nsd[name] for case in cases if name in case.nsd]),
    )


def nsd_cell(case: CaseReport, name: str) -> Cell:
    """The NSD of a case, as `dice_cell`."""
    if name in case.nsd:
        return Cell(case.nsd[name], f"{case.nsd[name]:.3f}")
    return dice_cell(case, name) if name not in case.overlaps else Cell(None, "–", BOTH_EMPTY)


def volume_cell(case: CaseReport, name: str) -> Cell:
    volume = case.volumes_ml.get(name, 0.0)
    return Cell(volume, f"{volume:.1f}") if volume else Cell(None, "", "not predicted")
