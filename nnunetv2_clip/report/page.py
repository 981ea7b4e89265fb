"""The report page: everything in one HTML file that opens without a network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from statistics import mean, median
from types import MappingProxyType

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.imaging.pictures import WINDOWS_HU, color_of, hex_color, window_in_words
from nnunetv2_clip.pages import millilitres, render
from nnunetv2_clip.report.cases import CaseReport
from nnunetv2_clip.report.curves import TrainingReport
from nnunetv2_clip.report.viewer_volumes import FINEST_MM, ViewerCase

BOTH_EMPTY = "annotated, and empty in reference and prediction"
MAX_CHIPS = 8  # Dice figures beside a case's pictures; the table has them all


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


@dataclass(frozen=True)
class VolumeRow:
    """What was predicted of one class, over the cases that hold it.

    Attributes:
        num_at_border: cases in which it reaches the border of the image.
    """

    name: str
    num_cases: int
    median: Cell
    smallest: Cell
    largest: Cell
    mean_hu: Cell
    num_at_border: int


def render_page(
    title: str,
    cases: Sequence[CaseReport],
    taxonomy: Taxonomy,
    training: TrainingReport | None = None,
    max_pictures: int = 100,
    presence_known: bool = True,
    viewer: Sequence[ViewerCase] = (),
    failed: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """The HTML of the page.

    Args:
        cases: in any order; the page shows the worst first, cases without reference last.
        max_pictures: how many cases (the worst) are shown with pictures; the tables hold all.
        presence_known: False adds the note that every class counts as annotated.
        viewer: cases that can be scrolled through in the page; NiiVue is put into the page if there is any.
        failed: case -> why it is not on the page.
    """
    cases = worst_first(cases)
    cases = [case if place < max_pictures else replace(case, views=()) for place, case in enumerate(cases)]
    names = list(taxonomy.names)
    scored = [name for name in names if any(name in case.overlaps for case in cases)]
    predicted = [name for name in names if any(name in case.found for case in cases)]
    sought = {name for case in cases for name in case.sought}
    class_rows = [class_row(cases, name) for name in scored]
    means = [row.mean.value for row in class_rows if row.mean.value is not None]
    return render(
        "page.html.j2",
        title=title,
        cases=cases,
        training=training,
        scored=scored,
        predicted=predicted,
        not_found=[name for name in names if name in sought and name not in predicted],
        painted=[row.name for row in taxonomy if any(row.index in case.painted for case in cases)],
        class_rows=class_rows,
        overall=mean_cell(means),
        num_pairs=sum(len(case.overlaps) for case in cases),
        num_referenced=sum(bool(case.overlaps) for case in cases),
        num_drawn=sum(bool(case.views) for case in cases),
        datasets=sorted({case.dataset for case in cases if case.dataset}),
        colors={row.name: hex_color(row) for row in taxonomy},
        presence_known=presence_known,
        max_chips=MAX_CHIPS,
        windows=WINDOWS_HU,
        window_in_words=window_in_words,
        created=datetime.now().strftime("%d %B %Y, %H:%M"),
        dice_cell=dice_cell,
        has_nsd=any(case.nsd for case in cases),
        nsd_cell=nsd_cell,
        mean_cell=mean_cell,
        volume_cell=volume_cell,
        volume_rows=[volume_row(cases, name) for name in predicted],
        failed=dict(sorted(failed.items())),
        viewer=viewer,
        viewer_painted={index for case in viewer for index in case.painted},
        viewer_data=_viewer_data(viewer, taxonomy),
        finest_mm=FINEST_MM,
        classes=taxonomy.rows,
    )


def worst_first(cases: Sequence[CaseReport]) -> list[CaseReport]:
    """By mean Dice, cases without any last."""
    return sorted(cases, key=lambda case: (math.isnan(case.mean_dice), case.mean_dice, case.case_id))


def _viewer_data(viewer: Sequence[ViewerCase], taxonomy: Taxonomy) -> str:
    """JSON that is safe inside a script element."""
    content = {
        "windows": WINDOWS_HU,
        "classes": [{"index": row.index, "name": row.name, "color": color_of(row)} for row in taxonomy],
        "cases": [asdict(case) for case in viewer],
    }
    return json.dumps(content).replace("<", "\\u003c")


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
    found = case.found.get(name)
    return (
        _volume(found.volume_ml, found.at_border, f"mean {found.mean_hu:.0f} HU")
        if found
        else Cell(None, "", "not predicted")
    )


def volume_row(cases: Sequence[CaseReport], name: str) -> VolumeRow:
    found = [case.found[name] for case in cases if name in case.found]
    at_border = [one.at_border for one in found]
    volumes = [one.volume_ml for one in found]
    mean_hu = mean(one.mean_hu for one in found)
    return VolumeRow(
        name,
        len(found),
        _volume(median(volumes), any(at_border)),
        _volume(min(volumes), at_border[volumes.index(min(volumes))]),
        _volume(max(volumes), at_border[volumes.index(max(volumes))]),
        Cell(mean_hu, f"{mean_hu:.0f}".replace("-", "−")),
        sum(at_border),
    )


def _volume(ml: float, at_border: bool, hint: str = "") -> Cell:
    return Cell(ml, f"{'≥ ' if at_border else ''}{millilitres(ml)}", hint)
