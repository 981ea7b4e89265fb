"""What to predict: a scan that was found or an array, read with care."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.intake import CT, scan_warnings
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.imaging.scans import Case, find_scans, read_voxels

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


def read_case(
    case: Case, check_size: Callable[[Path, tuple], None] = lambda where, shape: None, modality: str = CT
) -> InputImage:
    """The voxels and header of a case.

    Args:
        check_size: called with the path and the shape before voxels are read; may raise.
        modality: nnU-Net's name of the image channel.

    Raises:
        UserError: damaged, no CT volume (colours, several time points, a single slice), NaN, or too large.
    """
    scan = read_voxels(case, lambda path, grid: check_size(path, grid.shape))
    return InputImage(
        scan.volume, scan.header, scan_warnings(case.path, scan.volume, "predict", scan.findings, modality), scan.notes
    )


def read_scan(scan: Scan, series: str = "", modality: str = CT) -> tuple[InputImage, object]:
    """One CT, and its name for messages.

    Raises:
        UserError: as `find_scans` and `read_case`; several cases; or an array or affine that cannot be those of a CT.
    """
    if isinstance(scan, str | Path):
        cases = find_scans(Path(scan), series).cases
        if len(cases) > 1:
            raise UserError(scan, f"holds {len(cases)} cases", "one scan", "call predict for one after the other")
        return read_case(cases[0], modality=modality), cases[0].path
    if not isinstance(scan, tuple | list) or len(scan) != 2:
        raise UserError("scan", f"is {type(scan).__name__}", "a path, or a pair of array and affine")
    volume = _volume_of(*scan)
    return InputImage(volume, None, scan_warnings("array", volume, "predict", modality=modality)), "array"


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
    return Volume(data, affine)
