"""A CT as DICOM slices: put in order by position, checked for gaps and strangers, read as Hounsfield units."""

# Shapes: X Y Z = columns, rows, slices along their normal (for axial slices: left, back, head).
# Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import few, walk_once
from nnunetv2_clip.imaging.dicom.header import (
    DIRECTION_TOLERANCE,
    REMEDY,
    STACK_ATTRIBUTES,
    Slice,
    is_dicom,
    other_kind,
    read_headers,
)
from nnunetv2_clip.imaging.dicom.pixels import read_pixels
from nnunetv2_clip.imaging.nifti import Geometry, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
POSITION_TOLERANCE = 0.1  # of the distance between slices
MISSING = 1.5  # a gap of so many distances: a slice is missing
DRIFT_TOLERANCE = 0.5  # of a pixel, over the whole stack
SAME_PLACE_MM = 0.01
NO_SLICES = {"DICOMDIR", "LICENSE", "README", "VERSION", "Thumbs.db", "desktop.ini"}
NO_SLICE_SUFFIXES = {
    *(".txt", ".xml", ".json", ".csv", ".pdf", ".html", ".md", ".png", ".jpg"),
    *(".zip", ".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw"),
}


@dataclass(frozen=True, eq=False)
class Series:
    """A complete stack of slices; `files` are in the order of the grid's last axis.

    Attributes:
        notes: what else lay in the folder and was left out, in words.
    """

    slices: tuple[Slice, ...]
    geometry: Geometry
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(row.path for row in self.slices)


def slice_files(folder: Path) -> list[Path]:
    """The files directly in a folder that should be DICOM slices: all but notes, indices and macOS's leavings.

    Raises:
        UserError: one of them is a link to nothing.
    """
    files = [path for path in sorted(Path(folder).iterdir()) if not path.is_dir() and is_slice_name(path.name)]
    for path in files:
        if not path.exists():
            raise UserError(path, "is a link to a file that is not there", "all slices of the series", REMEDY)
    return files


def is_slice_name(name: str) -> bool:
    """Can a file of this name be a slice."""
    return (
        not name.startswith((".", "_")) and name not in NO_SLICES and Path(name).suffix.lower() not in NO_SLICE_SUFFIXES
    )


def holds_ct(files: Iterable[Path]) -> bool:
    """Is one of these files a slice of a CT, by its header."""
    return any(is_dicom(path) and not other_kind(path) for path in files)


def series_by_patient(root: Path, patient: str) -> dict[str, Path]:
    """Case -> the folder of its slices, which may lie any number of folders below that of the patient.

    Args:
        patient: regular expression of the patient folder's name; the group `case` is the case's number or name.

    Raises:
        UserError: a patient has no series or several, or is there twice.
    """
    found: dict[str, Path] = {}
    for parent, subfolders, _ in walk_once(root):
        for name in sorted(subfolders):
            match = re.fullmatch(patient, name)
            if not match:
                continue
            subfolders.remove(name)
            case, folder = match["case"], _series_folder(parent / name)
            if case in found and folder.resolve() != found[case].resolve():
                raise UserError(folder, f"{found[case]} is the same patient", "every patient once", "remove the copy")
            found.setdefault(case, folder)
    return dict(sorted(found.items()))


def _series_folder(patient: Path) -> Path:
    folders = [parent for parent, _, _ in walk_once(patient) if holds_ct(slice_files(parent))]
    if len(folders) != 1:
        found = f"holds {len(folders)} folders of DICOM slices" + "".join(f"; {path}" for path in sorted(folders))
        raise UserError(patient, found, "one CT series", "download the patient again, or keep the labelled series only")
    return folders[0]


def inspect_series(folder: Path, one_uid: bool = True, wanted: str = "") -> Series:
    """Order and grid of the series in a folder, from the headers alone.

    Scouts, dose reports, structures and the like are left out; so are series that are no volume, beside one that is.

    Args:
        folder: or the file of an enhanced CT.
        one_uid: all slices must name the same series. False for publishers that gave slices of one stack different
            identifiers; then the positions alone tell two series apart.
        wanted: number, beginning of the identifier, or part of the description of the series to take.

    Raises:
        UserError: naming the series, if several could be meant, or the file that is damaged, that does not fit the
            others, at the place of another slice, or next to a gap.
    """
    slices, notes = _read_folder(folder)
    if not one_uid:
        return _stack(folder, slices, notes)
    stacks = _stacks(slices)
    chosen = _choose(folder, stacks, wanted)
    others = [f"left out {stack.describe()}" for stack in stacks if stack is not chosen]
    if others:
        notes = [*notes, f"took {chosen.describe()}", *others]
    return _stack(folder, chosen.slices, notes)


def has_series(folder: Path, wanted: str) -> bool:
    """Does a folder hold a series of this number, identifier or description.

    Raises:
        UserError: a file is damaged.
    """
    return bool(_named(_stacks(_read_folder(folder)[0]), wanted))


