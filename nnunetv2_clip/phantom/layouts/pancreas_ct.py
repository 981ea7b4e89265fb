"""Pancreas-CT (NIH, TCIA): DICOM images whose rows run to the front, labels with the same axes and no position."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.phantom.layouts.base import Request, Scan, painted, save_nifti, with_affine
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
    (column, row, InstanceNumber), as they do on images that some tool has turned.
    """
    root = request.folder / "pancreas_ct"
    flip, labels = request.option("label_flip", ""), root / "TCIA_pancreas_labels-02-05-2017"
    for n, seed, _ in request.numbers(NUMBERS):
        scan = request.scan(seed, ("LAI",), missing=HEALTHY)
        image = write_images(root, scan, n)
        label = write_label(labels / f"label{n:04d}.nii.gz", scan, painted(scan.phantom, RECIPE), n, flip)
        request.add(f"PANCREAS_{n:04d}", scan, image, [label], ("pancreas",), HEALTHY)
    for n in WITHDRAWN:
        write_label(labels / f"label{n:04d}.nii.gz", scan, painted(scan.phantom, RECIPE), n, flip)
    return root


def write_images(root: Path, scan: Scan, n: int) -> Path:
    """TCIA's tree of one patient; slices are numbered from the head. Returns the series folder."""
    name = f"PANCREAS_{n:04d}"
    folder = root / "Pancreas-CT" / name / f"11-24-2015-PANCREAS{n:04d}-Pancreas-{18000 + n}" / f"Pancreas-{63000 + n}"
    series = SeriesFiles(name, lambda k: f"1-{k + 1:03d}.dcm", lambda k: k + 1, "Pancreas")
    return write_series(folder, scan, scan.phantom.image, series)


def write_label(path: Path, scan: Scan, label_map: np.ndarray, n: int, flip: str = "") -> Path:
    """A label array as (column, row, InstanceNumber); its header knows the axes (LAI), but no position."""
    image = scan.nifti(label_map)
    array = np.flip(np.asarray(image.dataobj), ["xyz".index(axis) for axis in flip])
    affine = image.affine.copy()
    affine[:3, 3] = 0
    affine[:3, 2] *= WRONG_Z_SPACING.get(n, 1)
    return save_nifti(path, with_affine(nib.Nifti1Image(np.ascontiguousarray(array), affine), affine))
