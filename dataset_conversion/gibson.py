"""Gibson's multi-organ labels for BTCV and Pancreas-CT: 14 or 8 classes per case, complete inside a box only."""

# Shapes: X Y Z voxels in the image's own axis order. Box: (start, stop) counted to the left, to the back, to the head.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.conversion.label_flip import lay_on_image, require_same_shape
from nnunetv2_clip.conversion.source import LoadedCase, PairedSource, SourceCase, is_junk, named_in, read_rows
from nnunetv2_clip.dataset_conversion.btcv import LABELS as BTCV_LABELS
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import inspect, read_label_map
from nnunetv2_clip.labels import ClassMap, value_counts

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

LABELS = (*BTCV_LABELS, "duodenum")
FOURTEEN = {value: (name,) for value, name in enumerate(LABELS, start=1)}
EIGHT = {value: FOURTEEN[value] for value in (1, 3, 4, 5, 6, 7, 11, 14)}
LAST_OF_FOURTEEN = 40  # BTCV's challenge training; its test cases from 61 on have 8 classes
SOFT_ORGANS = (1, 6, 11)  # spleen, liver, pancreas: their Hounsfield units tell how the label lies
BOXED_ORGANS, MIN_INSIDE = (1, 2, 3, 6), 0.95  # the boxes were drawn around liver, spleen and kidneys
BOX_FILE, TCIA = "cropping.csv", "tcia"
AXIS_WORDS = ({"left", "right", "x"}, {"ant", "post", "y"}, {"inf", "sup", "z"})
UNPACK_LABELS = "label_{}_multiorgan and cropping.csv of the Zenodo record"
REPAIRS = {
    "label_flip": "labels that lie upside down or front to back on their images are flipped",
    "crop_box": "voxels outside the box of cropping.csv are unknown, not background",
}


@dataclass(frozen=True)
class Gibson(PairedSource):
    """Images of another dataset; the file of crop boxes lies anywhere below the root."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        cases = super().find_cases(root)
        found = sorted(path for path in root.rglob(BOX_FILE) if not is_junk(path))
        if len(found) != 1:
            raise UserError(root, f"holds {len(found)} files {BOX_FILE}", self.unpack, "put it beside the labels")
        return [replace(case, labels={**case.labels, "boxes": found[0]}) for case in cases]

    def check_case(self, case: SourceCase) -> None:
        label = case.labels["label"]
        require_same_shape(self.image_grid(case).shape, inspect(label).shape, label)
        self.box_of(case)

    def box_of(self, case: SourceCase) -> Box:
        """The crop box of a case.

        Raises:
            UserError: the file has no row for it.
        """
        path, boxes = case.labels["boxes"], read_boxes(case.labels["boxes"], is_tcia=bool(self.patient))
        if case.number not in boxes:
            found = f"has no row for label {case.number:04d}"
            raise UserError(path, found, "one row per label file", "download it again")
        return boxes[case.number]

    def load_case(self, case: SourceCase) -> LoadedCase:
        """One case: what lies outside its box is unknown, and what is not in its table of classes is not annotated."""
        where, fixes = case.labels["label"], ()
        image, label, box = self.read_image(case), read_label_map(where), self.box_of(case)
        label_map, table = label.data, self.table_of(case)
        allowed = set(table) | {0}
        foreign = sorted(set(value_counts(label_map)) - allowed)
        if foreign:
            expected = f"values out of {sorted(allowed)}"
            raise UserError(where, f"holds the values {foreign}", expected, "download it again")
        if self.patient or label.geometry.difference(image.geometry):  # DICOM: the labels' headers are not used
            label_map, flips = lay_on_image(image, label_map, SOFT_ORGANS, where, self.repairs_with("label_flip"))
            fixes = ("position of the label from its image", *flips)
        labels = ClassMap(label_map, table)
        if self.repairs_with("crop_box") and not self.as_paper:
            outside, words = outside_box(label_map, image.affine, box, where)
            labels, fixes = labels.with_unknown(outside), fixes + words
        return LoadedCase(image, labels, named_in(table), self.known_absent, fixes)

    def table_of(self, case: SourceCase) -> Mapping[int, tuple[str, ...]]:
        """The label values of a case."""
        return EIGHT if self.patient or case.number > LAST_OF_FOURTEEN else FOURTEEN


@dataclass(frozen=True)
class GibsonPancreasCt(Gibson):
    """Images from Pancreas-CT: DICOM."""

    def find_files(self, root: Path) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images, labels = super().find_files(root)
        return {case: image for case, image in images.items() if case in labels or not labels}, labels  # 37 have none


def outside_box(
    label_map: np.ndarray, affine: np.ndarray, box: Box, where: object
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(X, Y, Z) bool: outside the box; and how the box was read, in words.

    The names of the columns say that the box counts from the front and from the feet, as two published readers of the
    file do. Where that leaves labelled voxels outside that the other direction holds, the other one is taken.

    Args:
        label_map: on the grid of its image.
        affine: of the image.

    Raises:
        UserError: the box does not hold the organs around which it was drawn.
    """
    labelled, words, inside = label_map != 0, [], [slice(None)] * 3
    for anatomical, (start, stop) in enumerate(box):
        axis, size, is_reversed = _array_axis(affine, anatomical, label_map.shape)
        counts = np.count_nonzero(labelled, axis=tuple(other for other in range(3) if other != axis))
        as_named = slice(min(start, size), min(stop, size))
        from_other_end = slice(max(size - stop, 0), max(size - start, 0))
        if is_reversed:
            as_named, from_other_end = from_other_end, as_named
        inside[axis] = as_named
        if counts[from_other_end].sum() > counts[as_named].sum():
            inside[axis] = from_other_end
            words.append(f"crop box counted from the other end along {'xyz'[anatomical]}, as the labels tell")
    organs = np.isin(label_map, BOXED_ORGANS)
    share = organs[tuple(inside)].sum() / max(int(organs.sum()), 1)
    if share < MIN_INSIDE:
        raise UserError(
            where,
            f"{1 - share:.0%} of liver, spleen and kidneys lie outside the box {box} of {BOX_FILE}",
            "a box around these organs",
            f"download label and {BOX_FILE} again",
        )
    outside = np.ones(label_map.shape, dtype=bool)
    outside[tuple(inside)] = False
    return outside, tuple(words)


