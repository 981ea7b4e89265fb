"""Label values: one integer per set of classes, so that overlapping classes survive in one label map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json

ClassSet = frozenset[str]
IGNORE = "ignore"


def static_class_sets() -> tuple[ClassSet, ...]:
    """The sets whose label values are the same for all users: position + 1 is the label value.

    1..32 are the universal classes alone, then each sub-structure together with each organ that can hold it.
    Changing this order would make merges of different versions disagree: only append.
    """
    alone = [frozenset({row.name}) for row in UNIVERSAL]
    pairs = [frozenset({row.name, parent}) for row in UNIVERSAL for parent in row.parents]
    return tuple(alone + pairs)


@dataclass(frozen=True)
class LabelTable:
    """Which label value stands for which set of classes; 0 is the empty set (background).

    Build it with `LabelTable.of(class_sets)`. `encode` and `decode` are exact inverses for every set of the table.
    """

    class_sets: tuple[ClassSet, ...]
    _values: dict[ClassSet, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        values = {frozenset(): 0}
        values.update({classes: value for value, classes in enumerate(self.class_sets, start=1)})
        assert len(values) == len(self.class_sets) + 1, "a set of classes has two label values"
        object.__setattr__(self, "_values", values)

    @classmethod
    def of(cls, class_sets: Iterable[Iterable[str]] = ()) -> LabelTable:
        """The static table plus every set of `class_sets` that it lacks, in an order that depends on the sets only."""
        static = static_class_sets()
        unseen = {frozenset(classes) for classes in class_sets} - set(static) - {frozenset()}
        return cls(static + tuple(sorted(unseen, key=lambda classes: (len(classes), sorted(classes)))))

    @property
    def max_value(self) -> int:
        return len(self.class_sets)

    def encode(self, classes: Iterable[str]) -> int:
        """The label value of a set of classes.

        Raises:
            KeyError: the set is not in the table.
        """
        return self._values[frozenset(classes)]

    def decode(self, value: int) -> ClassSet:
        """The set of classes of a label value.

        Raises:
            IndexError: the value is not in the table.
        """
        if value == 0:
            return frozenset()
        if not 0 < value <= len(self.class_sets):
            raise IndexError(value)
        return self.class_sets[value - 1]

    def values_of(self, name: str) -> tuple[int, ...]:
        """Every label value that contains the class: its nnU-Net region."""
        return tuple(value for value, classes in enumerate(self.class_sets, start=1) if name in classes)

    def remap(self, label_map: np.ndarray, classes_of: Mapping[int, Iterable[str]], where: object) -> np.ndarray:
        """A source's label map in our label values.

        Args:
            label_map: integer array of any shape.
            classes_of: source value -> classes; 0 need not be named.
            where: file or case, for the error message.

        Raises:
            UserError: the label map holds a value that is not in `classes_of`.
        """
        values = occurring_values(label_map)
        known = {0: (), **classes_of}
        unknown = sorted(set(values.tolist()) - set(known))
        if unknown:
            raise UserError(
                where,
                f"unknown label values {unknown}",
                f"values out of {sorted(known)}",
                "correct the label file, or add the values to the source's label table",
            )
        ours = np.array([self.encode(known[int(value)]) for value in values], dtype=np.uint16)
        if _is_small(label_map):
            table = np.zeros(int(values[-1]) + 1, dtype=np.uint16)
            table[values] = ours
            return table[label_map]
        return ours[np.searchsorted(values, label_map)]

    def membership(self, names: Iterable[str], num_values: int | None = None) -> np.ndarray:
        """(V, K) bool: does label value v contain class k. Rows beyond the table (ignore) are False."""
        names = list(names)
        rows = np.zeros((num_values or self.max_value + 1, len(names)), dtype=bool)
        for k, name in enumerate(names):
            rows[list(self.values_of(name)), k] = True
        return rows


def overlay(shape: tuple[int, ...], masks: Iterable[tuple[np.ndarray, Iterable[str]]]) -> tuple[np.ndarray, dict]:
    """Masks that may overlap as one label map: one value for each set of classes that occurs.

    Args:
        masks: (bool array of `shape`, the classes that all its voxels have); taken one after the other, so that a
            generator holds one mask at a time.

    Returns:
        uint16 label map, and label value -> set of classes; 0 is the empty set.
    """
    label_map = np.zeros(shape, dtype=np.uint16)
    class_sets: list[ClassSet] = [frozenset()]
    for mask, classes in masks:
        before = label_map[mask]
        after = np.arange(len(class_sets), dtype=np.uint16)
        for value in np.unique(before):
            united = class_sets[value].union(classes)
            if united not in class_sets:
                class_sets.append(united)
            after[value] = class_sets.index(united)
        label_map[mask] = after[before]
    return label_map, dict(enumerate(class_sets))


def occurring_values(label_map: np.ndarray) -> np.ndarray:
    """As np.unique, by ticking off instead of sorting where the values are small."""
    if not _is_small(label_map):
        return np.unique(label_map)
    occurs = np.zeros(np.iinfo(label_map.dtype).max + 1, dtype=bool)
    occurs[label_map] = True
    return np.flatnonzero(occurs)


def _is_small(label_map: np.ndarray) -> bool:
    return label_map.dtype.kind == "u" and label_map.dtype.itemsize <= 2


def nnunet_labels(table: LabelTable, taxonomy: Taxonomy, declared: Iterable[str], ignore: bool) -> tuple[dict, list]:
    """The entries `labels` and `regions_class_order` of dataset.json.

    Args:
        declared: the classes that become output channels. A merge declares its whole taxonomy, annotated somewhere
            or not: so the declared values have no gap, which nnU-Net's integrity check demands, and two merges agree.
            (The network never predicts a class that it was not trained on.)
        ignore: some voxel is unknown for every class.

    Returns:
        labels: background, then every declared class as a region in painting order, then ignore.
        regions_class_order: the universal index of each region, in the same order.
    """
    rows = taxonomy.subset(declared)
    labels: dict = {"background": 0}
    labels.update({row.name: list(table.values_of(row.name)) for row in rows})
    if rows and all(len(labels[row.name]) == 1 for row in rows):
        # nnU-Net trains regions (one-vs-all sigmoid) only if one of them lists more than one value.
        labels[rows[0].name] = labels[rows[0].name] * 2
    if ignore:
        labels[IGNORE] = ignore_value(labels)
    return labels, [row.index for row in rows]


def ignore_value(labels: Mapping) -> int:
    """The value that nnU-Net demands for its ignore label: one above every declared value."""
    values = [labels[name] for name in labels if name != IGNORE]
    return max(max(value) if isinstance(value, list | tuple) else value for value in values) + 1


def class_names(labels: Mapping) -> tuple[str, ...]:
    """The classes of a dataset.json in channel order."""
    return tuple(name for name in labels if name not in ("background", IGNORE))


def load_dataset_json(path: Path, remedy: str) -> dict:
    """nnU-Net's dataset.json.

    Raises:
        UserError: not there, no JSON, or without `labels`.
    """
    return require_labels(read_json(path, remedy), path)


def require_labels(content: object, where: object) -> dict:
    """The content of a dataset.json. Raises UserError: it holds no table `labels`."""
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise UserError(where, "has no table 'labels'", "nnU-Net's dataset.json", "take it from the dataset or model")
    return content
