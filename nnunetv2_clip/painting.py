"""Painted label maps: one class per voxel, sub-structures on top of their organ, and how to undo the painting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunetv2_clip.classes import ClassRow, Taxonomy
from nnunetv2_clip.imaging.components import connected_components, contacts

# Shapes: X Y Z voxels of one volume, in any axis order.


def paint(masks: Mapping[str, np.ndarray], taxonomy: Taxonomy) -> np.ndarray:
    """(X, Y, Z) uint8 or uint16: the universal index of the class that is painted last in each voxel.

    The same as nnU-Net's export of a region model: classes in painting order, a sub-structure after its organ.

    Args:
        masks: at least one class name -> (X, Y, Z) bool.
    """
    rows = taxonomy.subset(masks)
    by_name = {taxonomy.find(name).name: mask for name, mask in masks.items()}
    painted = np.zeros(by_name[rows[0].name].shape, _dtype_for(max(row.index for row in rows)))
    for row in rows:
        painted[by_name[row.name]] = row.index
    return painted


def unpaint(
    painted: np.ndarray, taxonomy: Taxonomy, names: Iterable[str], spacing_mm: Iterable[float] = (1.0, 1.0, 1.0)
) -> dict[str, np.ndarray]:
    """Class name -> (X, Y, Z) bool: the masks behind a painted label map, by the taxonomy's parent relation.

    An organ gets its own voxels and those of every class inside it. Where a class has several possible parents
    (a kidney tumour: right or left kidney), each 26-connected component goes to the parent with which it shares the
    most pairs of neighbouring voxels (26-neighbourhood), without any contact to the nearest parent (in mm), and to
    none when the label map shows no voxel of any possible parent.

    What cannot be recovered: an organ that the model had not predicted below its sub-structure counts as predicted
    there, and a class hidden by one that is not inside it (a hepatic vessel below a liver tumour) stays hidden.

    Args:
        painted: (X, Y, Z) integer, universal indices; indices of classes outside `names` count as background.
        names: the classes that the model knows; only these act as parents.
        spacing_mm: voxel size along the axes of `painted`, for "nearest".
    """
    unpainted = Unpainted(painted, taxonomy, names, spacing_mm)
    return {name: unpainted.mask(name) for name in unpainted.values}


class Unpainted:
    """A painted label map whose masks are made on demand: memory stays that of one label map.

    The rule is that of `unpaint`.

    Attributes:
        label_map: (X, Y, Z) integer; equal to the painted map except for components of classes with several parents,
            which carry one extra value per (value, parent).
        values: class name -> the values of `label_map` that belong to the class.
    """

    def __init__(
        self,
        painted: np.ndarray,
        taxonomy: Taxonomy,
        names: Iterable[str],
        spacing_mm: Iterable[float] = (1.0, 1.0, 1.0),
    ):
        rows = taxonomy.subset(names)
        own = {row.name for row in rows}
        self.label_map = painted
        self.values: dict[str, tuple[int, ...]] = {row.name: (row.index,) for row in rows}
        self._spacing_mm = tuple(spacing_mm)
        self._next_value = max((row.index for row in taxonomy), default=0) + 1
        self._is_copy = False
        for row in reversed(rows):  # children first, so that an organ receives what its parts have collected
            parents = _parents_within(row, taxonomy, own)
            if len(parents) == 1:
                self.values[parents[0]] += self.values[row.name]
            elif parents:
                self._share_among(row.name, parents)

    def mask(self, name: str) -> np.ndarray:
        """(X, Y, Z) bool: the class with everything inside it."""
        return np.isin(self.label_map, self.values[name])

    def _share_among(self, name: str, parents: list[str]) -> None:
        """Give every component of the class to one of its parents."""
        region = self.mask(name)
        box = _bounding_box(region, margin=1)
        if box is None:
            return
        components, sizes = connected_components(region[box])
        owner = self._owners(components, len(sizes) - 1, parents, box)
        for index, parent in enumerate(parents):
            mine = np.flatnonzero(owner == index)
            if mine.size:
                self._mark(box, np.isin(components, mine), name, parent)

    def _owners(self, components: np.ndarray, count: int, parents: list[str], box: tuple[slice, ...]) -> np.ndarray:
        """(count + 1,) index into `parents` for each component number; -1 without a parent."""
        contact = np.zeros((count + 1, len(parents)))
        scene = components.astype(np.uint32)
        for index, parent in enumerate(parents):
            scene[np.isin(self.label_map[box], self.values[parent]) & (components == 0)] = count + 1 + index
        for (low, high), pairs in contacts(scene).items():
            if low <= count < high:
                contact[low, high - count - 1] = pairs
        owner = np.where(contact.any(axis=1), contact.argmax(axis=1), -1)
        owner[0] = -1
        lonely = [number for number in range(1, count + 1) if owner[number] < 0]
        if lonely:
            origin = [part.start for part in box]
            owner[lonely] = self._nearest(components, lonely, parents, origin)
        return owner

    def _nearest(self, components: np.ndarray, lonely: list[int], parents: list[str], origin: list[int]) -> list[int]:
        """The index of the parent nearest to each lonely component, -1 if no parent has a voxel."""
        distances = np.full((len(lonely), len(parents)), np.inf)
        for column, parent in enumerate(parents):
            surface = _surface_voxels(self.mask(parent))
            if not len(surface):
                continue
            tree = cKDTree(surface * self._spacing_mm)
            for line, number in enumerate(lonely):
                voxels = np.argwhere(components == number) + origin
                distances[line, column] = tree.query(voxels * self._spacing_mm)[0].min()
        return [int(line.argmin()) if np.isfinite(line).any() else -1 for line in distances]

    def _mark(self, box: tuple[slice, ...], chosen: np.ndarray, name: str, parent: str) -> None:
        """Give the chosen voxels of the class new values that belong to the parent as well."""
        self._copy()
        part = self.label_map[box]
        for value in self.values[name]:
            voxels = chosen & (part == value)
            if not voxels.any():
                continue
            new, self._next_value = self._next_value, self._next_value + 1
            part[voxels] = new
            for holder, values in self.values.items():
                if value in values:
                    self.values[holder] = (*values, new)
            self.values[parent] += (new,)

    def _copy(self) -> None:
        """The caller's array is never changed; 16 bits leave room for the extra values."""
        if not self._is_copy:
            self.label_map = self.label_map.astype(np.uint16)
            self._is_copy = True


def _parents_within(row: ClassRow, taxonomy: Taxonomy, names: set[str]) -> list[str]:
    """The nearest ancestors of a class out of `names`; one that is missing is replaced by its own parents."""

    def nearest(parents: Iterable[str]) -> Iterator[str]:
        for parent in parents:
            if parent in names:
                yield parent
            else:
                yield from nearest(taxonomy.find(parent).parents)

    return list(dict.fromkeys(nearest(row.parents)))


def _dtype_for(value: int) -> type:
    return np.uint8 if value < 256 else np.uint16


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """The box around True with a margin inside the array; None without any True."""
    box = ndimage.find_objects(mask.view(np.uint8))
    if not box:
        return None
    return tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(box[0], mask.shape, strict=True)
    )


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """(n, 3) positions of the voxels of `mask` that have a face neighbour outside."""
    box = _bounding_box(mask, margin=0)
    if box is None:
        return np.zeros((0, mask.ndim), int)
    inside = mask[box]
    return np.argwhere(inside & ~ndimage.binary_erosion(inside)) + [part.start for part in box]
