"""A CT as DICOM slices: put in order by position, checked for gaps and strangers, read as Hounsfield units."""

# Shapes: X Y Z = columns, rows, slices along their normal (for axial slices: left, back, head).
# Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

import os
import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Geometry, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTION_TOLERANCE = 1e-3  # of the direction cosines, which are stored as decimal text
POSITION_TOLERANCE = 0.1  # of the distance between slices
MISSING = 1.5  # a gap of so many distances: a slice is missing
DRIFT_TOLERANCE = 0.5  # of a pixel, over the whole stack
REQUIRED = ("Rows", "Columns", "BitsAllocated", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
OPTIONAL = (
    *("Modality", "SeriesInstanceUID", "SamplesPerPixel", "NumberOfFrames", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept"),
)
NO_CT = {"MR", "PT", "NM", "US", "RTSTRUCT", "RTDOSE", "SR", "PR"}
NO_SLICES = {"DICOMDIR", "LICENSE", "VERSION", "Thumbs.db", "desktop.ini"}
NO_SLICE_SUFFIXES = {".txt", ".xml", ".json", ".csv", ".pdf", ".html", ".md", ".png", ".jpg", ".zip", ".nii", ".gz"}
_DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
_UNREADABLE = (*_DAMAGED, struct.error, InvalidDicomError)
_REMEDY = "download or unpack the series again"


@dataclass(frozen=True, eq=False)
class Slice:
    """One file's header.

    Attributes:
        position: (3,) centre of the first pixel, LPS mm.
        axes: (2, 3) unit vectors along which the column and the row index grow, LPS.
        spacing_mm: distance of the columns, of the rows.
        scale: slope and intercept of the rescaling to Hounsfield units; None where the file names none.
    """

    path: Path
    uid: str
    shape: tuple[int, int]
    position: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]
    scale: tuple[float, float] | None
    is_signed: bool

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.axes)


@dataclass(frozen=True, eq=False)
class Series:
    """A complete stack of slices; `files` are in the order of the grid's last axis."""

    slices: tuple[Slice, ...]
    geometry: Geometry

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(row.path for row in self.slices)


def slice_files(folder: Path) -> list[Path]:
    """The files directly in a folder that should be DICOM slices: all but notes, indices and macOS's leavings."""
    return [
        path
        for path in sorted(Path(folder).iterdir())
        if path.is_file()
        and not path.name.startswith((".", "_"))
        and path.name not in NO_SLICES
        and path.suffix.lower() not in NO_SLICE_SUFFIXES
    ]


def series_by_patient(root: Path, patient: str) -> dict[str, Path]:
    """Case -> the folder of its slices, which may lie any number of folders below that of the patient.

    Args:
        patient: regular expression of the patient folder's name; the group `case` is the case's number or name.

    Raises:
        UserError: a patient has no series or several, or is there twice.
    """
    found: dict[str, Path] = {}
    for parent, subfolders, _ in os.walk(root, followlinks=True):
        for name in sorted(subfolders):
            match = re.fullmatch(patient, name)
            if not match:
                continue
            subfolders.remove(name)
            case, folder = match["case"], _series_folder(Path(parent, name))
            if case in found:
                raise UserError(folder, f"{found[case]} is the same patient", "every patient once", "remove the copy")
            found[case] = folder
    return dict(sorted(found.items()))


def _series_folder(patient: Path) -> Path:
    folders = [Path(parent) for parent, _, _ in os.walk(patient, followlinks=True) if slice_files(Path(parent))]
    if len(folders) != 1:
        found = f"holds {len(folders)} folders of DICOM slices" + "".join(f"; {path}" for path in sorted(folders))
        raise UserError(patient, found, "one CT series", "download the patient again, or keep the labelled series only")
    return folders[0]


def inspect_series(folder: Path, one_uid: bool = True) -> Series:
    """Order and grid of the series in a folder, from the headers alone.

    Args:
        one_uid: all slices must name the same series. False for publishers that gave slices of one stack different
            identifiers; then the positions alone tell two series apart.

    Raises:
        UserError: naming the file that is damaged, of another series, at the place of another slice, or next to a gap.
    """
    files = slice_files(folder)
    if not files:
        raise UserError(folder, "holds no DICOM slices", "one CT series", "check the path, or unpack the series there")
    slices = [read_header(path) for path in files]
    _require_one_series(folder, slices, one_uid)
    return _stack(folder, slices)


def read_series(series: Series) -> Volume:
    """The volume in Hounsfield units: int16 where they are whole numbers, else float32.

    Raises:
        UserError: naming the file whose pixels cannot be read or are no Hounsfield units.
    """
    data = None
    for k, row in enumerate(series.slices):
        pixels = _rescaled(row, read_pixels(row.path))
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
            _REMEDY,
        )
    mask = np.zeros(series.geometry.shape, dtype=bool)
    values: set[int] = set()
    for k, path in enumerate(series.files):
        pixels = read_pixels(path)
        values.update(np.unique(pixels).tolist())
        if len(values - {0}) > 1:
            raise UserError(path, f"holds the values {sorted(values)}", "a mask of 0 and one other value", _REMEDY)
        mask[:, :, k] = pixels != 0
    return mask


