"""One case of the report: its scores, volumes and pictures."""

# Shapes: X Y Z voxels, turned to RAS.

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.cases import Coding
from nnunetv2_clip.evaluation.overlap import Overlap, overlaps
from nnunetv2_clip.evaluation.surface import surface_metrics
from nnunetv2_clip.evaluation.volumes import LabelVolume
from nnunetv2_clip.imaging.boxes import Box, at_border
from nnunetv2_clip.imaging.intake import CT, scan_warnings
from nnunetv2_clip.imaging.nifti import Geometry
from nnunetv2_clip.imaging.pictures import color_of, common_window, ct_picture, overlay_picture, window_of
from nnunetv2_clip.imaging.scans import Case, read_voxels
from nnunetv2_clip.imaging.slices import (
    PICTURE_PX,
    PLANES,
    Plane,
    cut,
    detail_box,
    informative_slice,
    is_flat,
    picture_size,
)
from nnunetv2_clip.labels import occurring_values
from nnunetv2_clip.painting import paint_labels

DETAIL_MM = 120.0


@dataclass(frozen=True)
class CaseFiles:
    """What a worker needs to describe one case.

    Attributes:
        names: the classes that the prediction knows.
        coding: of the prediction.
        reference: label file; None when no truth is known.
        supervised: the classes that the reference annotates or knows to be absent.
        tolerances_mm: class -> tolerance of the NSD; None: no NSD is computed.
        modality: nnU-Net's name of the image channel.
        sought: classes that the model was asked for and has learnt; empty: its tables do not lie beside the prediction.
    """

    case_id: str
    image: Case
    prediction: Path
    taxonomy: Taxonomy
    names: tuple[str, ...]
    coding: Coding
    reference: Path | None = None
    reference_coding: Coding | None = None
    supervised: tuple[str, ...] = ()
    dataset: str = ""
    tolerances_mm: Mapping[str, float] | None = None
    modality: str = CT
    sought: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        return self.prediction


@dataclass(frozen=True)
class Panel:
    """One plane of a case: the CT with the prediction and, where known, the reference.

    Attributes:
        painted: universal indices of the classes that prediction or reference show here.
    """

    plane: str
    left: str
    top: str
    position: int
    num_slices: int
    size: tuple[int, int]
    ct: str
    prediction: str
    reference: str | None
    painted: frozenset[int]


@dataclass(frozen=True)
class View:
    """Three planes through what the title says, in one window (a name of `WINDOWS_HU`)."""

    title: str
    window: str
    panels: tuple[Panel, ...]

    @property
    def is_flat(self) -> bool:
        return is_flat(self.panels[1].size)


@dataclass(frozen=True)
class Found:
    """What was predicted of a class: `at_border` if it reaches the image's border, so that it may go on outside."""

    volume_ml: float
    mean_hu: float
    at_border: bool


@dataclass(frozen=True)
class CaseReport:
    """Everything that the page shows of a case.

    Attributes:
        overlaps: class -> overlap, for the classes that the reference knows.
        found: of every class that is predicted.
        sought: classes that were looked for, as far as it is known.
        nsd: class -> normalised surface Dice where it is defined; empty when it was not asked for.
        warnings: what looks wrong in the CT, and what was left out beside it, in words.
    """

    case_id: str
    dataset: str
    overlaps: dict[str, Overlap]
    found: dict[str, Found]
    voxel_ml: float
    views: tuple[View, ...]
    nsd: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sought: tuple[str, ...] = ()

    @property
    def dice(self) -> dict[str, float]:
        """Class -> Dice where it is defined (not both masks empty)."""
        return {name: found.dice for name, found in self.overlaps.items() if not math.isnan(found.dice)}

    @property
    def painted(self) -> frozenset[int]:
        """Universal indices of the classes in its pictures."""
        return frozenset().union(*(panel.painted for view in self.views for panel in view.panels))

    @property
    def focus(self) -> tuple[int, int, int]:
        """The voxel (x, y, z) where the planes of the last view meet."""
        axial, coronal, sagittal = self.views[-1].panels
        return sagittal.position - 1, coronal.position - 1, axial.position - 1

    @property
    def window(self) -> str:
        """Of the last view."""
        return self.views[-1].window

    @property
    def mean_dice(self) -> float:
        values = self.dice.values()
        return sum(values) / len(values) if values else float("nan")


@dataclass(frozen=True)
class CaseArrays:
    """The arrays of one case, all (X, Y, Z); `painted` and `truth` hold universal indices."""

    hu: np.ndarray
    grid: Geometry
    prediction: LabelVolume
    reference: LabelVolume | None
    painted: np.ndarray
    truth: np.ndarray | None
    warnings: tuple[str, ...] = ()


def describe_case(files: CaseFiles) -> CaseReport:
    """Read the files of a case, score it and draw it.

    Raises:
        UserError: a file cannot be read, or image, prediction and reference lie on different grids.
    """
    scan = read_case_arrays(files)
    scored = overlaps(scan.reference, scan.prediction, files.supervised) if scan.reference else {}
    found = _found(scan, files.names)
    views = [_overview(files, scan)]
    name = _class_to_look_at(files, found, scored)
    if name is not None:
        views.append(_detail(files, scan, name, scored))
    nsd = _nsd(files, scan)
    voxel_ml, drawn = scan.grid.voxel_ml, tuple(views)
    return CaseReport(files.case_id, files.dataset, scored, found, voxel_ml, drawn, nsd, scan.warnings, files.sought)


