"""What to predict: a scan that was found or an array, read with care."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import SUFFIXES, Geometry, Volume, nifti_header, require_finite
from nnunetv2_clip.imaging.scans import Case, find_scans, read_voxels

AIR_BELOW_HU, MIN_AIR_SHARE = -200, 1e-3
SPACING_RANGE_MM, LARGEST_EXTENT_MM = (0.01, 50.0), 3000.0  # micro-CT to scout; a tall patient and the table
SMALLEST_ANGLE_VOLUME = 0.3  # spanned by unit vectors along the axes; 0.87 for a gantry tilted by 30 degrees
CT_RANGE_HU = (-10_000, 40_000)  # beyond this no scanner's scale; metal and padding stay inside
Scan = str | Path | tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class InputImage:
    """A CT as it was given.

    Attributes:
        header: of the NIfTI file, whose geometry the outputs repeat; None for other files.
        warnings: what looks odd but can be predicted.
        notes: what was left out beside the CT.
    """

    volume: Volume
    header: nib.Nifti1Header | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_case(case: Case, check_size: Callable[[Path, tuple], None] = lambda where, shape: None) -> InputImage:
    """The voxels and header of a case.

    Args:
        check_size: called with the path and the shape before voxels are read; may raise.

    Raises:
        UserError: damaged, no CT volume (colours, several time points, a single slice), NaN, or too large.
    """

    def check(path: Path, grid: Geometry) -> None:
        _require_plausible(path, grid)
        check_size(path, grid.shape)
        if path.name.lower().endswith(SUFFIXES):
            _require_stored_spacing(path)

    scan = read_voxels(case, check)
    return InputImage(scan.volume, scan.header, tuple(oddities(scan.volume.data)), scan.notes)


def read_scan(scan: Scan, series: str = "") -> tuple[InputImage, object]:
    """One CT, and its name for messages.

    Raises:
        UserError: as `find_scans` and `read_case`; several cases; or an array or affine that cannot be those of a CT.
    """
    if isinstance(scan, str | Path):
        cases = find_scans(Path(scan), series).cases
        if len(cases) > 1:
            raise UserError(scan, f"holds {len(cases)} cases", "one scan", "call predict for one after the other")
        return read_case(cases[0]), cases[0].path
    if not isinstance(scan, tuple | list) or len(scan) != 2:
        raise UserError("scan", f"is {type(scan).__name__}", "a path, or a pair of array and affine")
    return InputImage(volume := _volume_of(*scan), None, tuple(oddities(volume.data))), "array"


def _volume_of(data: object, affine: object) -> Volume:
    """Raises UserError: no (X, Y, Z) numbers, or no affine."""
    try:
        data, affine = np.asanyarray(data), np.asarray(affine, float)
    except (TypeError, ValueError) as error:
        raise UserError("array", f"holds no numbers ({error})", "numpy arrays of voxels and affine") from None
    if data.dtype.kind not in "iuf" or data.ndim != 3 or 0 in data.shape:
        raise UserError("array", f"is {data.dtype} of shape {data.shape}", "(X, Y, Z) numbers in Hounsfield units")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError("affine", f"is {affine.tolist()}", "an invertible 4 x 4 matrix, voxel index to RAS+ mm")
    require_finite("array", data)
    _require_plausible("array", Geometry(data.shape, affine))
    return Volume(data, affine)


def _require_plausible(where: object, grid: Geometry) -> None:
    shape, spacing = grid.shape, grid.spacing_mm
    low, high = SPACING_RANGE_MM
    if min(spacing) < low or max(spacing) > high or max(np.multiply(shape, spacing)) > LARGEST_EXTENT_MM:
        found = f"has {shape} voxels of {', '.join(f'{edge:.4g}' for edge in spacing)} mm"
        expected = f"voxels of {low:g} to {high:g} mm and a body below {LARGEST_EXTENT_MM / 1000:g} m"
        raise UserError(where, found, expected, "mend the voxel size in the header")
    if abs(np.linalg.det(grid.affine[:3, :3])) < SMALLEST_ANGLE_VOLUME * np.prod(spacing):
        raise UserError(where, "has axes that lie almost in one plane", "a rotation", "mend the header")
    if min(shape) < 2:
        raise UserError(where, f"is a single slice ({shape})", "a CT volume", "give all slices of the scan")


def _require_stored_spacing(path: Path) -> None:
    """nibabel takes a voxel size of zero for 1 mm; that is wrong wherever it decides."""
    header = nifti_header(path)
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        stored = type(header)(file.read(header.sizeof_hdr), check=False)
    if stored["sform_code"] == 0 and (stored["pixdim"][1:4] == 0).any():
        found = f"has the voxel size {stored['pixdim'][1:4].tolist()} mm"
        raise UserError(path, found, "sizes above zero", "mend the voxel size in the header")


def oddities(data: np.ndarray) -> list[str]:
    """What makes a volume look unlike a CT in Hounsfield units, in words."""
    low, high = float(data.min()), float(data.max())
    if low == high:
        return [f"every voxel is {low:g}"]
    if low < CT_RANGE_HU[0] or high > CT_RANGE_HU[1]:
        return [f"values from {low:g} to {high:g} are no Hounsfield units"]
    air = np.count_nonzero(data[::2, ::2, ::2] < AIR_BELOW_HU) / data[::2, ::2, ::2].size
    if air < MIN_AIR_SHARE and low >= 0:
        return [f"values from {low:g} to {high:g} without any air: an MR, or a CT that lacks its rescale intercept?"]
    return []
