"""What to predict: a scan that was found, an image in memory or an array, read with care."""

# Shapes: X Y Z voxels in the image's own axis order.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Union

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.sources import SourceSlices
from nnunetv2_clip.imaging.findings import ScanFinding
from nnunetv2_clip.imaging.intake import CT, of_header, scan_warnings
from nnunetv2_clip.imaging.itk import has_default_grid, volume_of_itk
from nnunetv2_clip.imaging.nifti import Volume, of_nibabel
from nnunetv2_clip.imaging.scans import Case, case_name, find_scans, read_source, read_voxels

if TYPE_CHECKING:
    import SimpleITK as sitk
    from numpy.typing import ArrayLike

# What `LoadedModel.predict` takes; arrays of numpy or torch.
Scan = Union[str, Path, SpatialImage, "sitk.Image", tuple["ArrayLike", "ArrayLike"]]
EXPECTED = "a path, an image of nibabel or SimpleITK, or a pair of array and affine"


@dataclass(frozen=True, eq=False)
class InputImage:
    """A CT as it was given.

    Attributes:
        header: of the NIfTI file, whose geometry the outputs repeat; None for other files.
        warnings: what looks odd but can be predicted.
        notes: what was left out beside the CT.
        where: its file or folder, else what it is, for messages.
        name: of the case, which begins the names of its outputs.
        itk: the image that was given, if it is one of SimpleITK.
        case: what was read, if it was found as a case.
    """

    volume: Volume
    header: nib.Nifti1Header | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    where: object = "image"
    name: str = "image"
    itk: sitk.Image | None = None
    case: Case | None = None

    @cached_property
    def source(self) -> SourceSlices:
        """The slices of a DICOM series, to which masks refer. Raises UserError: as `read_source`."""
        return read_source(self.case or Case(self.name, Path(str(self.where))))

    @property
    def path(self) -> Path | None:
        """Its file or folder, if it has one."""
        return self.where if isinstance(self.where, Path) else None


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
    warnings = scan_warnings(case.path, scan.volume, "predict", scan.findings, modality)
    return InputImage(scan.volume, scan.header, warnings, scan.notes, case.path, case.name, case=case)


def read_scan(scan: Scan, series: str = "", modality: str = CT) -> InputImage:
    """One CT, from wherever it is.

    Raises:
        UserError: as `find_scans` and `read_case`; several cases; or an image, array or affine that cannot be that of a
            CT.
    """
    if isinstance(scan, str | Path):
        return _read_path(Path(scan), series, modality)
    if isinstance(scan, SpatialImage):
        return _read_nibabel(scan, modality)
    if type(scan).__module__.startswith("SimpleITK"):
        return _read_itk(scan, modality)
    if isinstance(scan, tuple | list) and len(scan) == 2:
        volume = _volume_of(*scan)
        return InputImage(volume, None, scan_warnings("array", volume, "predict", modality=modality), where="array")
    if hasattr(scan, "__array__"):
        remedy = "give predict((array, affine)), with the matrix from voxel index to RAS+ mm"
        raise UserError("array", "has no affine, which says how the body lies in it", EXPECTED, remedy)
    raise UserError("image", f"is {type(scan).__name__}", EXPECTED)


def _read_path(path: Path, series: str, modality: str) -> InputImage:
    cases = find_scans(path, series).cases
    if len(cases) > 1:
        raise UserError(path, f"holds {len(cases)} cases", "one scan", "call predict for one after the other")
    return read_case(cases[0], modality=modality)


def _read_nibabel(image: SpatialImage, modality: str) -> InputImage:
    file = image.get_filename()
    where, name = (Path(file), case_name(Path(file))) if file else ("nibabel image", "image")
    volume, header = of_nibabel(where, image)
    warnings = scan_warnings(where, volume, "predict", of_header(header), modality)
    return InputImage(volume, header, warnings, where=where, name=name)


def _read_itk(image: sitk.Image, modality: str) -> InputImage:
    where = "SimpleITK image"
    volume, found = volume_of_itk(where, image), ()
    if has_default_grid(image):
        text = "origin 0, spacing 1 and no direction, as in an image made from an array without CopyInformation"
        found = (ScanFinding("no position", text),)
    return InputImage(volume, None, scan_warnings(where, volume, "predict", found, modality), where=where, itk=image)


def _volume_of(data: object, affine: object) -> Volume:
    """Raises UserError: no (X, Y, Z) numbers, or no affine."""
    try:
        data, affine = _as_numpy(data), np.asarray(_as_numpy(affine), float)
    except (TypeError, ValueError) as error:
        raise UserError("array", f"holds no numbers ({error})", "arrays of voxels and affine") from None
    if data.ndim != 3:
        remedy = f"give one volume: array{AXES_TO_DROP[data.ndim]}" if data.ndim in AXES_TO_DROP else ""
        raise UserError("array", f"has {data.ndim} axes, shape {data.shape}", "three axes, (X, Y, Z)", remedy)
    if data.dtype.kind not in "iuf" or 0 in data.shape:
        raise UserError("array", f"is {data.dtype} of shape {data.shape}", "(X, Y, Z) numbers in Hounsfield units")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError("affine", f"is {affine.tolist()}", "an invertible 4 x 4 matrix, voxel index to RAS+ mm")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise UserError("affine", f"has the last row {affine[3].tolist()}", "0, 0, 0, 1", "is it transposed?")
    return Volume(data, affine)


AXES_TO_DROP = {
    4: "[0] of (channel, X, Y, Z), [..., 0] of (X, Y, Z, time)",
    5: "[0, 0] of (batch, channel, X, Y, Z)",
}


def _as_numpy(data: object) -> np.ndarray:
    """Arrays of numpy, tensors of torch on any device."""
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        data = data.float() if data.dtype.itemsize == 2 and data.is_floating_point() else data  # numpy has no bfloat16
    return np.asarray(data)  # of masked arrays what is below the mask