def _found(scan: CaseArrays, names: tuple[str, ...]) -> dict[str, Found]:
    prediction = scan.prediction
    num_values = int(prediction.values.max(initial=0)) + 1
    voxels, sums = np.zeros((2, num_values))  # by label value
    for labels, hu in zip(prediction.values, scan.hu, strict=True):
        voxels += np.bincount(labels.ravel(), minlength=num_values)
        sums += np.bincount(labels.ravel(), hu.ravel(), num_values)
    found = {}
    for name in names:
        values = [value for value in prediction.values_of(name) if value < num_values]
        number, box = voxels[values].sum(), prediction.box(name)
        if box is not None:
            cut = at_border(box, scan.hu.shape)
            found[name] = Found(number * scan.grid.voxel_ml, sums[values].sum() / number, cut)
    return found


def _nsd(files: CaseFiles, scan: CaseArrays) -> dict[str, float]:
    if scan.reference is None or files.tolerances_mm is None:
        return {}
    found = {
        name: surface_metrics(scan.reference, scan.prediction, name, files.tolerances_mm[name])[0]
        for name in files.supervised
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def read_case_arrays(files: CaseFiles) -> CaseArrays:
    """The arrays of a case. Raises UserError: as `describe_case`."""
    voxels = read_voxels(files.image)
    where, modality = files.image.path, files.modality
    warnings = (*voxels.notes, *scan_warnings(where, voxels.volume, "read", voxels.findings, modality))
    image = voxels.volume.turned_to_ras()
    hu, grid = image.data, image.geometry
    prediction = files.coding.read(files.prediction)
    _same_grid(files, grid, prediction.grid, files.prediction)
    reference = None
    if files.reference is not None:
        reference = files.reference_coding.read(files.reference)
        _same_grid(files, grid, reference.grid, files.reference)
    truth = None if reference is None else paint_labels(reference, files.taxonomy)
    return CaseArrays(hu, grid, prediction, reference, paint_labels(prediction, files.taxonomy), truth, warnings)


def _same_grid(files: CaseFiles, image: Geometry, other: Geometry, path: Path) -> None:
    difference = other.difference(image)
    if difference:
        found = f"{path} does not lie on the grid of {files.image.path}: {difference}"
        expected = "files of the same scan in its own geometry"
        raise UserError(f"case {files.case_id!r}", found, expected, "check that -i, -pred and -ref belong together")


def _class_to_look_at(files: CaseFiles, found: dict[str, Found], scored: dict[str, Overlap]) -> str | None:
    """The class with the lowest Dice; without truth the largest predicted sub-structure (a tumour, a vessel)."""
    if scored:
        dice = {name: overlap.dice for name, overlap in scored.items() if not math.isnan(overlap.dice)}
        return min(dice, key=dice.get, default=None)
    inner = {row.name: found[row.name].volume_ml for row in files.taxonomy.subset(found) if row.parents}
    return max(inner, key=inner.get, default=None)


def _overview(files: CaseFiles, scan: CaseArrays) -> View:
    shown = scan.painted
    if not shown.any() and scan.truth is not None:
        shown = scan.truth
    whole = tuple(slice(0, size) for size in scan.hu.shape)
    there = occurring_values(shown)
    window = common_window(row.name for row in files.taxonomy if row.index in there)
    return _view("Overview", window, files, scan, shown, whole)


def _detail(files: CaseFiles, scan: CaseArrays, name: str, scored: dict[str, Overlap]) -> View:
    mask = scan.prediction.mask(name)
    title = f"Detail: {name.replace('_', ' ')}"
    if scored:
        mask = mask | scan.reference.mask(name)
        title += f", the lowest Dice of this case ({scored[name].dice:.3f})"
    box = detail_box(mask, scan.grid.spacing_mm, DETAIL_MM)
    return _view(title, window_of(name), files, scan, mask, box)


def _view(title: str, window: str, files: CaseFiles, scan: CaseArrays, shown: np.ndarray, box: Box) -> View:
    """Three planes through what is to be shown, as far as the box reaches."""
    positions = (informative_slice(shown, plane) for plane in PLANES)
    panels = (_panel(*there, window, files, scan, box) for there in zip(PLANES, positions, strict=True))
    return View(title, window, tuple(panels))


def _panel(plane: Plane, position: int, window: str, files: CaseFiles, scan: CaseArrays, box: Box) -> Panel:
    colors = {row.index: color_of(row) for row in files.taxonomy}
    here = tuple(slice(position, position + 1) if axis == plane.axis else part for axis, part in enumerate(box))
    size = picture_size(scan.hu[box].shape, scan.grid.spacing_mm, plane, *PICTURE_PX)
    painted = [indices[here] for indices in (scan.painted, scan.truth) if indices is not None]

    def overlay(indices: np.ndarray) -> str:
        return overlay_picture(cut(indices[here], plane, 0), size, colors)

    return Panel(
        plane=plane.name,
        left=plane.left,
        top=plane.top,
        position=position + 1,
        num_slices=scan.hu.shape[plane.axis],
        size=size,
        ct=ct_picture(cut(scan.hu[here], plane, 0), size, window),
        prediction=overlay(scan.painted),
        reference=None if scan.truth is None else overlay(scan.truth),
        painted=frozenset(int(index) for indices in painted for index in np.unique(indices) if index),
    )
