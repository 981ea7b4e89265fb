"""The patient's body in a CT, on a thinned grid: what the tests on anatomy look at."""

# Shapes: x y z voxels of the thinned grid, axes turned to RAS.

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from scipy import ndimage

from nnunetv2_clip.imaging.components import connected_components
from nnunetv2_clip.imaging.nifti import Volume

BODY_HU = -300
OPENING_MM = 8.0  # parts the body from a table
COARSE_MM = 4.0
_BODIES: WeakKeyDictionary[Volume, Body] = WeakKeyDictionary()  # volumes are never changed in place


@dataclass(frozen=True, eq=False)
class Body:
    """A CT thinned to about 4 mm and turned to RAS.

    Attributes:
        hu: (x, y, z) Hounsfield units, every n-th voxel.
        mask: (x, y, z) bool, the body with everything inside; without table, and without arms where these are apart.
        middle: (z,) the middle between the right and the left end of the body, in thinned voxels; NaN without body.
        step: of the thinning along x, y, z.
        edges_mm: of a thinned voxel.
    """

    hu: np.ndarray
    mask: np.ndarray
    middle: np.ndarray
    step: tuple[int, int, int]
    edges_mm: np.ndarray


def find_body(image: Volume) -> Body:
    """The largest thing in the image that is no air, with what it encloses in each slice; found once per volume."""
    if image not in _BODIES:
        _BODIES[image] = _find_body(image)
    return _BODIES[image]


def _find_body(image: Volume) -> Body:
    edges = ras_spacing(image.affine)
    step = tuple(max(1, round(COARSE_MM / float(edge))) for edge in edges)
    hu = thinned(image.data, image.affine, step)
    edges = edges * step
    mask = _largest(ndimage.binary_opening(hu > BODY_HU, iterations=max(1, round(OPENING_MM / float(edges.mean())))))
    mask = _filled(mask)
    return Body(hu, mask, _middle(mask), step, edges)


def thinned(array: np.ndarray, affine: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """Every n-th voxel of an array turned to RAS."""
    return np.ascontiguousarray(to_ras(array, affine)[:: step[0], :: step[1], :: step[2]])


def to_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view of an array with axes turned to RAS."""
    return apply_orientation(array, nib.io_orientation(affine))


def from_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The inverse of `to_ras`."""
    return apply_orientation(array, ornt_transform(axcodes2ornt("RAS"), nib.io_orientation(affine)))


def ras_spacing(affine: np.ndarray) -> np.ndarray:
    """Voxel edges along x, y, z of RAS, in mm."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    return edges[np.argsort(nib.io_orientation(affine)[:, 0])]


def _largest(mask: np.ndarray) -> np.ndarray:
    components, sizes = connected_components(mask, connectivity=6)
    return components == sizes.argmax() if sizes.any() else mask


def _filled(mask: np.ndarray) -> np.ndarray:
    """With everything that a slice of the mask encloses."""
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1, :, 1] = in_plane[:, 1, 1] = True
    return ndimage.binary_fill_holes(mask, in_plane)


def _middle(mask: np.ndarray) -> np.ndarray:
    seen = mask.any(axis=1)
    first, last = seen.argmax(axis=0), seen.shape[0] - 1 - seen[::-1].argmax(axis=0)
    return np.where(seen.any(axis=0), (first + last) / 2, np.nan)