def _read_folder(folder: Path) -> tuple[list[Slice], list[str]]:
    """All CT slices, and in words what else there is."""
    files = slice_files(folder) if folder.is_dir() else [folder]
    slices: list[Slice] = []
    others: dict[str, list[str]] = defaultdict(list)
    for path in files:
        found = read_headers(path)
        if isinstance(found, str):
            others[found].append(path.name)
        else:
            slices.extend(found)
    notes = [
        f"left out {len(names)} DICOM file{'s' * (len(names) > 1)} ({kind}): {few(names)}"
        for kind, names in others.items()
    ]
    if not slices:
        found = "; ".join(["holds no DICOM slices of a CT", *notes])
        raise UserError(folder, found, "one CT series", "check the path, or unpack the series there")
    return slices, notes


@dataclass(frozen=True, eq=False)
class _Stack:
    """Slices of one series, or of a part of one (`part`: "/1", "/2" ...; empty: all of it)."""

    slices: list[Slice]
    part: str = ""
    why: str = ""

    @property
    def depth_mm(self) -> float:
        heights = [row.height_mm for row in self.slices]
        return max(heights) - min(heights)

    @property
    def number(self) -> str:
        return self.slices[0].number + self.part

    @property
    def uid(self) -> str:
        return self.slices[0].uid + self.part

    @property
    def description(self) -> str:
        return f"{self.slices[0].description} {self.part}".strip()

    def describe(self) -> str:
        gaps = np.diff(np.sort([row.height_mm for row in self.slices]))
        distance = f", {np.median(gaps):.4g} mm apart" if gaps.size else ""
        name = f"series {self.number or 'without number'} {self.slices[0].description!r}{self.why}"
        return f"{name} of {len(self.slices)} slices{distance} ({self.uid})"


def _stacks(slices: Sequence[Slice]) -> list[_Stack]:
    """By SeriesInstanceUID, and each series by what splits it."""
    by_uid: dict[str, list[Slice]] = defaultdict(list)
    for row in slices:
        by_uid[row.uid].append(row)
    return [stack for rows in by_uid.values() for stack in _split(rows)]


def _split(rows: list[Slice]) -> list[_Stack]:
    """One series whose slices differ in grid, or in an attribute while they lie among each other, is several stacks.

    Passes of a table that follow each other stay one stack, and so do slices that are numbered one by one.
    """
    grids = _by_grid(rows)
    if len(grids) > 1 and min(map(len, grids)) > 1:  # a single file is named as the one that does not fit
        return [_Stack(group, f"/{k}", " (another grid)") for k, group in enumerate(grids, 1)]
    for number, name in enumerate(STACK_ATTRIBUTES):
        groups: dict[str, list[Slice]] = defaultdict(list)
        for row in rows:
            groups[row.stack[number]].append(row)
        if len(groups) > 1 and _lie_among_each_other(groups.values()):
            return [_Stack(group, f"/{k}", f" ({name} {value})") for k, (value, group) in enumerate(groups.items(), 1)]
    return [_Stack(rows)]


def _by_grid(rows: list[Slice]) -> list[list[Slice]]:
    groups: list[list[Slice]] = []
    for row in rows:
        group = next((group for group in groups if not _grid_differences(row, group[0])), None)
        if group is None:
            groups.append(group := [])
        group.append(row)
    return groups


def _grid_differences(row: Slice, first: Slice) -> list[str]:
    return [
        *([f"{row.shape} pixels instead of {first.shape}"] if row.shape != first.shape else []),
        *(["another pixel size"] if not np.allclose(row.spacing_mm, first.spacing_mm, rtol=1e-4) else []),
        *(["another direction"] if not np.allclose(row.axes, first.axes, atol=DIRECTION_TOLERANCE) else []),
    ]


def _lie_among_each_other(groups: Iterable[list[Slice]]) -> bool:
    heights = ([row.height_mm for row in group] for group in groups)
    ranges = sorted((min(one), max(one)) for one in heights)
    return any(low <= high + SAME_PLACE_MM for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))


def _choose(folder: Path, stacks: list[_Stack], wanted: str) -> _Stack:
    volumes = [stack for stack in stacks if stack.depth_mm > SAME_PLACE_MM]
    fitting = _named(stacks, wanted) if wanted else volumes or stacks
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(stack.describe() for stack in fitting or stacks)
    found = f"has no series {wanted!r}" if not fitting else f"holds {len(fitting)} series of CT"
    remedy = "name one with --series (number, beginning of the identifier or part of the description), "
    remedy += "or move the others to folders of their own"
    raise UserError(folder, f"{found}: {listed}", "one CT series", remedy)


def _named(stacks: list[_Stack], wanted: str) -> list[_Stack]:
    """By number, else by identifier, else by description."""
    return (
        [stack for stack in stacks if wanted in (stack.number, stack.slices[0].number)]
        or [stack for stack in stacks if stack.uid.startswith(wanted)]
        or [stack for stack in stacks if wanted.lower() in stack.description.lower()]
    )


