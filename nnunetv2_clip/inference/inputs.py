"""What to predict: NIfTI files, folders of them, DICOM series; found by name and read with care."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import SUFFIXES, Geometry, Volume, inspect, read_image, require_finite, stem

CHANNEL = "_0000"
AIR_BELOW_HU, MIN_AIR_SHARE = -200, 1e-3
SPACING_RANGE_MM, LARGEST_EXTENT_MM = (0.01, 50.0), 3000.0  # micro-CT to scout; a tall patient and the table
SMALLEST_ANGLE_VOLUME = 0.3  # spanned by unit vectors along the axes; 0.87 for a gantry tilted by 30 degrees
CT_RANGE_HU = (-10_000, 40_000)  # beyond this no scanner's scale; metal and padding stay inside
Scan = str | Path | tuple[np.ndarray, np.ndarray]
_EXPECTED = "a NIfTI file, a folder of them (with or without _0000), a DICOM series, or a folder of series"


@dataclass(frozen=True)
class Case:
    """One CT to predict: a NIfTI file or the folder of a DICOM series."""

    name: str
    path: Path

    @property
    def is_dicom(self) -> bool:
        return self.path.is_dir()


@dataclass(frozen=True, eq=False)
class InputImage:
    """A CT as it was given.

    Attributes:
        header: of the NIfTI file, whose geometry the outputs repeat; None for DICOM.
        warnings: what looks odd but can be predicted.
    """

    volume: Volume
    header: nib.Nifti1Header | None
    warnings: tuple[str, ...] = ()


def find_cases(path: Path) -> list[Case]:
    """The cases of a file or folder, in alphabetical order.

    Raises:
        UserError: nothing there, a second channel, or two files for one case.
    """
    if not path.exists():
        raise UserError(f"-i {path}", "does not exist", _EXPECTED, "check the path")
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"-i {path}", "is no NIfTI file by its name", _EXPECTED, "name the folder of a series")
        return [Case(_case_name(path), path)]
    files = [file for file in sorted(path.iterdir()) if file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
    if files:
        return _nifti_cases(path, files)
    series = _series_folders(path)
    if not series:
        raise UserError(f"-i {path}", "holds neither NIfTI files nor DICOM slices", _EXPECTED, "check the path")
    return series


def _nifti_cases(folder: Path, files: list[Path]) -> list[Case]:
    cases: dict[str, Case] = {}
    for file in files:
        name = _case_name(file)
        if name in cases:
            first = cases[name].path.name
            raise UserError(folder, f"{first} and {file.name} are the same case", "one file per case", "remove one")
        cases[name] = Case(name, file)
    for name in cases:
        if name.endswith("_0001") and name[: -len(CHANNEL)] in cases:
            raise UserError(folder, f"{name} is a second channel", "CTs of one channel", "remove it")
    return list(cases.values())


def _case_name(file: Path) -> str:
    return stem(file).removesuffix(CHANNEL) or stem(file)


def _series_folders(root: Path) -> list[Case]:
    """Every folder at or below `root` that directly holds DICOM slices, named by its path below `root`."""
    from nnunetv2_clip.imaging.dicom import slice_files

    cases: dict[str, Case] = {}
    for parent, folders, _ in os.walk(root, followlinks=True):
        folders.sort()
        folder = Path(parent)
        if slice_files(folder):
            parts = folder.relative_to(root).parts or (folder.resolve().name,)
            name = "_".join("_".join(part.split()) for part in parts)
            if name in cases:
                raise UserError(root, f"{cases[name].path} and {folder} get the same name {name!r}", "different names")
            cases[name] = Case(name, folder)
    return list(cases.values())


def read_case(case: Case, check_size: Callable[[Path, tuple], None] = lambda where, shape: None) -> InputImage:
    """The voxels and header of a case.

    Args:
        check_size: called with the path and the shape before voxels are read; may raise.

    Raises:
        UserError: damaged, no CT volume (colours, several time points, a single slice), NaN, or too large.
    """
    if case.is_dicom:
        from nnunetv2_clip.imaging.dicom import inspect_series, read_series

        series = inspect_series(case.path)
        _require_plausible(case.path, series.geometry)
        check_size(case.path, series.geometry.shape)
        volume, header = read_series(series), None
    else:
        grid = inspect(case.path)
        _require_plausible(case.path, grid)
        check_size(case.path, grid.shape)
        volume = read_image(case.path)
        _require_stored_spacing(case.path)
        header = nib.load(case.path).header.copy()
        header.set_data_shape(volume.data.shape)
    return InputImage(volume, header, tuple(oddities(volume.data)))


def read_scan(scan: Scan) -> tuple[InputImage, object]:
    """One CT, and its name for messages.

    Raises:
        UserError: as `find_cases` and `read_case`; several cases; or an array or affine that cannot be those of a CT.
    """
    if isinstance(scan, str | Path):
        cases = find_cases(Path(scan))
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
    header = nib.load(path).header
    with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
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
