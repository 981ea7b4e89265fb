"""Surface metrics: normalised surface Dice and HD95 as the surface-distance library defines them, but faster.

The library's own `compute_surface_distances` spends its time on whole volumes, a distance map of the box and a sort of
Python tuples. Here only the box of both masks is looked at, the neighbour codes come from shifts, distances from a
look at the nearest corners and a search tree for the rest, and the library's look-up table and metrics do what is
left. A test holds both equal.
"""

import itertools
import math
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from nnunetv2_clip.evaluation.volumes import LabelVolume, known_masks
from nnunetv2_clip.imaging.boxes import union_box

# Shapes: X Y Z voxels of the box of both masks; S surface elements (surfels), at the corners between voxels.

FULL_CODE = 255  # all eight voxels around a corner are inside: no surface
REACH = 2  # voxels around a corner that are looked at one by one; what is farther away is found by a search tree


def surface_metrics(
    reference: LabelVolume, prediction: LabelVolume, name: str, tolerance_mm: float
) -> tuple[float, float]:
    """NSD and HD95 (mm) of one class; voxels of the ignore label belong to neither mask.

    Rules: both masks empty: NaN and NaN. One empty: NSD 0 (no surface is matched), HD95 NaN (no distance exists).
    """
    box = union_box((reference.box(name), prediction.box(name)))
    if box is None:
        return float("nan"), float("nan")
    masks = known_masks(reference, prediction, name, box)
    return mask_metrics(*masks, reference.grid.spacing_mm, tolerance_mm)


def mask_metrics(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> tuple[float, float]:
    """NSD and HD95 (mm) of two (X, Y, Z) bool masks; see `surface_metrics` for empty masks.

    Source: Nikolov et al. 2021, and the package surface-distance (the Decathlon's official code).
    """
    from surface_distance import compute_robust_hausdorff, compute_surface_dice_at_tolerance

    num_empty = (not reference.any()) + (not prediction.any())
    if num_empty:
        return (float("nan") if num_empty == 2 else 0.0), float("nan")
    distances = surface_distances(reference, prediction, spacing_mm)
    nsd = compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return float(nsd), float(compute_robust_hausdorff(distances, 95))


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """The dictionary of surface_distance.compute_surface_distances, for two masks that are not empty.

    Returns:
        distances_gt_to_pred, distances_pred_to_gt: (S,) mm, ascending.
        surfel_areas_gt, surfel_areas_pred: (S,) mm^2 in the same order.
    """
    spacing_mm = tuple(float(size) for size in spacing_mm)
    areas = _surfel_areas(spacing_mm)
    codes = [np.pad(neighbour_codes(mask), REACH) for mask in (reference, prediction)]
    borders = [((code != 0) & (code != FULL_CODE)).ravel() for code in codes]
    points = [np.flatnonzero(border) for border in borders]

    def one_way(own: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        distances = _distances(points[own], borders[other], points[other], codes[0].shape, spacing_mm)
        order = np.argsort(distances)
        return distances[order], areas[codes[own].ravel()[points[own]]][order]

    found = {}
    found["distances_gt_to_pred"], found["surfel_areas_gt"] = one_way(0, 1)
    found["distances_pred_to_gt"], found["surfel_areas_pred"] = one_way(1, 0)
    return found


def neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """(X + 1, Y + 1, Z + 1) uint8: which of the eight voxels around each corner are inside, as the library's bits."""
    code = np.pad(mask.astype(np.uint8), 1)
    for axis, factor in ((2, 2), (1, 4), (0, 16)):
        before, after = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        code = code[before] * np.uint8(factor) + code[after]
    return code


def _distances(
    points: np.ndarray,
    other_border: np.ndarray,
    other_points: np.ndarray,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...],
) -> np.ndarray:
    """(S,) mm from each corner in `points` to the nearest of `other_points`, all as positions in the flat box.

    Lengths are computed from whole voxel steps, as in the library's distance map, so that a distance of exactly the
    tolerance falls on the same side. (Only where a spacing is no binary fraction and several corners are equally near
    can the last bit differ, as it does within the library's map.)
    """
    distances = np.full(len(points), np.inf)
    far = np.arange(len(points))
    for steps, length_mm in _near_steps(spacing_mm):  # nearest first: the first hit is the nearest corner
        if not far.size:
            return distances
        hit = other_border[points[far] + (steps[0] * shape[1] + steps[1]) * shape[2] + steps[2]]
        distances[far[hit]] = length_mm
        far = far[~hit]
    if far.size:
        start, others = (np.array(np.unravel_index(flat, shape)) for flat in (points[far], other_points))
        scale = np.array(spacing_mm)
        _, nearest = cKDTree(others.T * scale, balanced_tree=False).query(start.T * scale)
        x, y, z = (start - others[:, nearest]) * scale[:, None]
        distances[far] = np.sqrt(x * x + y * y + z * z)
    return distances


@lru_cache(maxsize=64)
def _near_steps(spacing_mm: tuple[float, ...]) -> tuple[tuple[tuple[int, ...], float], ...]:
    """((steps along the axes), length in mm), nearest first: every step that is shorter than any beyond REACH."""
    beyond_mm = (REACH + 1) * min(spacing_mm)
    found = []
    for steps in itertools.product(range(-REACH, REACH + 1), repeat=3):
        x, y, z = (step * size for step, size in zip(steps, spacing_mm, strict=True))
        found.append((steps, math.sqrt(x * x + y * y + z * z)))
    return tuple(sorted((item for item in found if item[1] < beyond_mm), key=lambda item: item[1]))


@lru_cache(maxsize=64)
def _surfel_areas(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """(256,) mm^2: the surface area of every neighbour code."""
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    return create_table_neighbour_code_to_surface_area(spacing_mm)
