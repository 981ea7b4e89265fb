"""The gate: what is looked at in every scan that comes in, whichever command reads it.

`imaging.findings` says what each command does about a finding. Headers that nothing can be done with are refused where
they are read (`imaging.nifti`, `imaging.dicom`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.anatomy import check_anatomy
from nnunetv2_clip.imaging.body import Body, find_body
from nnunetv2_clip.imaging.findings import ScanFinding, Stage, refuse_scan, settle
from nnunetv2_clip.imaging.hounsfield import clipped, not_hounsfield
from nnunetv2_clip.imaging.nifti import (
    UNREADABLE,
    Geometry,
    Volume,
    is_nifti,
    nifti_header,
    require_finite,
    require_plausible,
)
from nnunetv2_clip.labels import ClassMap

CT = "CT"  # nnU-Net's channel name; only such images are normalised by Hounsfield units
MIN_BODY_MM = 60.0  # a newborn's trunk is wider
SPACING_TOLERANCE, ROUNDING = 1e-2, 1e-3  # of a voxel edge: what contradicts, and what only was rounded


def header_findings(path: Path) -> tuple[ScanFinding, ...]:
    """What looks wrong in the header of a file that can be read; nothing for files other than NIfTI."""
    return of_header(nifti_header(path)) if is_nifti(path) else ()


def of_header(header: nib.Nifti1Header) -> tuple[ScanFinding, ...]:
    """The same of the header of an image in memory."""
    shape, affine = header.get_data_shape()[:3], header.get_best_affine()
    found = [*_spacing_findings(header, Geometry(shape, affine)), *_position_findings(header, shape)]
    if is_wide(header.get_data_dtype()):
        found.append(ScanFinding("wide integers", f"voxels are stored as {header.get_data_dtype()}"))
    return tuple(found)


def _spacing_findings(header, grid: Geometry) -> list[ScanFinding]:
    """nnU-Net takes pixdim for the voxel size; everything else goes by the affine."""
    stored = np.abs(header["pixdim"][1:4].astype(float))
    deviation = np.abs(stored / grid.spacing_mm - 1).max()
    if deviation <= ROUNDING:
        return []
    unset = set(stored.tolist()) <= {0.0, 1.0} or deviation <= SPACING_TOLERANCE
    sizes = (", ".join(f"{edge:.4g}" for edge in edges) for edges in (grid.spacing_mm, stored))
    found = "the header has two voxel sizes: ({}) mm by its sform, ({}) mm by pixdim".format(*sizes)
    return [ScanFinding("unset voxel size" if unset else "two voxel sizes", found)]


def _position_findings(header, shape: tuple[int, ...]) -> list[ScanFinding]:
    header = header.copy()  # as readers take it: a factor that is not 1 or -1 is 1, sizes have no sign
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        sform, qform = (form(coded=True)[0] for form in (header.get_sform, header.get_qform))
    except UNREADABLE as error:  # the sform is used, the qform is damaged
        return [ScanFinding("two positions", f"the header's qform cannot be read ({error})")]
    if sform is None and qform is None:
        return [ScanFinding("no position", "the header says not how the patient lies (sform and qform codes 0)")]
    if sform is None or qform is None or not np.isfinite(qform).all():  # then pixdim is not either
        return []
    difference = Geometry(shape, qform).difference(Geometry(shape, sform))
    return [ScanFinding("two positions", f"qform and sform contradict each other: {difference}")] if difference else []


def scan_warnings(
    where: object, image: Volume, stage: Stage, headers: tuple[ScanFinding, ...] = (), modality: str = CT
) -> tuple[str, ...]:
    """What a stage warns of, in words. Raises UserError: what it refuses."""
    return tuple(map(str, settle((*headers, *voxel_findings(where, image, modality)), where, stage)))


def warn_of_headers(paths: Iterable[Path]) -> None:
    """Say on stderr what looks wrong in the headers of label files, or of the masks in folders."""
    for path in chain.from_iterable(sorted(path.iterdir()) if path.is_dir() else [path] for path in paths):
        with suppress(UserError):  # what cannot be read is named by whoever reads it
            for finding in settle(header_findings(path), path, "read"):
                print(f"Warning: {path}: {finding}", file=sys.stderr)


def voxel_findings(
    where: object, image: Volume, modality: str = CT, labels: ClassMap | None = None
) -> tuple[ScanFinding, ...]:
    """What looks wrong in the voxels of an image.

    Args:
        modality: the tests for Hounsfield units and anatomy know CTs only.
        labels: on the image's grid; they speak where they are there.

    Raises:
        UserError: no grid of a body, a single slice, NaN or infinite, integers beyond 32 bits.
    """
    data = image.data
    require_plausible(where, image.geometry)
    if min(data.shape) < 2:
        refuse_scan("slices", where, f"is a single slice ({' x '.join(map(str, data.shape))} voxels)")
    require_finite(where, data)
    low, high = data.min(), data.max()
    if low == high:
        return (ScanFinding("constant", f"all voxels have the same value ({low:g})"),)
    if is_wide(data.dtype) and not np.can_cast(np.result_type(*map(np.min_scalar_type, (low, high))), np.int32):
        refuse_scan("number range", where, f"values from {low} to {high}")
    if modality.upper() != CT:
        return ()
    text, problem = not_hounsfield(image), check_anatomy(image, labels).problem
    found = (ScanFinding("Hounsfield units", text),) if text else _value_findings(image)
    return (*found, ScanFinding("orientation", f"looks {problem}")) if problem else found


def _value_findings(image: Volume) -> tuple[ScanFinding, ...]:
    """Of an image in Hounsfield units."""
    text = clipped(image)
    return (*((ScanFinding("clipped", text),) if text else ()), *_size_findings(find_body(image)))


def _size_findings(body: Body) -> tuple[ScanFinding, ...]:
    """A body with air all around it, and too small for one, has a voxel size in other units."""
    if not body.mask.any() or body.mask[[0, -1]].any() or body.mask[:, [0, -1]].any():
        return ()
    voxels = body.mask.any(axis=(1, 2)).sum(), body.mask.any(axis=(0, 2)).sum()
    sizes = np.multiply(voxels, body.edges_mm[:2])
    if max(sizes) >= MIN_BODY_MM:
        return ()
    return (ScanFinding("body size", "the body is {:.0f} mm wide and {:.0f} mm deep".format(*sizes)),)


def is_wide(dtype: np.dtype) -> bool:
    """Integers of 64 bits, which few programs read from a NIfTI file."""
    return dtype.kind in "iu" and dtype.itemsize > 4
