"""Pancreas-CT (NIH, TCIA): DICOM images, NIfTI labels whose headers do not fit them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.phantom.layouts.base import Request, Scan, claims_ras, painted, save_nifti, with_affine
from nnunetv2_clip.phantom.layouts.dicom import SeriesFiles, write_series

RECIPE = ((1, ("pancreas",)),)
WITHDRAWN = (25, 70)  # their labels are still in the archive
NUMBERS = tuple(n for n in chain((1, 7), range(2, 7), range(8, 83)) if n not in WITHDRAWN)
# z-spacing that the label says, as a multiple of the true one.
WRONG_Z_SPACING = {7: 3, 27: 4, 32: 2, 45: 2}
HEALTHY = ("pancreas_tumor",)


def write(request: Request) -> Path:
    """Write the collection and its label archive side by side; returns the folder of both.

    Option `label_flip`: axes ("y", "z", "yz") along which the label arrays lie the other way round than
    (column, row, InstanceNumber).
    """
    root = request.folder / "pancreas_ct"
    flip, labels = request.option("label_flip", ""), root / "TCIA_pancreas_labels-02-05-2017"
    for n, seed, _ in request.numbers(NUMBERS):
        scan = request.scan(seed, ("LPS",), missing=HEALTHY)
        image = write_images(root, scan, n)
        label = write_label(labels / f"label{n:04d}.nii.gz", scan, painted(scan.phantom, RECIPE), n, flip)
        request.add(f"PANCREAS_{n:04d}", scan, image, [label], ("pancreas",), HEALTHY)
    for n in WITHDRAWN:
        write_label(labels / f"label{n:04d}.nii.gz", scan, painted(scan.phantom, RECIPE), n, flip)
    return root


def write_images(root: Path, scan: Scan, n: int) -> Path:
    """TCIA's tree of one patient; slices are numbered from the head. Returns the series folder."""
    name, count = f"PANCREAS_{n:04d}", scan.phantom.image.shape[2]
    folder = root / "Pancreas-CT" / name / f"11-24-2015-PANCREAS{n:04d}-Pancreas-{18000 + n}" / f"Pancreas-{63000 + n}"
    series = SeriesFiles(name, lambda k: f"1-{count - k:03d}.dcm", lambda k: count - k, "Pancreas")
    return write_series(folder, scan, scan.phantom.image, series)


def write_label(path: Path, scan: Scan, label_map: np.ndarray, n: int, flip: str = "") -> Path:
    """A label array as (column, row, InstanceNumber), its header as if the axes ran right, anterior, superior."""
    image = claims_ras(scan.nifti(label_map))
    array = np.asarray(image.dataobj)[:, :, ::-1]  # InstanceNumber counts from the head
    array = np.flip(array, ["xyz".index(axis) for axis in flip])
    affine = image.affine.copy()
    affine[:3, 2] *= WRONG_Z_SPACING.get(n, 1)
    return save_nifti(path, with_affine(nib.Nifti1Image(np.ascontiguousarray(array), affine), affine))
