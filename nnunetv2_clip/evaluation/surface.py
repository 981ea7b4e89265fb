"""Surface metrics: normalised surface Dice and HD95 as the surface-distance library defines them, but faster.

The library's own `compute_surface_distances` spends its time on whole volumes, a distance map of the box and a sort of
Python tuples. Here only the box of both masks is looked at, the neighbour codes come from shifts, distances from a
search tree over surface points, and the library's look-up table and metrics do the rest. A test holds both equal.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from nnunetv2_clip.evaluation.volumes import LabelVolume, known_masks, union_box

# Shapes: X Y Z voxels of the box of both masks; S surface elements (surfels), at the corners between voxels.

FULL_CODE = 255  # all eight voxels around a corner are inside: no surface


def surface_metrics(
    reference: LabelVolume, prediction: LabelVolume, name: str, tolerance_mm: float
) -> tuple[float, float]:
    """NSD and HD95 (mm) of one class; voxels of the ignore label belong to neither mask.

    Rules: both masks empty: NaN and NaN. One empty: NSD 0 (no surface is matched), HD95 NaN (no distance exists).
    """
    box = union_box(reference.box(name), prediction.box(name))
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
    areas = _surfel_areas(tuple(float(size) for size in spacing_mm))
    codes = neighbour_codes(reference), neighbour_codes(prediction)
    borders = [(code != 0) & (code != FULL_CODE) for code in codes]
    points = [np.argwhere(border) for border in borders]

    def one_way(own: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        distances = _distances(points[own], borders[other], points[other], np.asarray(spacing_mm, float))
        order = np.argsort(distances, kind="stable")
        return distances[order], areas[codes[own][borders[own]]][order]

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
    points: np.ndarray, other_border: np.ndarray, other_points: np.ndarray, spacing_mm: np.ndarray
) -> np.ndarray:
    """(S,) mm from each corner in `points` to the nearest of `other_points`.

    The tree only says which corner is nearest. The length comes from whole voxel steps, as in the library's distance
    map, so that a distance of exactly the tolerance falls on the same side. (Only where a spacing is no binary fraction
    and several corners are equally near can the last bit differ, as it does within the library's map.)
    """
    distances = np.zeros(len(points))
    apart = np.flatnonzero(~other_border[tuple(points.T)])
    if apart.size:
        _, nearest = cKDTree(other_points * spacing_mm, balanced_tree=False).query(points[apart] * spacing_mm)
        steps_mm = (points[apart] - other_points[nearest]) * spacing_mm
        distances[apart] = np.sqrt((steps_mm**2).sum(axis=1))
    return distances


@lru_cache(maxsize=64)
def _surfel_areas(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """(256,) mm^2: the surface area of every neighbour code."""
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    return create_table_neighbour_code_to_surface_area(spacing_mm)
