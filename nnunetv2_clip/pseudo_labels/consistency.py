"""What the truth of a voxel says about a class that nobody annotated there, and the label map that holds both."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.inference.masks import Box
from nnunetv2_clip.labels import ClassSet
from nnunetv2_clip.painting import Unpainted, paint


def can_hold(name: str, truth: ClassSet, known: Iterable[str], taxonomy: Taxonomy) -> bool:
    """Can a voxel belong to a class, as far as the truth tells.

    It cannot where an annotated class excludes it, and where none of the organs that could hold it can be: no liver
    tumour outside an annotated liver.

    Args:
        truth: the classes that are annotated in the voxel.
        known: the classes whose truth is known in this case.
    """
    if name in frozenset(known):
        return name in truth
    if any(taxonomy.exclude_each_other(name, other) for other in truth):
        return False
    parents = taxonomy.find(name).parents
    return not parents or any(can_hold(parent, truth, known, taxonomy) for parent in parents)


@dataclass(eq=False)
class CodedMap:
    """A label map under construction: each voxel holds the position of its set of classes.

    Attributes:
        codes: (X, Y, Z) uint16.
        sets: the set of classes of each code; None: unknown for every class (nnU-Net's ignore label).
    """

    codes: np.ndarray
    sets: list[ClassSet | None]

    def which(self, condition) -> np.ndarray:
        """(number of codes,) bool: the sets that fulfil a condition; False where nothing is known."""
        return np.array([classes is not None and bool(condition(classes)) for classes in self.sets])

    def mask(self, name: str) -> np.ndarray:
        """(X, Y, Z) bool: the voxels of a class."""
        return self.which(lambda classes: name in classes)[self.codes]

    def add(self, name: str, mask: np.ndarray, box: Box = (slice(None),) * 3) -> None:
        """Add a class to the voxels of a mask; unknown ones stay unknown."""
        part = self.codes[box]
        before = part[mask]
        after = np.arange(len(self.sets), dtype=np.uint16)
        for code in np.unique(before):
            classes = self.sets[code]
            if classes is not None and name not in classes:
                after[code] = self._code(classes | {name})
        part[mask] = after[before]

    def _code(self, classes: ClassSet) -> int:
        if classes not in self.sets:
            self.sets.append(classes)
        return self.sets.index(classes)

    def num_voxels(self, name: str) -> int:
        counts = np.bincount(self.codes.ravel(), minlength=len(self.sets))
        return int(counts[self.which(lambda classes: name in classes)].sum())


def complete_organs(
    coded: CodedMap,
    known: Iterable[str],
    predicted: dict[str, tuple[Box, np.ndarray] | None],
    kept: Iterable[str],
    taxonomy: Taxonomy,
    spacing_mm: Sequence[float],
) -> None:
    """Give the voxels of every sub-structure to the organ that holds it, where that organ is a pseudo label.

    Of several possible organs (a kidney tumour: right or left kidney) each component goes to the one that it touches
    most, else to the nearest (painting.Unpainted). Organs whose truth is known stay as they are.

    Args:
        known: classes whose truth is known.
        predicted: class -> (box, mask in it) of every class that was predicted; None: nowhere.
        kept: the predicted classes that are pseudo labels of this case.
    """
    known, kept = frozenset(known), frozenset(kept)
    for row in reversed(taxonomy.painting_order()):
        open_parents = [parent for parent in row.parents if parent not in known]
        if not kept.intersection(open_parents) or not set(open_parents) <= set(predicted):
            continue
        own, parents = row.name, set(row.parents)
        stray = coded.which(lambda classes: own in classes and not parents & classes)[coded.codes]  # noqa: B023
        if not stray.any():
            continue
        organs = {name: coded.mask(name) if name in kept else _whole(predicted[name], stray) for name in open_parents}
        painted = paint({**{name: mask & ~stray for name, mask in organs.items()}, own: stray}, taxonomy)
        shared = Unpainted(painted, taxonomy, [own, *open_parents], spacing_mm)
        for parent in kept.intersection(open_parents):
            coded.add(parent, shared.mask(parent) & stray)


def _whole(found: tuple[Box, np.ndarray] | None, like: np.ndarray) -> np.ndarray:
    mask = np.zeros(like.shape, bool)
    if found is not None:
        mask[found[0]] = found[1]
    return mask