def read_header(path: Path) -> Slice:
    """What a slice says about itself.

    Raises:
        UserError: no DICOM file, no CT, several frames or colours, or no position.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*REQUIRED, *OPTIONAL])
        missing = [name for name in REQUIRED if not dataset.get(name)]
        if missing:
            raise UserError(path, f"has no {', '.join(missing)}", "a CT slice", "remove the file from the series")
        header = _parse(path, dataset)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(path, f"is no readable DICOM file ({error})", "a complete slice", _REMEDY) from None
    _require_complete(path, dataset)
    return header


def read_pixels(path: Path) -> np.ndarray:
    """(X, Y) stored values of a slice.

    Raises:
        UserError: truncated, or compressed in a way for which a package is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd identifiers and padding; too few bytes are an error
            return pydicom.dcmread(path).pixel_array.T
    except _UNREADABLE as error:
        raise UserError(
            path,
            f"has pixels that cannot be read ({error})",
            "a complete slice",
            f"{_REMEDY}; compressed slices need 'pip install pylibjpeg[all]'",
        ) from None


def _parse(path: Path, dataset: pydicom.Dataset) -> Slice:
    colours, frames = (int(dataset.get(name) or 1) for name in ("SamplesPerPixel", "NumberOfFrames"))
    if dataset.get("Modality") in NO_CT or colours > 1 or frames > 1:
        found = f"is a file of modality {dataset.get('Modality')} with {frames} frames of {colours} colours"
        raise UserError(path, found, "a CT slice", "remove the file from the series")
    numbers = [float(value) for value in (*dataset.ImagePositionPatient, *dataset.ImageOrientationPatient)]
    spacing = [float(value) for value in dataset.PixelSpacing]
    if len(numbers) != 9 or len(spacing) != 2 or not np.isfinite(numbers + spacing).all() or min(spacing) <= 0:
        raise UserError(path, "has no usable position, direction or pixel size", "a CT slice", _REMEDY)
    axes = np.array(numbers[3:]).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=10 * DIRECTION_TOLERANCE):
        raise UserError(path, f"has direction cosines {numbers[3:]}", "two unit vectors at a right angle", _REMEDY)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return Slice(
        path=path,
        uid=str(dataset.get("SeriesInstanceUID") or ""),
        shape=(int(dataset.Columns), int(dataset.Rows)),
        position=np.array(numbers[:3]),
        axes=axes / np.linalg.norm(axes, axis=1, keepdims=True),
        spacing_mm=(spacing[1], spacing[0]),
        scale=None if slope is None or intercept is None else (float(slope), float(intercept)),
        is_signed=bool(dataset.get("PixelRepresentation")),
    )


def _require_complete(path: Path, dataset: pydicom.Dataset) -> None:
    """A cheap test for truncated files, where pixels are stored as they are."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None or UID(syntax).is_compressed:
        return
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if path.stat().st_size < expected:
        raise UserError(path, f"is truncated: {path.stat().st_size} of {expected} bytes", "a complete slice", _REMEDY)


def _require_one_series(folder: Path, slices: list[Slice], one_uid: bool) -> None:
    first = slices[0]
    for row in slices[1:]:
        found = [
            *(["another series (SeriesInstanceUID)"] if one_uid and row.uid != first.uid else []),
            *([f"{row.shape} pixels instead of {first.shape}"] if row.shape != first.shape else []),
            *(["another pixel size"] if not np.allclose(row.spacing_mm, first.spacing_mm, rtol=1e-4) else []),
            *(["another direction"] if not np.allclose(row.axes, first.axes, atol=DIRECTION_TOLERANCE) else []),
        ]
        if found:
            raise UserError(
                row.path,
                f"does not belong to the series of {first.path.name}: {', '.join(found)}",
                f"one series in {folder}",
                "move the other series to a folder of its own",
            )


def _stack(folder: Path, slices: list[Slice]) -> Series:
    """Sort along the normal, and make sure that the slices are evenly spaced."""
    if len(slices) < 2:
        raise UserError(slices[0].path, f"is the only slice in {folder}", "at least two slices", _REMEDY)
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
            _REMEDY,
        )
    drift = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(drift).max() > DRIFT_TOLERANCE * min(slices[0].spacing_mm):
        raise UserError(
            slices[int(np.abs(drift).max(axis=1).argmax())].path,
            f"is shifted sideways by {np.abs(drift).max():.3g} mm against the first slice (tilted gantry)",
            "slices at right angles to their stack",
            "resample the series, or leave it out",
        )
    return Series(tuple(slices), Geometry((*slices[0].shape, len(slices)), _affine(slices[0], step)))


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
