"""Is it the same scan? A few thousand voxels of each image find its copies, whatever their headers say.

A copy may have been saved again, in another number type, with another header (voxel size 1 x 1 x 1 mm), with its axes
flipped or exchanged, with intensities shifted by a constant or clipped to a window. It must have the same number of
voxels: copies that were cropped or resampled are not found.

How far values may differ follows from the spread of the image, whatever its unit. Where an image has few distinct
values, other patients agree in many voxels by chance: such scans are the same only if all voxels say so.
"""

# Shapes: X Y Z voxels in the stored order of axes; P = GRID picked voxels along each axis; Q quantiles.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations
from operator import itemgetter

import numpy as np

from nnunetv2_clip.imaging.nifti import MIN_HU_SPREAD

GRID = 16
NUM_QUANTILES = 64
TOLERANCE_HU = 2.0
TOLERANCE = 0.005  # of the spread, in all other units: what 2 HU are of the 400 HU of a CT
MIN_AGREEMENT = 0.9  # of the voxels that no clipping touched; two different scans agree in a few percent
MIN_TELLING = 0.75  # of the pairs of any voxels differ; where fewer do, nearly all voxels must agree:
MAX_DIFFERENCE = 0.01  # of what would differ by chance
MIN_COMPARED = 64


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is remembered of a scan.

    Attributes:
        shape: (X, Y, Z) of the image.
        picks: (P, P, P) float32, single voxels on a grid that lies symmetrically in the image, so that the picks of a
            flipped image are the flipped picks.
    """

    shape: tuple[int, int, int]
    picks: np.ndarray

    @cached_property
    def tolerance(self) -> float:
        """How far the values of copies may lie apart: by rounding to integers, where these are fine enough."""
        spread = float(self.picks.std(dtype=np.float64))
        return TOLERANCE_HU if spread >= MIN_HU_SPREAD else TOLERANCE * spread

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
        is_only: no other way of laying it on the first one agrees as well; it does in a symmetric image.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]
    shift: float
    is_only: bool = True

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of an array of the second image on the grid of the first one."""
        return np.flip(array.transpose(self.axes), self.flips)

    @property
    def is_identity(self) -> bool:
        return self.axes == (0, 1, 2) and not self.flips


def fingerprint_of(data: np.ndarray) -> Fingerprint:
    """The fingerprint of an (X, Y, Z) image of finite numbers."""
    picks = data[np.ix_(*[_positions(size) for size in data.shape])]
    limit = np.finfo(np.float32).max
    return Fingerprint(tuple(data.shape), np.clip(picks, -limit, limit).astype(np.float32))


def relation(first: Fingerprint, second: Fingerprint) -> Relation | None:
    """How the second scan lies on the first one; None when they are different scans."""
    tolerance = max(first.tolerance, second.tolerance)
    if sorted(first.shape) != sorted(second.shape):
        return None
    if not _may_match(first.quantiles, second.quantiles[None], np.array([tolerance]))[0]:
        return None
    found = []
    for axes, flips in _turns(first.shape, second.shape):
        turned = np.flip(second.picks.transpose(axes), flips)
        shift, share = _agreement(first.picks, turned, tolerance)
        if share >= MIN_AGREEMENT:
            found.append((share, Relation(axes, flips, shift)))
    if not found:
        return None
    best = max(found, key=itemgetter(0))[1]  # of equals the first, without any turn
    return replace(best, is_only=len(found) == 1)


def _turns(first: tuple[int, ...], second: tuple[int, ...]) -> Iterator[tuple[tuple, tuple[int, ...]]]:
    """(axes, flips) of every way to lay an array of the second shape on one of the first."""
    long = [axis for axis in range(3) if first[axis] > 1]
    for axes in permutations(range(3)):
        if tuple(second[axis] for axis in axes) == first:
            yield from ((axes, flips) for n in range(len(long) + 1) for flips in combinations(long, n))


