"""Repairs of image headers that are known to be wrong; each says in words what it did, or nothing if all was well."""

# Affines: 4 x 4, voxel index -> RAS+ mm. Voxels are never touched.

from __future__ import annotations

from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Volume

ORTHONORMAL_TOLERANCE = 1e-4  # of a cosine; header rounding stays far below
UNIT_TOLERANCE = 1e-4  # mm


@dataclass(frozen=True)
class OverwrittenSpacing:
    """A patient of 3D-IRCADb-01 whose voxel size was overwritten with 1 x 1 x 1 mm in LiTS and its copies.

    Attributes:
        patient: number in 3D-IRCADb-01; number in LiTS, MSD Liver and CT-ORG minus 27.
        abdomenct_1k: case number there.
        slices: number of axial slices, which tells the patient.
        in_plane_mm, slice_mm: the true voxel size.
    """

    patient: int
    abdomenct_1k: int
    slices: int
    in_plane_mm: float
    slice_mm: float


# Slice counts agree in LiTS, MSD Liver and CT-ORG; sizes are those of 3D-IRCADb-01's DICOM files, mostly to two digits.
OVERWRITTEN_SPACINGS = tuple(
    OverwrittenSpacing(*row)
    for row in (
        (1, 273, 129, 0.57, 1.6),
        (2, 462, 172, 0.78, 1.6),
        (3, 574, 200, 0.62, 1.25),
        (4, 575, 91, 0.74, 2.0),
        (5, 576, 139, 0.78, 1.6),
        (6, 577, 135, 0.78, 1.6),
        (7, 274, 151, 0.78, 1.6),
        (8, 78, 124, 0.56, 1.6),
        (9, 275, 111, 0.87, 2.0),
        (10, 276, 122, 0.74, 1.6),
        (11, 277, 132, 0.72, 1.6),
        (12, 278, 260, 0.68, 1.0),
        (13, 280, 122, 0.67, 1.6),
        (14, 281, 113, 0.72, 1.6),
        (15, 282, 125, 0.78, 1.6),
        (16, 283, 155, 0.70, 1.6),
        (17, 284, 119, 0.743, 1.6),
        (18, 285, 74, 0.74, 2.5),
        (19, 286, 124, 0.70, 4.0),
        (20, 578, 225, 0.81, 2.0),
    )
)
FIRST_LITS_NUMBER = 28
LITS_NUMBERING = ("lits", "msd_liver", "ct_org")


def ircadb_patient(dataset: str, number: int) -> OverwrittenSpacing | None:
    """The 3D-IRCADb-01 patient behind a case of LiTS, MSD Liver, CT-ORG or AbdomenCT-1K."""
    if dataset in LITS_NUMBERING:
        dataset, number = "ircadb", number - FIRST_LITS_NUMBER + 1
    column = {"ircadb": "patient", "abdomenct_1k": "abdomenct_1k"}.get(dataset)
    return next((row for row in OVERWRITTEN_SPACINGS if column and getattr(row, column) == number), None)


def restore_spacing(volume: Volume, dataset: str, number: int, where: object) -> tuple[Volume, str]:
    """The volume with its true voxel size, where that was overwritten with 1 x 1 x 1 mm.

    Args:
        dataset: source name; `number`: of the case there.
        where: file, for the error message.

    Raises:
        UserError: the header says 1 x 1 x 1 mm and the number of slices is not that of the patient.
    """
    patient = ircadb_patient(dataset, number)
    if patient is None or not np.allclose(volume.geometry.spacing_mm, 1, atol=UNIT_TOLERANCE):
        return volume, ""
    axis = int(np.argmax(nib.io_orientation(volume.affine)[:, 0] == 2))
    if volume.data.shape[axis] != patient.slices:
        raise UserError(
            where,
            f"has the voxel size 1 x 1 x 1 mm and {volume.data.shape[axis]} slices",
            f"{patient.slices} slices, as case {number} of {dataset} has, whose true voxel size is known",
            "take the original file, or convert without the repair (--no-repair unit_spacing)",
        )
    size = np.full(3, patient.in_plane_mm)
    size[axis] = patient.slice_mm
    affine = volume.affine @ np.diag([*size, 1])
    words = f"voxel size 1 x 1 x 1 mm replaced by {' x '.join(f'{edge:g}' for edge in size)} mm"
    return replace(volume, affine=affine, path=None), f"{words}, that of patient {patient.patient} of 3D-IRCADb-01"


def orthonormalise(volume: Volume) -> tuple[Volume, str]:
    """The volume with orthonormal directions, the nearest to those in its header; spacing and centre stay."""
    matrix = volume.affine[:3, :3]
    spacing = volume.geometry.spacing_mm
    cosines = matrix / spacing
    deviation = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if deviation <= ORTHONORMAL_TOLERANCE:
        return volume, ""
    left, _, right = np.linalg.svd(cosines)
    affine = about_centre(volume, left @ right * spacing)
    words = f"directions made orthonormal (cosines deviated by up to {deviation:.2g})"
    return replace(volume, affine=affine, path=None), words


def half_turn(volume: Volume) -> Volume:
    """The volume rotated by 180 degrees about the body's long axis: right and left, front and back change places."""
    rotated = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3, :3]
    return replace(volume, affine=about_centre(volume, rotated), path=None)


def about_centre(volume: Volume, matrix: np.ndarray) -> np.ndarray:
    """The affine with another 3 x 3 part that leaves the centre of the volume where it was."""
    centre = (np.array(volume.data.shape) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = volume.affine[:3, 3] + (volume.affine[:3, :3] - matrix) @ centre
    return affine
