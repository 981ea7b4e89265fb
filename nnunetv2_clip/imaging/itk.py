"""NRRD and MetaImage files, read by SimpleITK."""

# Shapes: X Y Z voxels in the file's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.series import LPS_TO_RAS
from nnunetv2_clip.imaging.nifti import Geometry, Volume, require_finite

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_REMEDY = "export the CT as NIfTI, or download the file again"


def read_itk(path: Path, check_grid: Callable[[Path, Geometry], None]) -> Volume:
    """The voxels of a file as they are stored.

    Args:
        check_grid: called before the voxels are read; may raise.

    Raises:
        UserError: damaged, not one three-dimensional volume of plain numbers, without a usable position, NaN.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        grid = _grid_of(path, reader)
        check_grid(path, grid)
        data = sitk.GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("ITK ERROR: ")[2].partition(" Reason: ")[0]  # of the errno
        raise UserError(path, f"cannot be read ({reason[:200]})", "a complete file", _REMEDY) from None
    require_finite(path, data)
    return Volume(data, grid.affine)


def _grid_of(path: Path, reader: ImageFileReader) -> Geometry:
    shape, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    if len(shape) != 3 or components != 1 or 0 in shape:
        found = f"has shape {shape} with {components} values in each voxel"
        raise UserError(path, found, "one three-dimensional volume of numbers", _REMEDY)
    if path.suffix.lower() in (".nrrd", ".nhdr") and not reader.HasMetaDataKey("NRRD_space"):
        found = "does not say in its header where left, back and head are (no 'space')"
        raise UserError(path, found, "a volume with a position in the body", "export the CT as NIfTI")
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(path, "has no usable voxel size or direction in its header", "an invertible affine", _REMEDY)
    return Geometry(shape, LPS_TO_RAS @ affine)