def _array_axis(affine: np.ndarray, anatomical: int, shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """(array axis, its length, does its index run against left, back and head) of the anatomical axis x, y or z."""
    orientation = nib.io_orientation(affine)
    axis = int(np.flatnonzero(orientation[:, 0] == anatomical)[0])
    towards_left_back_head = orientation[axis, 1] * (-1, -1, 1)[anatomical] > 0
    return axis, shape[axis], not towards_left_back_head


def read_boxes(path: Path, is_tcia: bool) -> dict[int, Box]:
    """Number of the label -> its box, for the rows of Pancreas-CT (TCIA) or for the others (BTCV).

    Columns are told by their names: `original_id`, and two for each axis (extent_left and extent_right, extent_ant
    and extent_post, extent_inf and extent_sup). Which of the two is the start, their values tell.

    Raises:
        UserError: other columns, or a row that is no box.
    """
    rows = read_rows(path, "the table of crop boxes")
    names = list(rows[0]) if rows else []
    axes = [[name for name in names if words & set(re.split(r"[^a-z]+", str(name).lower()))] for words in AXIS_WORDS]
    if "original_id" not in names or [len(columns) for columns in axes] != [2, 2, 2]:
        raise UserError(path, f"has the columns {names}", "original_id and two columns for each axis")
    boxes: dict[int, Box] = {}
    for row in rows:
        if (TCIA in (str(cell).strip().lower() for cell in row.values())) != is_tcia:
            continue
        try:
            bounds = [sorted(int(row[column]) for column in columns) for columns in axes]
            number = int(row["original_id"])
        except (TypeError, ValueError):
            raise UserError(path, f"the row {list(row.values())} is no box", "whole numbers") from None
        if any(start < 0 or start == stop for start, stop in bounds) or number in boxes:
            raise UserError(path, f"the row {list(row.values())} is no box, or there twice", "start before stop, once")
        boxes[number] = tuple(map(tuple, bounds))
    return boxes


_ZENODO = {"licence": "CC BY 4.0 (to be checked on the Zenodo record)", "url": "https://zenodo.org/records/1169361"}
_AS_PAPER = "voxels outside the crop box count as background"

SOURCES = (
    Gibson(
        name="gibson_btcv",
        title="Gibson's multi-organ labels for BTCV",
        unpack=f"a folder that holds BTCV's RawData (Training and Testing), {UNPACK_LABELS.format('btcv')}",
        num_cases=47,
        label_table=FOURTEEN,
        annotated=LABELS,
        repairs=REPAIRS,
        as_in_paper=_AS_PAPER,
        image=r"(.*/)?img(?P<case>\d{4})",
        label=r"(.*/)?label_btcv_multiorgan/label(?P<case>\d{4})",
        unlabelled=frozenset({"0071", "0072", "0073"}),
        **_ZENODO,
    ),
    GibsonPancreasCt(
        name="gibson_pancreas_ct",
        title="Gibson's multi-organ labels for Pancreas-CT",
        unpack=f"a folder that holds the DICOM folders PANCREAS_0002 ..., {UNPACK_LABELS.format('tcia')}",
        num_cases=42,
        label_table=EIGHT,
        annotated=named_in(EIGHT),
        absent=("pancreas_tumor",),
        repairs={
            **REPAIRS,
            "known_absent": "pancreas_tumor is recorded as known to be absent: the pancreases are healthy",
        },
        left_out={"0025": "its scan was withdrawn by the publisher of Pancreas-CT"},
        as_in_paper=_AS_PAPER,
        patient=r"PANCREAS_(?P<case>\d{4})",
        label=r"(.*/)?label_tcia_multiorgan/label(?P<case>\d{4})",
        **_ZENODO,
    ),
)
