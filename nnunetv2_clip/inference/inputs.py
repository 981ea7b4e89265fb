"""What to predict: NIfTI files, folders of them, DICOM series; found by name and read with care."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.findings import ScanFinding, settle
from nnunetv2_clip.imaging.intake import CT, header_findings, voxel_findings
from nnunetv2_clip.imaging.nifti import (
    SUFFIXES,
    Geometry,
    Volume,
    inspect,
    read_image,
    require_plausible,
    stem,
    stored_header,
)

CHANNEL = "_0000"
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
    header = None
    if case.is_dicom:
        from nnunetv2_clip.imaging.dicom import inspect_series, read_series

        series = inspect_series(case.path)
        require_plausible(case.path, series.geometry)
        check_size(case.path, series.geometry.shape)
        volume = read_series(series)
    else:
        check_size(case.path, inspect(case.path).shape)
        volume = read_image(case.path)
        header = stored_header(case.path)
        header.set_data_shape(volume.data.shape)
    return InputImage(volume, header, _warnings(case.path, volume, modality, header_findings(case.path)))


def _warnings(where: object, volume: Volume, modality: str, headers: tuple[ScanFinding, ...] = ()) -> tuple[str, ...]:
    findings = (*headers, *voxel_findings(where, volume, modality))
    return tuple(map(str, settle(findings, where, "predict")))


def read_scan(scan: Scan, modality: str = CT) -> tuple[InputImage, object]:
    """One CT, and its name for messages.

    Raises:
        UserError: as `find_cases` and `read_case`; several cases; or an array or affine that cannot be those of a CT.
    """
    if isinstance(scan, str | Path):
        cases = find_cases(Path(scan))
        if len(cases) > 1:
            raise UserError(scan, f"holds {len(cases)} cases", "one scan", "call predict for one after the other")
        return read_case(cases[0], modality=modality), cases[0].path
    if not isinstance(scan, tuple | list) or len(scan) != 2:
        raise UserError("scan", f"is {type(scan).__name__}", "a path, or a pair of array and affine")
    volume = _volume_of(*scan)
    return InputImage(volume, None, _warnings("array", volume, modality)), "array"


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
    require_plausible("array", Geometry(data.shape, affine))
    return Volume(data, affine)
