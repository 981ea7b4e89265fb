"""Small volumes for the viewer inside the page: CT, prediction and reference of a case, as NIfTI in base64."""

# Shapes: X Y Z voxels, turned to RAS.

import base64
import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from nnunetv2_clip.labels import occurring_values
from nnunetv2_clip.report.cases import CaseFiles, read_case_arrays

FINEST_MM = 2.0  # finer volumes are thinned out: a page must stay small
CT_RANGE_HU, CT_STEP_HU = (-1024, 1500), 4  # coarser than the noise, and half the bytes


@dataclass(frozen=True)
class ViewerJob:
    """A case, and the voxel (x, y, z) through which the viewer shows it first, and in which window."""

    files: CaseFiles
    focus: tuple[int, int, int]
    window: str


@dataclass(frozen=True)
class ViewerCase:
    """The volumes of one case, base64 of .nii.gz (`reference` None where no truth is known).

    Attributes:
        focus: x, y, z in mm.
        painted: universal indices of the classes that prediction or reference show.
        window: in which the CT is shown first.
    """

    id: str
    focus: tuple[float, ...]
    painted: tuple[int, ...]
    window: str
    ct: str
    prediction: str
    reference: str | None


def viewer_case(job: ViewerJob) -> ViewerCase:
    """Read a case and thin it out to `FINEST_MM`; voxels keep their position and are not averaged.

    Raises:
        UserError: as `cases.describe_case`.
    """
    scan = read_case_arrays(job.files)
    steps = [max(1, round(FINEST_MM / spacing)) for spacing in scan.grid.spacing_mm]
    painted = {
        int(index) for labels in (scan.painted, scan.truth) if labels is not None for index in occurring_values(labels)
    }
    hu = np.clip(scan.hu, *CT_RANGE_HU) / CT_STEP_HU
    return ViewerCase(
        job.files.case_id,
        tuple(nib.affines.apply_affine(scan.grid.affine, job.focus).tolist()),
        tuple(sorted(painted - {0})),
        job.window,
        _packed(np.rint(hu).astype(np.int16) * np.int16(CT_STEP_HU), scan.grid.affine, steps),
        _packed(_small(scan.painted), scan.grid.affine, steps),
        None if scan.truth is None else _packed(_small(scan.truth), scan.grid.affine, steps),
    )


def thin_out(volume: np.ndarray, affine: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Every step-th voxel along each axis, beginning in the middle of the first step, and its affine."""
    first = [min((step - 1) // 2, size - 1) for step, size in zip(steps, volume.shape, strict=True)]
    thinned = volume[tuple(slice(start, None, step) for start, step in zip(first, steps, strict=True))]
    return thinned, affine @ nib.affines.from_matvec(np.diag(steps), first)


def _packed(volume: np.ndarray, affine: np.ndarray, steps: list[int]) -> str:
    image = nib.Nifti1Image(*thin_out(volume, affine, steps))
    image.header["cal_min"], image.header["cal_max"] = volume.min(initial=0), max(1, volume.max(initial=0))
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode("ascii")


def _small(indices: np.ndarray) -> np.ndarray:
    return indices.astype(np.uint8) if indices.max(initial=0) < 256 else indices.astype(np.int16)
