"""Label files as they come (label map, painted label map, folder of masks) in one form for all metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.boxes import Box, union_box
from nnunetv2_clip.imaging.nifti import SUFFIXES, Geometry, read_label_map, stem
from nnunetv2_clip.labels import (
    UNKNOWN,
    ClassMap,
    ClassSet,
    class_names,
    label_sets,
    occurring_values,
    plain,
    region_values,
)
from nnunetv2_clip.painting import unpaint

# Shapes: X Y Z voxels of one volume along the file's axes (nibabel's order, turned to RAS).

MAX_LABEL_VALUE = 4095  # beyond this a file is no label map; keeps the tables over label values small
FOREIGN = "check that the file belongs to this dataset and that -ref and -pred are not exchanged"


class LabelVolume(ClassMap):
    """Labels and their grid; once a box was asked for, nothing may be added."""

    def __init__(self, values: np.ndarray, sets: Mapping[int, Iterable[str] | None], grid: Geometry):
        super().__init__(values, sets)
        self.grid = grid

    @cached_property
    def _boxes(self) -> list[Box | None]:
        """Position v: the box of label value v + 1; one pass for all values."""
        return ndimage.find_objects(self.values)

    def box(self, name: str) -> Box | None:
        """The smallest box around a class, None when it has no voxel."""
        return union_box(self._boxes[value - 1] for value in self.values_of(name) if value <= len(self._boxes))


def known_masks(first: LabelVolume, second: LabelVolume, name: str, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """A class on both sides inside a box, without the voxels that either side calls unknown."""
    masks = first.mask(name, box), second.mask(name, box)
    for known in (side.known(name, box) for side in (first, second)):
        if known is not None:
            masks = masks[0] & known, masks[1] & known
    return masks


@dataclass(frozen=True)
class LabelCoding:
    """Label maps in the label values of a dataset.json: raw labelsTr, gt_segmentations.

    Attributes:
        sets: as `label_sets` reads them.
    """

    sets: Mapping[int, ClassSet | None]

    @classmethod
    def of(
        cls, labels: Mapping, taxonomy: Taxonomy, where: object, unknown: Mapping[str, list[int]] | None = None
    ) -> LabelCoding:
        """From the entries `labels` and `unknown` of a dataset.json; raises as `label_sets`."""
        return cls(label_sets(labels, where, taxonomy, unknown))

    @property
    def names(self) -> ClassSet:
        """The classes that the label values can show."""
        return plain(frozenset().union(*filter(None, self.sets.values())))

    def read(self, path: Path) -> LabelVolume:
        """Raises UserError: unreadable, no integers, or a label value that dataset.json does not declare."""
        label_map, grid = read_labels(path)
        volume = LabelVolume(label_map, self.sets, grid)
        volume.require_declared(path, "the label values of dataset.json:", FOREIGN)
        return volume


@dataclass(frozen=True)
class PaintedCoding:
    """Painted label maps: what nnUNetv2_predict writes for regions; see `painting.unpaint` for the rule.

    Attributes:
        names: the classes that the model knows; empty: all.
        values: painted value -> class; None: the universal indices.
    """

    taxonomy: Taxonomy
    names: tuple[str, ...] = ()
    values: Mapping[int, str] | None = None

    def read(self, path: Path) -> LabelVolume:
        """Raises UserError: unreadable, no integers, or a value that no class has."""
        painted, grid = read_labels(path)
        universal = {row.index: row.name for row in self.taxonomy}
        values = universal if self.values is None else self.values
        found = ClassMap(painted, {value: {name} for value, name in values.items()})
        found.require_declared(path, "painted values:" if self.values else "universal indices:", FOREIGN)
        if self.values is not None:
            painted = found.translated({value: self.taxonomy.find(name).index for value, name in values.items()})
        unpainted = unpaint(painted, self.taxonomy, self.names or self.taxonomy.names, grid.spacing_mm)
        return LabelVolume(unpainted.values, unpainted.sets, grid)


def coding_of(
    dataset_json: Mapping, taxonomy: Taxonomy, where: object, painted: bool, names: Iterable[str] | None = None
) -> LabelCoding | PaintedCoding:
    """How to read label maps to which a dataset.json belongs: the one place that decides.

    nnU-Net's labels and predictions hold the label values of dataset.json. Only if it declares regions of several
    values, predictions are painted with the values of `regions_class_order`, which for our models are the universal
    indices.

    Args:
        painted: the label maps are predictions.
        names: the classes that the model has learnt; None: all of dataset.json.

    Raises:
        UserError: a class that the taxonomy lacks, or regions without their order.
    """
    labels = dataset_json["labels"]
    if not painted or not any(len(region_values(region)) > 1 for region in labels.values()):
        return LabelCoding.of(labels, taxonomy, where, dataset_json.get(UNKNOWN))
    classes = [taxonomy.find(name, where) for name in class_names(labels)]
    order = dataset_json.get("regions_class_order")
    if not isinstance(order, list) or len(set(map(str, order))) != len(classes):
        expected = f"a value for each of the {len(classes)} regions"
        raise UserError(where, f"regions_class_order is {order}", expected, "take the dataset.json of the model")
    known = tuple(row.name for row in classes) if names is None else tuple(taxonomy.find(n, where).name for n in names)
    if order == [row.index for row in classes]:
        return PaintedCoding(taxonomy, known)
    return PaintedCoding(taxonomy, known, {value: row.name for value, row in zip(order, classes, strict=True)})


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
        found = None
        for name, path in files.items():
            mask, grid = read_labels(path)
            found = found or LabelVolume(np.zeros(grid.shape, np.uint16), {}, grid)
            difference = grid.difference(found.grid)
            if difference:
                raise UserError(path, f"lies on another grid than the other masks: {difference}", "one grid")
            if len(values := occurring_values(mask)) > 2:
                raise UserError(path, f"holds the values {values[:6].tolist()}", "a mask of 0 and one other value")
            found.add({name}, mask != 0)
        assert found is not None  # there are files
        return found


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """(X, Y, Z) uint8 or uint16 and its grid, turned to the axes nearest to RAS.

    Raises:
        UserError: unreadable, not three-dimensional, or with values that are no small integers.
    """
    volume = read_label_map(path)
    low, high = int(volume.data.min()), int(volume.data.max())
    if low < 0 or high > MAX_LABEL_VALUE:
        raise UserError(path, f"has values from {low} to {high}", f"label values from 0 to {MAX_LABEL_VALUE}")
    turned = volume.turned_to_ras()
    return np.ascontiguousarray(turned.data, np.uint8 if high < 256 else np.uint16), turned.geometry
