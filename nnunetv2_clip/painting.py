"""Painted label maps: one class per voxel, sub-structures on top of their organ, and how to undo the painting."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunetv2_clip.classes import ClassRow, Taxonomy
from nnunetv2_clip.imaging.boxes import bounding_box
from nnunetv2_clip.imaging.components import connected_components, contacts
from nnunetv2_clip.labels import ClassMap, plain

# Shapes: X Y Z voxels of one volume, in any axis order.


def paint(masks: Mapping[str, np.ndarray], taxonomy: Taxonomy) -> np.ndarray:
    """(X, Y, Z) uint8 or uint16: the universal index of the class that is painted last in each voxel.

    The same as nnU-Net's export of a region model: classes in painting order, a sub-structure after its organ.

    Args:
        masks: at least one class name -> (X, Y, Z) bool.
    """
    rows = taxonomy.subset(masks)
    by_name = {taxonomy.find(name).name: mask for name, mask in masks.items()}
    painted = np.zeros(by_name[rows[0].name].shape, np.min_scalar_type(max(row.index for row in rows)))
    for row in rows:
        painted[by_name[row.name]] = row.index
    return painted


def paint_labels(labels: ClassMap, taxonomy: Taxonomy) -> np.ndarray:
    """(X, Y, Z) uint16: the universal index of the class that is painted last in each voxel."""
    rows = {row.name: (order, row.index) for order, row in enumerate(taxonomy.painting_order())}
    sets = {value: plain(classes) for value, classes in labels.sets.items() if classes and plain(classes)}
    return labels.translated({value: max(rows[name] for name in classes)[1] for value, classes in sets.items()})


def unpaint(
    painted: np.ndarray, taxonomy: Taxonomy, names: Iterable[str], spacing_mm: Iterable[float] = (1.0, 1.0, 1.0)
) -> ClassMap:
    """The classes behind a painted label map, by the taxonomy's parent relation; memory stays that of one label map.

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
    rows = taxonomy.subset(names)
    own = {row.name for row in rows}
    found = ClassMap(painted, {row.index: {row.name} & own for row in taxonomy})
    for row in reversed(rows):  # children first, so that an organ receives what its parts have collected
        parents = _parents_within(row, taxonomy, own)
        if len(parents) == 1:
            found = found.with_sets(lambda classes: {*classes, *parents} if row.name in classes else classes)  # noqa: B023
        elif parents:
            found = _shared_among(found, row.name, parents, np.array(tuple(spacing_mm)), found.values is not painted)
    return found


def _shared_among(
    labels: ClassMap, name: str, parents: list[str], spacing_mm: np.ndarray, may_change: bool
) -> ClassMap:
    """The labels with every component of the class given to one of its parents; a copy unless they may be changed."""
    region = labels.mask(name)
    tight = bounding_box(region)
    if tight is None:
        return labels
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in tight)  # with the neighbours
    components, sizes = connected_components(region[box])
    owner = _owners(labels, components, len(sizes) - 1, parents, box, spacing_mm)
    if (owner >= 0).any() and not may_change:  # the caller's array; 16 bits leave room for more values
        labels = ClassMap(labels.values.astype(np.uint16), labels.sets)
    for index, parent in enumerate(parents):
        mine = np.flatnonzero(owner == index)
        if mine.size:
            labels.add({parent}, np.isin(components, mine), box)
    return labels


def _owners(
    labels: ClassMap,
    components: np.ndarray,
    count: int,
    parents: list[str],
    box: tuple[slice, ...],
    spacing_mm: np.ndarray,
) -> np.ndarray:
    """(count + 1,) index into `parents` for each component number; -1 without a parent."""
    contact = np.zeros((count + 1, len(parents)))
    scene = components.astype(np.uint32)
    for index, parent in enumerate(parents):
        scene[labels.mask(parent, box) & (components == 0)] = count + 1 + index
    for (low, high), pairs in contacts(scene).items():
        if low <= count < high:
            contact[low, high - count - 1] = pairs
    owner = np.where(contact.any(axis=1), contact.argmax(axis=1), -1)
    owner[0] = -1
    lonely = [number for number in range(1, count + 1) if owner[number] < 0]
    if lonely:
        places = [(np.argwhere(components == number) + [part.start for part in box]) * spacing_mm for number in lonely]
        owner[lonely] = _nearest(labels, places, parents, spacing_mm)
    return owner


def _nearest(labels: ClassMap, places: list[np.ndarray], parents: list[str], spacing_mm: np.ndarray) -> list[int]:
    """The index of the parent nearest to each component, -1 if no parent has a voxel; `places` are (n, 3) in mm."""
    distances = np.full((len(places), len(parents)), np.inf)
    for column, parent in enumerate(parents):
        surface = _surface_voxels(labels.mask(parent))
        if len(surface):
            tree = cKDTree(surface * spacing_mm)
            distances[:, column] = [tree.query(points)[0].min() for points in places]
    return [int(line.argmin()) if np.isfinite(line).any() else -1 for line in distances]


def _parents_within(row: ClassRow, taxonomy: Taxonomy, names: set[str]) -> list[str]:
    """The nearest ancestors of a class out of `names`; one that is missing is replaced by its own parents."""

    def nearest(parents: Iterable[str]) -> Iterator[str]:
        for parent in parents:
            if parent in names:
                yield parent
            else:
                yield from nearest(taxonomy.find(parent).parents)

    return list(dict.fromkeys(nearest(row.parents)))


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """(n, 3) positions of the voxels of `mask` that have a face neighbour outside."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, mask.ndim), int)
    inside = mask[box]
    return np.argwhere(inside & ~ndimage.binary_erosion(inside)) + [part.start for part in box]