def find_copies(fingerprints: Mapping[str, Fingerprint]) -> Iterator[tuple[str, str, Relation]]:
    """(first, second, relation) of every pair of keys that show the same scan."""
    buckets: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in sorted(fingerprints):
        buckets[tuple(sorted(fingerprints[key].shape))].append(key)
    for keys in buckets.values():
        quantiles = np.array([fingerprints[key].quantiles for key in keys])
        tolerances = np.array([fingerprints[key].tolerance for key in keys])
        for number, key in enumerate(keys[:-1]):
            tolerance = np.maximum(tolerances[number], tolerances[number + 1 :])
            for offset in np.flatnonzero(_may_match(quantiles[number], quantiles[number + 1 :], tolerance)):
                other = keys[number + 1 + offset]
                found = relation(fingerprints[key], fingerprints[other])
                if found:
                    yield key, other, found


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Part of the voxels, among those that no clipping touched, in which two images on one grid agree up to a shift.

    0 where it proves nothing. Slab by slab: no copy of a whole image is made.
    """
    limits = [(data.min(), data.max()) for data in (first, second)]
    prints = [fingerprint_of(data) for data in (first, second)]
    tolerance = max(part.tolerance for part in prints)
    inside = np.logical_and(*(_interior(part.picks, limit) for part, limit in zip(prints, limits, strict=True)))
    picked = [part.picks[inside].astype(np.float64) for part in prints]
    shift = _shift(*picked, tolerance)
    agreed = compared = 0
    for a, b in zip(first, second, strict=True):
        inside = _interior(a, limits[0]) & _interior(b, limits[1])
        compared += int(inside.sum())
        agreed += int((np.abs(a[inside].astype(np.float32) - b[inside] - shift) <= tolerance).sum())
    return _proven(agreed / compared if compared else 0.0, *picked, shift, tolerance)


def _positions(size: int) -> np.ndarray:
    """(P,) indices along an axis; mirrored, they are themselves."""
    lower = np.maximum(np.floor((np.arange(GRID // 2) + 0.5) * size / GRID - 0.5), 0).astype(int)
    return np.concatenate([lower, size - 1 - lower[::-1]])


def _agreement(first: np.ndarray, second: np.ndarray, tolerance: float) -> tuple[float, float]:
    """(shift, share) of the picks that no clipping touched."""
    inside = _interior(first, (first.min(), first.max())) & _interior(second, (second.min(), second.max()))
    if inside.sum() < MIN_COMPARED:
        return 0.0, 0.0
    first, second = first[inside].astype(np.float64), second[inside].astype(np.float64)
    shift = _shift(first, second, tolerance)
    share = float((np.abs(first - second - shift) <= tolerance).mean())
    return shift, _proven(share, first, second, shift, tolerance)


def _shift(first: np.ndarray, second: np.ndarray, tolerance: float) -> float:
    """In steps of half the tolerance: of Hounsfield units, whole ones."""
    step = tolerance / 2
    return float(np.trunc(np.median(first - second) / step) * step) if first.size and step else 0.0


def _proven(share: float, first: np.ndarray, second: np.ndarray, shift: float, tolerance: float) -> float:
    """The share of voxels that agree; 0 where as many would in images that have nothing to do with each other."""
    if share < MIN_AGREEMENT or not first.size:
        return share
    others = np.sort(second) + shift
    near = np.searchsorted(others, first + tolerance, "right") - np.searchsorted(others, first - tolerance, "left")
    telling = 1 - float(near.mean()) / first.size  # part of the pairs of any two voxels that differ
    is_proof = 1 - share <= MAX_DIFFERENCE * telling and telling * first.size >= MIN_COMPARED
    return share if telling >= MIN_TELLING or is_proof else 0.0


def _interior(data: np.ndarray, limits: tuple) -> np.ndarray:
    return (data > limits[0]) & (data < limits[1])


def _may_match(one: np.ndarray, others: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """(N,) bool: could (N, Q) quantiles be those of copies of a scan with (Q,) quantiles; (N,) tolerances."""
    inside = _interior(one, (one[0], one[-1])) & (others > others[:, :1]) & (others < others[:, -1:])
    difference = np.where(inside, one.astype(np.float64) - others, np.nan)
    few = inside.sum(axis=1) < 8  # nearly everything was clipped: nothing is known
    shift = np.nanmedian(np.where(few[:, None], 0, difference), axis=1, keepdims=True)
    agree = (np.abs(difference - shift) <= 2 * tolerance[:, None]).sum(axis=1)
    return few | (agree >= MIN_AGREEMENT * inside.sum(axis=1))
