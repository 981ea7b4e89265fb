"""Label files as they come (label map, painted label map, folder of masks) in one form for all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import SUFFIXES, Geometry, read_label_map, stem
from nnunetv2_clip.labels import IGNORE, class_names
from nnunetv2_clip.painting import Unpainted

# Shapes: X Y Z voxels of one volume along the file's axes (nibabel's order, turned to RAS).

MAX_LABEL_VALUE = 4095  # beyond this a file is no label map; keeps the tables over label values small
SLAB_VOXELS = 1 << 22  # how many voxels are counted at once: bounds the memory of the counting
Box = tuple[slice, ...]


@dataclass(frozen=True)
class LabelVolume:
    """One label map, and which of its values make up each class.

    Attributes:
        label_map: (X, Y, Z) integer.
        values: class name -> label values.
        ignore: label value of voxels that are unknown for every class.
    """

    label_map: np.ndarray
    values: Mapping[str, tuple[int, ...]]
    grid: Geometry
    ignore: int | None = None

    @cached_property
    def max_value(self) -> int:
        return int(self.label_map.max(initial=0))

    @cached_property
    def _boxes(self) -> list[Box | None]:
        """Position v: the box of label value v + 1; one pass for all values."""
        return ndimage.find_objects(self.label_map)

    def box(self, name: str) -> Box | None:
        """The smallest box around a class, None when it has no voxel."""
        boxes = [self._boxes[value - 1] for value in self.values[name] if value <= len(self._boxes)]
        return union_box(*boxes)

    def mask(self, name: str, box: Box = (slice(None),) * 3) -> np.ndarray:
        """The class inside a box, bool."""
        member = np.zeros(max(self.max_value, *self.values[name], 0) + 1, bool)
        member[list(self.values[name])] = True
        return member[self.label_map[box]]


def known_masks(first: LabelVolume, second: LabelVolume, name: str, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """A class on both sides inside a box, without the voxels that either side calls unknown."""
    masks = first.mask(name, box), second.mask(name, box)
    for side in (first, second):
        if side.ignore is not None:
            known = side.label_map[box] != side.ignore
            masks = masks[0] & known, masks[1] & known
    return masks


def union_box(*boxes: Box | None) -> Box | None:
    """The smallest box around all boxes that are not None."""
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*present, strict=True))


@dataclass(frozen=True)
class LabelCoding:
    """Label maps in the label values of a dataset.json: raw labelsTr, gt_segmentations.

    Attributes:
        values: class name -> label values (nnU-Net's region).
        ignore: the label value of unknown voxels.
    """

    values: dict[str, tuple[int, ...]]
    ignore: int | None

    @classmethod
    def of(cls, labels: Mapping, taxonomy: Taxonomy, where: object) -> LabelCoding:
        """From the entry `labels` of a dataset.json.

        Raises:
            UserError: a class is not in the taxonomy, or its region holds no label values.
        """
        values = {}
        for name in class_names(labels):
            region = labels[name]
            region = region if isinstance(region, list | tuple) else [region]
            if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in region):
                raise UserError(where, f"the label values of {name!r} are {labels[name]!r}", "integers of 0 or more")
            values[taxonomy.find(name, where).name] = tuple(region)
        return cls(values, labels.get(IGNORE))

    def read(self, path: Path) -> LabelVolume:
        """Raises UserError: unreadable, no integers, or a label value that dataset.json does not declare."""
        label_map, grid = read_labels(path)
        known = {0, *(value for values in self.values.values() for value in values)}
        known |= {self.ignore} if self.ignore is not None else set()
        _refuse_unknown(label_map, known, path, "the label values of dataset.json")
        return LabelVolume(label_map, self.values, grid, self.ignore)


@dataclass(frozen=True)
class PaintedCoding:
    """Painted label maps of universal indices: what nnUNetv2_predict writes; see `painting.unpaint` for the rule."""

    taxonomy: Taxonomy
    names: tuple[str, ...] = ()

    def read(self, path: Path) -> LabelVolume:
        """Raises UserError: unreadable, no integers, or an index that no class has."""
        painted, grid = read_labels(path)
        _refuse_unknown(painted, {0, *(row.index for row in self.taxonomy)}, path, "universal indices")
        unpainted = Unpainted(painted, self.taxonomy, self.names or self.taxonomy.names, grid.spacing_mm)
        return LabelVolume(unpainted.label_map, unpainted.values, grid)


@dataclass(frozen=True)
class MaskCoding:
    """A folder per case with one file <class>.nii.gz per class; what is not 0 belongs to the class."""

    taxonomy: Taxonomy

    def files(self, folder: Path) -> dict[str, Path]:
        """Class name -> file, of the files that are named after a class or an alias."""
        found = {}
        for path in sorted(folder.iterdir()):
            if path.name.endswith(SUFFIXES) and not path.name.startswith(".") and stem(path) in self.taxonomy:
                found[self.taxonomy.find(stem(path)).name] = path
        return found

    def read(self, folder: Path) -> LabelVolume:
        """One label map that holds all masks, overlaps included: every set of classes gets a value.

        Raises:
            UserError: no file of a class, an unreadable file, or masks on different grids.
        """
        files = self.files(folder)
        if not files:
            raise UserError(folder, "has no mask of a known class", "files such as liver.nii.gz")
        label_map, grid = None, None
        sets: list[tuple[str, ...]] = [()]
        for name, path in files.items():
            mask, own_grid = read_labels(path)
            if label_map is None:
                label_map, grid = np.zeros(own_grid.shape, np.uint16), own_grid
            difference = own_grid.difference(grid)
            if difference:
                raise UserError(path, f"lies on another grid than the other masks: {difference}", "one grid")
            _add_mask(label_map, mask != 0, name, sets)
        values = {name: tuple(v for v, classes in enumerate(sets) if name in classes) for name in files}
        return LabelVolume(label_map, values, grid)


def _add_mask(label_map: np.ndarray, mask: np.ndarray, name: str, sets: list[tuple[str, ...]]) -> None:
    """Move the voxels of `mask` to the values of their set plus `name`, appending new sets."""
    inside = label_map[mask]
    moved = np.zeros(len(sets), label_map.dtype)
    for value in np.unique(inside):
        moved[value] = len(sets)
        sets.append((*sets[value], name))
    label_map[mask] = moved[inside]


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """(X, Y, Z) uint8 or uint16 and its grid, turned to the axes nearest to RAS.

    Raises:
        UserError: unreadable, not three-dimensional, or with values that are no small integers.
    """
    volume = read_label_map(path)
    low, high = int(volume.data.min()), int(volume.data.max())
    if low < 0 or high > MAX_LABEL_VALUE:
        raise UserError(path, f"has values from {low} to {high}", f"label values from 0 to {MAX_LABEL_VALUE}")
    turn = nibabel.io_orientation(volume.affine)
    turned = nibabel.orientations.apply_orientation(volume.data, turn)
    affine = volume.affine @ nibabel.orientations.inv_ornt_aff(turn, volume.data.shape)
    return np.ascontiguousarray(turned, np.uint8 if high < 256 else np.uint16), Geometry(turned.shape, affine)


def _refuse_unknown(label_map: np.ndarray, known: set[int], path: Path, meaning: str) -> None:
    unknown = sorted(label_values(label_map) - known)
    if unknown:
        raise UserError(
            path,
            f"unknown label values {unknown}",
            f"{meaning}: {sorted(known)}",
            "check that the file belongs to this dataset and that -ref and -pred are not exchanged",
        )


def label_values(label_map: np.ndarray) -> set[int]:
    """Every value of a label map, background included."""
    flat = label_map.reshape(-1)
    counts = np.zeros(MAX_LABEL_VALUE + 1, np.int64)
    for start in range(0, flat.size, SLAB_VOXELS):
        counts += np.bincount(flat[start : start + SLAB_VOXELS], minlength=counts.size)
    return set(np.flatnonzero(counts).tolist())
