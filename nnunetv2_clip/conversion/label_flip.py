"""Which way round a label array lies on its CT, where no header tells: the Hounsfield units of the organ decide.

Rule: the label is tried as it is, and flipped along the body's vertical axis, its front-back axis and both. Soft organs
such as liver, spleen and pancreas have narrowly spread Hounsfield units around a soft-tissue value; a label that lies
the wrong way round covers fat, gas and bone as well. No flip that fits, or two that fit as well: the case is refused.
"""

# Shapes: X Y Z voxels in the image's own axis order.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Volume

FLIPS = ("", "z", "y", "yz")  # anatomical axes: y front-back, z head-feet
MEDIAN_HU = (20, 180)  # of liver, spleen and pancreas, with or without contrast agent
GAS_HU, MAX_GAS = -150, 0.05  # part of the organ's voxels that may be lung or gas
RANGE_HU = (-200, 300)  # values beyond (metal, gas) count as these when the spread is measured
CLEARLY = 1.1  # the second best flip has so much more spread
MAX_VOXELS = 2_000_000  # more are thinned out evenly


@dataclass(frozen=True)
class Fit:
    """How a label lies on the image after a flip.

    Attributes:
        flip: anatomical axes along which the label was flipped, of "y" and "z".
        median_hu: of the largest organ.
        spread_hu: mean distance of the organs' voxels from their own organ's median.
        gas: part of these voxels below `GAS_HU`.
    """

    flip: str
    median_hu: float
    spread_hu: float
    gas: float

    @property
    def is_soft_tissue(self) -> bool:
        return MEDIAN_HU[0] <= self.median_hu <= MEDIAN_HU[1] and self.gas <= MAX_GAS

    def describe(self) -> str:
        name = f"flipped along {self.flip}" if self.flip else "as it is"
        return f"{name}: median {self.median_hu:.0f} HU, spread {self.spread_hu:.0f} HU, {self.gas:.0%} gas"


def lay_on_image(
    image: Volume, label_map: np.ndarray, organs: Sequence[int], where: object, may_flip: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label array as it lies on its image, and what was done to it, in words.

    Args, Raises: as `find_flip`.
    """
    flip = find_flip(image, label_map, organs, where, may_flip)
    return flipped(label_map, flip, image.affine), flip_words(flip)


def flip_words(flip: str) -> tuple[str, ...]:
    """The repair in words, as converters report it; none without a flip."""
    return (f"label flipped along {flip}, as Hounsfield units tell",) if flip else ()


def require_same_shape(image: tuple[int, ...], label: tuple[int, ...], where: object) -> None:
    """Raise a UserError unless image and label have the same number of voxels along each axis."""
    if image != label:
        raise UserError(
            where,
            f"has {label} voxels, its image {image}",
            "one label voxel for each voxel of the image",
            "download image and label of this case again",
        )


def find_flip(image: Volume, label_map: np.ndarray, organs: Sequence[int], where: object, may_flip: bool = True) -> str:
    """The flip (one of `FLIPS`) with which a label array lies on its image.

    Args:
        image: Hounsfield units.
        label_map: (X, Y, Z), the shape of the image.
        organs: label values of soft organs; each is compared with its own median.
        may_flip: False: a label that lies the other way round is refused.

    Raises:
        UserError: the label has another shape or holds none of the organs, the test does not decide, or a flip is
            needed that is not allowed.
    """
    require_same_shape(image.data.shape, label_map.shape, where)
    voxels = [_thinned(np.flatnonzero(label_map.ravel() == value)) for value in organs]
    voxels = [indices for indices in voxels if len(indices)]
    if not voxels:
        raise UserError(where, "shows no organ by which its position can be checked", "a label of this image")
    fits = [measure(image, voxels, flip) for flip in FLIPS]
    best, *others = sorted(fits, key=lambda fit: (not fit.is_soft_tissue, fit.spread_hu))
    rivals = [fit for fit in others if fit.is_soft_tissue and fit.spread_hu < CLEARLY * best.spread_hu]
    taken = flipped(label_map, best.flip, image.affine)  # of a symmetrical label two flips are the same
    rivals = [fit for fit in rivals if not np.array_equal(taken, flipped(label_map, fit.flip, image.affine))]
    if not best.is_soft_tissue or rivals:
        listed = "; ".join(fit.describe() for fit in ([best, *rivals] if rivals else fits))
        raise UserError(
            where,
            f"{'fits the image in two ways' if rivals else 'fits the image in no way'} ({listed})",
            f"soft organs of {MEDIAN_HU[0]} to {MEDIAN_HU[1]} HU in one way only",
            "download image and label of this case again, or leave the case out",
        )
    if best.flip and not may_flip:
        raise UserError(
            where,
            f"fits its image only when it is flipped along {best.flip}",
            "a label whose array lies on that of its image as it is, or whose header says how it lies",
            "convert with the repair label_flip, if the source has it; else download image and label again",
        )
    return best.flip


def flipped(label_map: np.ndarray, flip: str, affine: np.ndarray) -> np.ndarray:
    """A view of the label flipped along anatomical axes; `affine` tells which array axes these are."""
    return np.flip(label_map, array_axes(flip, affine)) if flip else label_map


def array_axes(flip: str, affine: np.ndarray) -> tuple[int, ...]:
    """The array axes that run along the anatomical axes named in `flip`."""
    along = nib.io_orientation(affine)[:, 0].astype(int).tolist()
    return tuple(along.index("xyz".index(axis)) for axis in flip)


def measure(image: Volume, organs: Sequence[np.ndarray], flip: str) -> Fit:
    """Hounsfield units of organs (each as flat voxel indices of the label) after a flip."""
    values = []
    for indices in organs:
        position = list(np.unravel_index(indices, image.data.shape))
        for axis in array_axes(flip, image.affine):
            position[axis] = image.data.shape[axis] - 1 - position[axis]
        values.append(image.data[tuple(position)].astype(np.float32))
    everything = np.concatenate(values)
    distances = [np.abs(np.clip(own, *RANGE_HU) - np.median(np.clip(own, *RANGE_HU))) for own in values]
    return Fit(
        flip=flip,
        median_hu=float(np.median(max(values, key=len))),
        spread_hu=float(np.concatenate(distances).mean()),
        gas=float((everything < GAS_HU).mean()),
    )


def _thinned(indices: np.ndarray) -> np.ndarray:
    return indices[:: 1 + len(indices) // MAX_VOXELS]
