"""NRRD and MetaImage files, read by SimpleITK, and its images."""

# Shapes: X Y Z voxels in the file's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.series import LPS_TO_RAS
from nnunetv2_clip.imaging.findings import refuse_scan
from nnunetv2_clip.imaging.nifti import Geometry, Volume, require_finite

if TYPE_CHECKING:
    from SimpleITK import Image, ImageFileReader

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
        if path.suffix.lower() in (".nrrd", ".nhdr") and not reader.HasMetaDataKey("NRRD_space"):
            found = "does not say in its header where left, back and head are (no 'space')"
            raise UserError(path, found, "a volume with a position in the body", "export the CT as NIfTI")
        grid = _grid_of(path, reader, reader.GetNumberOfComponents())
        check_grid(path, grid)
        data = sitk.GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("ITK ERROR: ")[2].partition(" Reason: ")[0]  # of the errno
        raise UserError(path, f"cannot be read ({reason[:200]})", "a complete file", _REMEDY) from None
    require_finite(path, data)
    return Volume(data, grid.affine)


def volume_of_itk(where: object, image: Image) -> Volume:
    """An image in memory; its array of [z, y, x] turned to (X, Y, Z).

    Raises:
        UserError: not one three-dimensional volume of plain numbers, or without a usable position.
    """
    import SimpleITK as sitk

    grid = _grid_of(where, image, image.GetNumberOfComponentsPerPixel())
    kind = image.GetPixelIDTypeAsString()
    if kind.startswith(("complex", "label")):  # the array of a map of labels would end the process
        refuse_scan("number type", where, f"has voxels of type {kind}")
    data = sitk.GetArrayFromImage(image).T
    return Volume(data, grid.affine)


def has_default_grid(image: Image) -> bool:
    """Has nobody said where an image lies: as one that was made from an array."""
    return (
        image.GetOrigin() == (0.0, 0.0, 0.0)
        and image.GetSpacing() == (1.0, 1.0, 1.0)
        and image.GetDirection() == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )


def itk_like(data: np.ndarray, image: Image) -> Image:
    """(X, Y, Z) as an image with the geometry of another."""
    import SimpleITK as sitk

    found = sitk.GetImageFromArray(data.T)
    found.CopyInformation(image)
    return found


def _grid_of(path: object, reader: ImageFileReader | Image, components: int) -> Geometry:
    shape = tuple(reader.GetSize())
    if len(shape) != 3 or components != 1 or 0 in shape:
        found = f"has shape {shape} with {components} values in each voxel"
        raise UserError(path, found, "one three-dimensional volume of numbers", _REMEDY)
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(path, "has no usable voxel size or direction in its header", "an invertible affine", _REMEDY)
    return Geometry(shape, LPS_TO_RAS @ affine)
