"""Is it the same scan? A few thousand voxels of each image find its copies, whatever their headers say.

A copy may have been saved again, in another number type, with another header (voxel size 1 x 1 x 1 mm), with its axes
flipped or exchanged, with intensities shifted by a constant or clipped to a window. It must have the same number of
voxels: copies that were cropped or resampled are not found.
"""

# Shapes: X Y Z voxels in the stored order of axes; P = GRID picked voxels along each axis; Q quantiles.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

GRID = 16
NUM_QUANTILES = 64
TOLERANCE_HU = 2
MIN_AGREEMENT = 0.9  # of the voxels that no clipping touched; two different scans agree in a few percent
MIN_COMPARED = 64


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is remembered of a scan.

    Attributes:
        shape: (X, Y, Z) of the image.
        picks: (P, P, P) int16, single voxels on a grid that lies symmetrically in the image, so that the picks of a
            flipped image are the flipped picks.
    """

    shape: tuple[int, int, int]
    picks: np.ndarray

    @property
    def quantiles(self) -> np.ndarray:
        """(Q,) values of the picks in steps of equal rank: the same however the axes are turned."""
        ranks = np.linspace(0, self.picks.size - 1, NUM_QUANTILES).round().astype(int)
        return np.sort(self.picks, axis=None)[ranks]


@dataclass(frozen=True)
class Relation:
    """How the array of a second image lies on that of a first one.

    Attributes:
        axes: transposition of the second array.
        flips: axes (of the transposed array) that run the other way.
        shift: first intensity = second intensity + shift, where nothing was clipped.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]
    shift: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of an array of the second image on the grid of the first one."""
        return np.flip(array.transpose(self.axes), self.flips)

    @property
    def is_identity(self) -> bool:
        return self.axes == (0, 1, 2) and not self.flips


def fingerprint_of(data: np.ndarray) -> Fingerprint:
    """The fingerprint of an (X, Y, Z) image of finite numbers."""
    picks = data[np.ix_(*[_positions(size) for size in data.shape])]
    return Fingerprint(tuple(data.shape), np.clip(np.rint(picks), -32768, 32767).astype(np.int16))


def relation(first: Fingerprint, second: Fingerprint) -> Relation | None:
    """How the second scan lies on the first one; None when they are different scans."""
    if sorted(first.shape) != sorted(second.shape) or not _may_match(first.quantiles, second.quantiles[None])[0]:
        return None
    best, best_share = None, 0.0
    for axes in permutations(range(3)):
        if tuple(second.shape[axis] for axis in axes) != first.shape:
            continue
        for flipped in product((False, True), repeat=3):
            flips = tuple(axis for axis in range(3) if flipped[axis])
            turned = np.flip(second.picks.transpose(axes), flips)
            shift, share = _agreement(first.picks, turned)
            if share > best_share:
                best, best_share = Relation(axes, flips, shift), share
    return best if best_share >= MIN_AGREEMENT else None


def find_copies(fingerprints: Mapping[str, Fingerprint]) -> Iterator[tuple[str, str, Relation]]:
    """(first, second, relation) of every pair of keys that show the same scan."""
    buckets: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in sorted(fingerprints):
        buckets[tuple(sorted(fingerprints[key].shape))].append(key)
    for keys in buckets.values():
        quantiles = np.array([fingerprints[key].quantiles for key in keys])
        for number, key in enumerate(keys[:-1]):
            for offset in np.flatnonzero(_may_match(quantiles[number], quantiles[number + 1 :])):
                other = keys[number + 1 + offset]
                found = relation(fingerprints[key], fingerprints[other])
                if found:
                    yield key, other, found


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Part of the voxels, among those that no clipping touched, in which two images on one grid agree up to a shift.

    Slab by slab: no copy of a whole image is made.
    """
    limits = [(data.min(), data.max()) for data in (first, second)]
    shift, _ = _agreement(*(fingerprint_of(data).picks for data in (first, second)), limits)
    agreed = compared = 0
    for a, b in zip(first, second, strict=True):
        inside = _interior(a, limits[0]) & _interior(b, limits[1])
        compared += int(inside.sum())
        agreed += int((np.abs(a[inside].astype(np.float32) - b[inside] - shift) <= TOLERANCE_HU).sum())
    return agreed / compared if compared else 0.0


def _positions(size: int) -> np.ndarray:
    """(P,) indices along an axis; mirrored, they are themselves."""
    lower = np.maximum(np.floor((np.arange(GRID // 2) + 0.5) * size / GRID - 0.5), 0).astype(int)
    return np.concatenate([lower, size - 1 - lower[::-1]])


def _agreement(first: np.ndarray, second: np.ndarray, limits=None) -> tuple[int, float]:
    """(shift, share) of the picks that no clipping touched."""
    limits = limits or [(picks.min(), picks.max()) for picks in (first, second)]
    inside = _interior(first, limits[0]) & _interior(second, limits[1])
    if inside.sum() < MIN_COMPARED:
        return 0, 0.0
    difference = first[inside].astype(np.int32) - second[inside]
    shift = int(np.median(difference))
    return shift, float((np.abs(difference - shift) <= TOLERANCE_HU).mean())


def _interior(data: np.ndarray, limits: tuple) -> np.ndarray:
    return (data > limits[0]) & (data < limits[1])


def _may_match(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool: could (N, Q) quantiles be those of copies of a scan with (Q,) quantiles."""
    inside = _interior(one, (one[0], one[-1])) & (others > others[:, :1]) & (others < others[:, -1:])
    difference = np.where(inside, one.astype(np.float32) - others, np.nan)
    few = inside.sum(axis=1) < 8  # nearly everything was clipped: nothing is known
    shift = np.nanmedian(np.where(few[:, None], 0, difference), axis=1, keepdims=True)
    agree = (np.abs(difference - shift) <= 2 * TOLERANCE_HU).sum(axis=1)
    return few | (agree >= MIN_AGREEMENT * inside.sum(axis=1))