def read_series(series: Series) -> Volume:
    """The volume in Hounsfield units: int16 where they are whole numbers, else float32.

    Raises:
        UserError: naming the file whose pixels cannot be read or are no Hounsfield units.
    """
    data = None
    for k, row in enumerate(series.slices):
        pixels = _rescaled(row, read_pixels(row))
        if data is None:
            data = np.empty(series.geometry.shape, pixels.dtype)
        elif pixels.dtype.kind == "f" and data.dtype.kind != "f":
            data = data.astype(np.float32)
        data[:, :, k] = pixels
    return Volume(data, series.geometry.affine)


def read_mask_series(folder: Path, image: Series) -> np.ndarray:
    """(X, Y, Z) bool: where a series of stored values is not 0, on the grid of the image that it was drawn on.

    Raises:
        UserError: another grid, or more than one value beside 0.
    """
    series = inspect_series(folder, one_uid=False)
    difference = series.geometry.difference(image.geometry)
    if difference:
        raise UserError(
            folder,
            f"does not lie on the grid of its image {image.files[0].parent}: {difference}",
            "one mask slice for each slice of the image, at its place",
            REMEDY,
        )
    mask = np.zeros(series.geometry.shape, dtype=bool)
    values: set[int] = set()
    for k, row in enumerate(series.slices):
        pixels = read_pixels(row)
        values.update(np.unique(pixels).tolist())
        if len(values - {0}) > 1:
            raise UserError(row.path, f"holds the values {sorted(values)}", "a mask of 0 and one other value", REMEDY)
        mask[:, :, k] = pixels != 0
    return mask


def _require_one_grid(folder: Path, slices: Sequence[Slice]) -> None:
    first = slices[0]
    for row in slices[1:]:
        found = _grid_differences(row, first)
        if found:
            raise UserError(
                row.path,
                f"does not belong to the series of {first.path.name}: {', '.join(found)}",
                f"one series in {folder}",
                "move the other series to a folder of its own",
            )


def _stack(folder: Path, slices: Sequence[Slice], notes: Sequence[str]) -> Series:
    """Sort along the normal, and make sure that the slices are evenly spaced."""
    _require_one_grid(folder, slices)
    if len(slices) < 2:
        raise UserError(slices[0].path, f"is the only slice in {folder}", "at least two slices", REMEDY)
    normal = slices[0].normal
    slices = sorted(slices, key=lambda row: float(row.position @ normal))
    positions = np.array([row.position for row in slices])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    for k in np.flatnonzero(gaps <= POSITION_TOLERANCE * max(usual, 0)):
        raise UserError(
            slices[k + 1].path,
            f"lies at the same place as {slices[k].path.name} ({heights[k]:.6g} mm along the normal)",
            "one slice at each position",
            "remove the copy, or move the other series to a folder of its own",
        )
    step = (heights[-1] - heights[0]) / (len(slices) - 1)
    if np.abs(heights - heights[0] - step * np.arange(len(slices))).max() > POSITION_TOLERANCE * step:
        k = int(np.abs(gaps - usual).argmax())
        missing = "a slice is missing" if gaps[k] >= MISSING * usual else "the slices are unevenly spaced"
        raise UserError(
            slices[k + 1].path,
            f"{missing}: it lies {gaps[k]:.4g} mm from {slices[k].path.name}, the others {usual:.4g} mm",
            "evenly spaced slices",
            REMEDY,
        )
    drift = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(drift).max() > DRIFT_TOLERANCE * min(slices[0].spacing_mm):
        raise UserError(
            slices[int(np.abs(drift).max(axis=1).argmax())].path,
            f"is shifted sideways by {np.abs(drift).max():.3g} mm against the first slice (tilted gantry)",
            "slices at right angles to their stack",
            "resample the series, or leave it out",
        )
    return Series(tuple(slices), Geometry((*slices[0].shape, len(slices)), _affine(slices[0], step)), tuple(notes))


def _affine(first: Slice, step: float) -> np.ndarray:
    """DICOM standard, part 3, section C.7.6.2.1.1 (equation C.7.6.2.1-1), with the step between slices added."""
    affine = np.eye(4)
    affine[:3, 0] = first.axes[0] * first.spacing_mm[0]
    affine[:3, 1] = first.axes[1] * first.spacing_mm[1]
    affine[:3, 2] = first.normal * step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _rescaled(row: Slice, pixels: np.ndarray) -> np.ndarray:
    if row.scale is None and not row.is_signed:
        raise UserError(
            row.path,
            "has no RescaleSlope and RescaleIntercept, and its values have no sign",
            "Hounsfield units",
            "export the series as CT",
        )
    slope, intercept = row.scale or (1.0, 0.0)
    if not (slope.is_integer() and intercept.is_integer()):
        return (pixels * slope + intercept).astype(np.float32)
    values = pixels.astype(np.int32) * int(slope) + int(intercept)
    fits = np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max
    return values.astype(np.int16 if fits else np.float32)
