"""Label maps whose values mean sets of classes, so that overlapping classes survive in one map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from types import EllipsisType

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json

# Shapes: X Y Z voxels of one volume, in any axis order.

ClassSet = frozenset[str]  # of classes; "?" before a class: nothing is known about it (`unknown_of`)
Box = tuple[slice, ...] | EllipsisType
Region = int | tuple[int, ...]  # as nnU-Net has it
IGNORE = "ignore"
UNKNOWN = "unknown"  # key of dataset.json: class -> label values in whose voxels nothing is known about it
_MARK = "?"
UNDECLARED = (
    "correct the label file, or name the values in the source's label table; in a table of your own, "
    "'other_values: background' says that values without a class mean nothing"
)
SLAB_VOXELS = 1 << 22  # how many voxels are counted at once: bounds the memory of the counting
MAX_COUNTED = 1 << 16  # values farther apart are sorted instead of counted


def unknown_of(names: Iterable[str]) -> ClassSet:
    """What stands in a set of classes for those about which nothing is known."""
    return frozenset(_MARK + name for name in names)


def unknown_in(classes: Iterable[str]) -> ClassSet:
    """The classes about which nothing is known; the inverse of `unknown_of`."""
    return frozenset(name.removeprefix(_MARK) for name in classes if name.startswith(_MARK))


def plain(classes: Iterable[str]) -> ClassSet:
    """The classes that are there, without those about which nothing is known."""
    return frozenset(name for name in classes if not name.startswith(_MARK))


class ClassMap:
    """A label map and what its values mean.

    Attributes:
        values: (X, Y, Z) integer.
        sets: value -> the classes of its voxels, and with a mark (`unknown_of`) those that are unknown there; None:
            unknown for every class (nnU-Net's ignore label, outside an annotated box). 0 is background unless it is
            named. Values that are not named belong to no class.
    """

    def __init__(self, values: np.ndarray, sets: Mapping[int, Iterable[str] | None]):
        named = {int(value): None if names is None else frozenset(names) for value, names in sets.items()}
        self.values = values
        self.sets: dict[int, ClassSet | None] = {0: frozenset(), **named}

    @classmethod
    def of_masks(cls, shape: tuple[int, ...], masks: Iterable[tuple[np.ndarray, Iterable[str]]] = ()) -> ClassMap:
        """Masks that may overlap as one label map: one uint16 value for each set of classes that occurs.

        Args:
            masks: (bool array of `shape`, the classes that all its voxels have); taken one after the other, so that a
                generator holds one mask at a time.
        """
        found = cls(np.zeros(shape, np.uint16), {})
        for mask, classes in masks:
            found.add(classes, mask)
        return found

    @property
    def names(self) -> ClassSet:
        """Every class that a value stands for."""
        return plain(frozenset().union(*filter(None, self.sets.values())))

    def unknown_values(self, name: str | None = None) -> list[int]:
        """The values of voxels that are unknown for a class, or for every class."""
        mark = unknown_of(filter(None, [name]))
        return [value for value, classes in self.sets.items() if classes is None or mark & classes]

    def values_of(self, name: str) -> tuple[int, ...]:
        """Every value that contains the class."""
        return tuple(value for value, classes in self.sets.items() if classes and name in classes)

    def where(self, condition: Callable[[ClassSet], bool], box: Box = ...) -> np.ndarray:
        """(X, Y, Z) bool inside a box: the classes of the voxel fulfil a condition; False where nothing is known."""
        known = {value: classes for value, classes in self.sets.items() if classes is not None}
        return self.where_values((value for value, classes in known.items() if condition(plain(classes))), box)

    def where_values(self, chosen: Iterable[int], box: Box = ...) -> np.ndarray:
        """(X, Y, Z) bool inside a box: the voxels of some values."""
        return _lookup(self.values[box], dict.fromkeys(chosen, True), bool)

    def mask(self, name: str, box: Box = ...) -> np.ndarray:
        """(X, Y, Z) bool: the voxels of a class inside a box."""
        return self.where(lambda classes: name in classes, box)

    def known(self, name: str | None = None, box: Box = ...) -> np.ndarray | None:
        """(X, Y, Z) bool: the voxels of which something is known (about a class); None where no value means unknown."""
        unknown = self.unknown_values(name)
        return self.where_values(self.sets.keys() - unknown, box) if unknown else None

    def num_voxels(self) -> Counter[str]:
        """Class -> voxels, of all classes in one pass."""
        found: Counter[str] = Counter()
        for value, number in value_counts(self.values).items():
            for name in plain(self.sets.get(value) or ()):
                found[name] += number
        return found

    def require_declared(self, where: object, meaning: str = "values out of", remedy: str = "") -> list[int]:
        """The values that occur. Raises UserError: some of them mean nothing."""
        occurring = list(value_counts(self.values))
        unknown = sorted(set(occurring) - set(self.sets))
        if unknown:
            raise UserError(where, f"unknown label values {unknown}", f"{meaning} {sorted(self.sets)}", remedy)
        return occurring

    def add(self, classes: Iterable[str], mask: np.ndarray, box: Box = ...) -> None:
        """Add classes to the voxels of a mask that covers a box, in place; unknown voxels stay unknown."""
        classes, part = frozenset(classes), self.values[box]
        inside = part[mask]
        new = {value: self._value_with(value, classes) for value in value_counts(inside)}
        part[mask] = _lookup(inside, new, part.dtype)

    def _value_with(self, value: int, classes: ClassSet) -> int:
        """The value of a value's set and more classes; a new one for a set that had none."""
        before = self.sets[value]
        if before is None or classes <= before:
            return value
        return self._value_of((before | classes) - unknown_of(classes))

    def _value_of(self, united: ClassSet) -> int:
        found = next((other for other, names in self.sets.items() if names == united), None)
        if found is None:
            found = next(self._free)
            self.sets[found] = united
        return found

    @cached_property
    def _free(self) -> Iterator[int]:
        """Values that neither mean nor mark anything yet."""
        return count(max(*self.sets, int(self.values.max(initial=0))) + 1)

    def copy(self) -> ClassMap:
        """A copy with room for more values: 16 bits, or 64 where values are negative or need more."""
        is_small = self.values.dtype.kind == "u" and self.values.max(initial=0) < 2**15
        return ClassMap(self.values.astype(np.uint16 if is_small else np.int64), self.sets)

    def with_unknown(self, mask: np.ndarray) -> ClassMap:
        """A copy in which the voxels of a mask are unknown for every class."""
        found = self.copy()
        unknown = next(found._free)
        found.values[mask] = unknown
        found.sets[unknown] = None
        return found

    def with_sets(self, change: Callable[[ClassSet], Iterable[str]]) -> ClassMap:
        """The same voxels, with other classes for each known value; what is unknown stays so unless it is named."""

        def changed(classes: ClassSet) -> ClassSet:
            new = frozenset(change(plain(classes)))
            return new | (unknown_of(unknown_in(classes) - new))

        sets = {value: None if classes is None else changed(classes) for value, classes in self.sets.items()}
        return ClassMap(self.values, sets)

    def with_unknown_of(self, names: Collection[str]) -> ClassMap:
        """The same voxels; unknown are only these classes."""
        sets = {
            value: None if classes is None else plain(classes) | unknown_of(unknown_in(classes).intersection(names))
            for value, classes in self.sets.items()
        }
        return ClassMap(self.values, sets)

    def remap(self, table: LabelTable, where: object, unknown: int | None = None) -> np.ndarray:
        """(X, Y, Z) uint16 in the label values of a table.

        Args:
            where: file or case, for the error message.
            unknown: the new value of unknown voxels.

        Raises:
            UserError: a value occurs that means nothing.
            KeyError: a set that occurs is not in the table.
        """
        occurring = self.require_declared(where, remedy=UNDECLARED)
        new = {} if unknown is None else dict.fromkeys(self.unknown_values(), unknown)
        new |= {value: table.encode(classes) for value in occurring if (classes := self.sets[value]) is not None}
        assert new.keys() >= set(occurring), f"{where}: unknown voxels have no label value"
        return self.translated(new)

    def translated(self, new: Mapping[int, int]) -> np.ndarray:
        """(X, Y, Z) uint16: other values, 0 for those that have none in `new`."""
        return _lookup(self.values, new, np.uint16)


def _lookup(array: np.ndarray, new: Mapping[int, int], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Every value replaced, by 0 if `new` lacks it; small unsigned integers are looked up in a table."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        table = np.zeros(np.iinfo(array.dtype).max + 1, dtype)
        for value, other in new.items():
            if 0 <= value < table.size:
                table[value] = other
        return table[array]
    values = occurring_values(array)
    return np.array([new.get(value, 0) for value in values.tolist()], dtype)[np.searchsorted(values, array)]


def occurring_values(array: np.ndarray) -> np.ndarray:
    """As np.unique for integers."""
    return np.array(list(value_counts(array)), array.dtype)


def value_counts(array: np.ndarray) -> dict[int, int]:
    """Value -> number of elements, ascending; slab by slab, by counting instead of sorting where that is possible."""
    counts: Counter[int] = Counter()
    flat = array.ravel(order="K")
    for start in range(0, flat.size, SLAB_VOXELS):
        counts.update(_slab_counts(flat[start : start + SLAB_VOXELS]))
    return dict(sorted(counts.items()))


def _slab_counts(slab: np.ndarray) -> dict[int, int]:
    low, high = int(slab.min()), int(slab.max())
    if high - low >= MAX_COUNTED or high >= 2**63:
        values, counts = np.unique(slab, return_counts=True)
    else:
        counts = np.bincount(np.subtract(slab, low, dtype=np.int64))
        values = np.flatnonzero(counts)
        values, counts = values + low, counts[values]
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def static_class_sets() -> tuple[ClassSet, ...]:
    """The sets whose label values are the same for all users: position + 1 is the label value.

    1..32 are the universal classes alone, then each sub-structure together with each organ that can hold it.
    Changing this order would make merges of different versions disagree: only append.
    """
    alone = [frozenset({row.name}) for row in UNIVERSAL]
    pairs = [frozenset({row.name, parent}) for row in UNIVERSAL for parent in row.parents]
    return tuple(alone + pairs)


def ordered_sets(class_sets: Iterable[ClassSet]) -> tuple[ClassSet, ...]:
    """Distinct sets without the empty one, small ones first, then by name."""
    return tuple(sorted(set(class_sets) - {frozenset()}, key=lambda classes: (len(classes), sorted(classes))))


@dataclass(frozen=True)
class LabelTable:
    """Which label value stands for which set of classes; 0 is the empty set (background).

    Build it with `LabelTable.of(class_sets)`. `encode` and `sets` are exact inverses for every set of the table.
    """

    class_sets: tuple[ClassSet, ...]

    def __post_init__(self):
        assert len({frozenset(), *self.class_sets}) == len(self.sets), "a set of classes has two label values"

    @cached_property
    def _values(self) -> dict[ClassSet, int]:
        return {classes: value for value, classes in self.sets.items()}

    @classmethod
    def of(cls, class_sets: Iterable[Iterable[str]] = ()) -> LabelTable:
        """The static table plus every set of `class_sets` that it lacks, in an order that depends on the sets only."""
        static = static_class_sets()
        return cls(static + ordered_sets({frozenset(classes) for classes in class_sets} - set(static)))

    def extended(self, new: Iterable[ClassSet]) -> LabelTable:
        """This table and more sets.

        nnU-Net wants its ignore label directly above the highest value of all regions. Sets of which nothing but
        unknown classes is told are in no region, and come after that.
        """
        sets = ordered_sets(new)
        above = tuple(classes for classes in sets if not plain(classes))
        declared = tuple(classes for classes in sets if plain(classes))
        return LabelTable(self.class_sets + declared + ((frozenset({IGNORE}), *above) if above else ()))

    @property
    def sets(self) -> dict[int, ClassSet]:
        """Label value -> set of classes, as a `ClassMap` has it."""
        return dict(enumerate((frozenset(), *self.class_sets)))

    def encode(self, classes: Iterable[str]) -> int:
        """The label value of a set of classes. Raises KeyError: the set is not in the table."""
        return self._values[frozenset(classes)]

    def values_of(self, name: str) -> tuple[int, ...]:
        """Every label value that contains the class: its nnU-Net region."""
        return tuple(value for value, classes in enumerate(self.class_sets, start=1) if name in classes)


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
        labels[IGNORE] = max(map(max, map(region_values, labels.values()))) + 1  # what nnU-Net demands
    return labels, [row.index for row in rows]


def unknown_labels(table: LabelTable, taxonomy: Taxonomy) -> dict[str, list[int]]:
    """The entry `unknown` of dataset.json: class -> label values in whose voxels nothing is known about it."""
    found = {name: list(table.values_of(mark)) for name in taxonomy.names for mark in unknown_of([name])}
    return {name: values for name, values in found.items() if values}


def region_values(region: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """The label values of one entry of `labels`, as they stand there."""
    return tuple(region) if isinstance(region, list | tuple) else (region,)


def classes_of_regions(labels: Mapping) -> dict[Region, str]:
    """nnU-Net's key in `class_locations` of a preprocessed case -> class."""
    regions = {name: labels[name] for name in class_names(labels)}
    return {tuple(region) if isinstance(region, list) else region: name for name, region in regions.items()}


def label_sets(
    labels: Mapping,
    where: object = "dataset.json",
    taxonomy: Taxonomy | None = None,
    unknown: Mapping[str, list[int]] | None = None,
) -> dict[int, ClassSet | None]:
    """The entry `labels` of a dataset.json as a `ClassMap` has it: label value -> classes, None for the ignore label.

    Args:
        taxonomy: gives the names of classes that stand there by an alias.
        unknown: the entry `unknown`.

    Raises:
        UserError: a region without label values, or a class that is not in the taxonomy.
    """
    sets: dict[int, ClassSet] = {0: frozenset()}
    if not isinstance(unknown or {}, Mapping):
        raise UserError(where, f"'unknown' is {unknown!r}", "a table class -> label values")
    entries = [(name, labels[name], frozenset) for name in class_names(labels)]
    entries += [(name, values, unknown_of) for name, values in (unknown or {}).items()]
    for name, region, meaning in entries:
        own = meaning({taxonomy.find(name, where).name if taxonomy else name})
        for value in region_values(region):
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise UserError(where, f"the label values of {name!r} are {region!r}", "integers above 0")
            sets[value] = sets.get(value, frozenset()) | own
    ignore = {labels[IGNORE]: None} if IGNORE in labels else {}
    return dict(sorted({**sets, **ignore}.items()))


def class_names(labels: Mapping) -> tuple[str, ...]:
    """The classes of a dataset.json in channel order."""
    return tuple(name for name in labels if name not in ("background", IGNORE))


def load_dataset_json(path: Path, remedy: str) -> dict:
    """nnU-Net's dataset.json. Raises UserError: not there, no JSON, or without `labels`."""
    return require_labels(read_json(path, remedy), path)


def require_labels(content: object, where: object) -> dict:
    """The content of a dataset.json. Raises UserError: it holds no table `labels`."""
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise UserError(where, "has no table 'labels'", "nnU-Net's dataset.json", "take it from the dataset or model")
    return content
