"""Connected components of masks, and the rules that keep some of them. The one place that knows cc3d."""

# Shapes: X Y Z voxels in any axis order; N components. Neighbours share a face, an edge or a corner (26).

from __future__ import annotations

import cc3d
import numpy as np


def connected_components(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) components numbered from 1, and (N + 1,) the voxels of each, 0 for the background.

    The mask gets a margin on the way: cc3d refuses some masks that are one voxel thin.
    """
    components = cc3d.connected_components(np.pad(mask, 1), connectivity=connectivity)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    return components[1:-1, 1:-1, 1:-1], sizes


def contacts(numbers: np.ndarray) -> dict[tuple[int, int], int]:
    """(low, high) -> pairs of neighbouring voxels of two numbers above 0 of an (X, Y, Z) uint32 map."""
    found = cc3d.contacts(np.pad(numbers, 1), connectivity=26, surface_area=False)
    return {(min(pair), max(pair)): count for pair, count in found.items()}


def keep_largest(mask: np.ndarray, count: int = 1) -> np.ndarray:
    """(X, Y, Z) the `count` largest components; of equal ones the last in the order of the array."""
    components, sizes = connected_components(mask)
    if len(sizes) - 1 <= count:
        return mask
    return np.isin(components, np.argsort(sizes, kind="stable")[-count:])


def keep_touching(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(X, Y, Z) the components that share or neighbour a voxel of another mask."""
    components, sizes = connected_components(mask)
    reached = np.zeros(len(sizes), bool)
    reached[np.unique(components[_grown(other)])] = True
    reached[0] = False
    return reached[components]


def keep_from_volume(mask: np.ndarray, least_ml: float, voxel_ml: float) -> np.ndarray:
    """(X, Y, Z) the components of at least this volume."""
    components, sizes = connected_components(mask)
    return mask & (sizes * voxel_ml >= least_ml)[components]


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours."""
    for axis in range(mask.ndim):
        grown = mask.copy()
        low, high = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        grown[tuple(low)] |= mask[tuple(high)]
        grown[tuple(high)] |= mask[tuple(low)]
        mask = grown
    return mask
