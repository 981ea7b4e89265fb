"""The report page: everything in one HTML file that opens without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.imaging.pictures import CT_WINDOW_HU, color_of, hex_color
from nnunetv2_clip.pages import render
from nnunetv2_clip.report import tables
from nnunetv2_clip.report.cases import CaseReport
from nnunetv2_clip.report.curves import TrainingReport
from nnunetv2_clip.report.viewer_volumes import FINEST_MM, ViewerCase

MAX_CHIPS = 8  # Dice figures beside a case's pictures; the table has them all


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
    scored = tables.scored_classes(cases, names)
    predicted = [name for name in names if any(case.volumes_ml.get(name) for case in cases)]
    class_rows = [tables.class_row(cases, name) for name in scored]
    means = [row.mean.value for row in class_rows if row.mean.value is not None]
    return render(
        "page.html.j2",
        title=title,
        cases=cases,
        training=training,
        scored=scored,
        predicted=predicted,
        shown=[name for name in names if name in {*scored, *predicted}],
        class_rows=class_rows,
        overall=tables.mean_cell(means),
        num_pairs=sum(len(case.overlaps) for case in cases),
        num_referenced=sum(bool(case.overlaps) for case in cases),
        num_drawn=sum(bool(case.views) for case in cases),
        datasets=sorted({case.dataset for case in cases if case.dataset}),
        colors={row.name: hex_color(row) for row in taxonomy},
        presence_known=presence_known,
        max_chips=MAX_CHIPS,
        window=CT_WINDOW_HU,
        created=datetime.now().strftime("%d %B %Y, %H:%M"),
        dice_cell=tables.dice_cell,
        has_nsd=any(case.nsd for case in cases),
        nsd_cell=tables.nsd_cell,
        mean_cell=tables.mean_cell,
        volume_cell=tables.volume_cell,
        failed=dict(sorted(failed.items())),
        viewer=viewer,
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
        "window": CT_WINDOW_HU,
        "classes": [{"index": row.index, "name": row.name, "color": color_of(row)} for row in taxonomy],
        "cases": [
            {
                "id": case.case_id,
                "focus": case.focus_mm,
                "ct": case.ct,
                "prediction": case.prediction,
                "reference": case.reference,
            }
            for case in viewer
        ],
    }
    return json.dumps(content).replace("<", "\\u003c")
