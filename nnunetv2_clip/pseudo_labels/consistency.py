"""What the truth of a voxel says about a class that nobody annotated there."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.inference.masks import Box
from nnunetv2_clip.labels import ClassMap, ClassSet
from nnunetv2_clip.painting import paint, unpaint


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


def complete_organs(
    labels: ClassMap,
    known: Iterable[str],
    predicted: dict[str, tuple[Box, np.ndarray] | None],
    kept: Iterable[str],
    taxonomy: Taxonomy,
    spacing_mm: Sequence[float],
) -> None:
    """Give the voxels of every sub-structure to the organ that holds it, where that organ is a pseudo label.

    Of several possible organs (a kidney tumour: right or left kidney) each component goes to the one that it touches
    most, else to the nearest (painting.unpaint). Organs whose truth is known stay as they are.

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
        stray = labels.where(lambda classes: own in classes and not parents & classes)  # noqa: B023
        if not stray.any():
            continue
        organs = {name: labels.mask(name) if name in kept else _whole(predicted[name], stray) for name in open_parents}
        painted = paint({**{name: mask & ~stray for name, mask in organs.items()}, own: stray}, taxonomy)
        shared = unpaint(painted, taxonomy, [own, *open_parents], spacing_mm)
        for parent in kept.intersection(open_parents):
            labels.add({parent}, shared.mask(parent) & stray)


def _whole(found: tuple[Box, np.ndarray] | None, like: np.ndarray) -> np.ndarray:
    mask = np.zeros(like.shape, bool)
    if found is not None:
        mask[found[0]] = found[1]
    return mask
