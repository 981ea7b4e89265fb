"""A lesion of a paired organ that was drawn without its organ belongs to the organ that it touches.

`complete` adds the liver to a liver tumour. Of a kidney tumour the side must be known first: where a source draws it
under a value of its own beside a right and a left kidney, position decides.
"""

# Shapes: X Y Z voxels in the image's own axis order.

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.laterality import MidPlane, Sides, find_midplane, side_of_lesions
from nnunetv2_clip.conversion.source import CT, LoadedCase, Source, SourceCase
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import occurring_values

Joined = tuple[np.ndarray, dict[int, frozenset[str]], tuple[str, ...], tuple[str, ...]]


def load_case(source: Source, case: SourceCase, taxonomy: Taxonomy) -> LoadedCase:
    """The case as its source reads it, each such lesion with the organ of its side."""
    loaded = source.load_case(case)
    label_map, classes_of, annotated, notes = join_organs(
        loaded.label_map,
        loaded.classes_of,
        loaded.annotated,
        taxonomy,
        (lambda: loaded.image) if source.modality == CT else None,
    )
    if label_map is loaded.label_map and annotated == loaded.annotated:
        return loaded
    fixes = (*loaded.fixes, *notes)
    return replace(loaded, label_map=label_map, classes_of=classes_of, annotated=annotated, fixes=fixes)


def join_organs(
    label_map: np.ndarray,
    classes_of: Mapping[int, Iterable[str]],
    annotated: Collection[str],
    taxonomy: Taxonomy,
    read_image: Callable[[], Volume] | None,
) -> Joined:
    """Give each such lesion the organ of its side, where both organs are annotated.

    Args:
        label_map: (X, Y, Z) integers.
        classes_of: value -> classes.
        read_image: gives the CT; called only for a lesion that touches not just one of the organs. None: no CT.

    Returns:
        Label map, classes_of and annotated classes as they are now, and what is doubtful, in words. A pair is no
        longer annotated when the side of a lesion is uncertain.
    """
    classes_of = {int(value): frozenset(classes) for value, classes in classes_of.items()}
    annotated, notes = tuple(annotated), []
    for right, left in pairs_of(taxonomy):
        if not {right, left} <= set(annotated):
            continue
        values = {value for value, classes in classes_of.items() if lacks_organ(classes, (right, left), taxonomy)}
        occurring = set(occurring_values(label_map).tolist()) if values else set()
        values = sorted(values & occurring)
        if not values:
            continue
        parts = _sides(label_map, classes_of, values, (right, left), read_image)
        if parts is None:
            annotated = tuple(name for name in annotated if name not in (right, left))
            notes.append(
                f"{right} and {left} not annotated: the side of a lesion that touches neither or both is not certain"
            )
            continue
        free = (value for value in count(max(classes_of) + 1) if value not in occurring)
        label_map = label_map.astype(np.int64)
        for value in values:
            of_value = label_map == value
            for side, part in zip((right, left), parts, strict=True):
                new = next(free)
                label_map[of_value & part] = new
                classes_of[new] = classes_of[value] | {side}
    return label_map, classes_of, annotated, tuple(notes)


def pairs_of(taxonomy: Taxonomy) -> list[tuple[str, str]]:
    """(right, left) of all paired classes; which is which, the names tell."""
    return [(row.name, row.partner) for row in taxonomy if row.partner and "right" in row.name]


def lacks_organ(classes: frozenset[str], organs: tuple[str, str], taxonomy: Taxonomy) -> bool:
    """Among the classes of a voxel is a lesion of these paired organs, but neither organ."""
    return classes.isdisjoint(organs) and any(set(organs) == set(taxonomy.find(name).parents) for name in classes)


def _sides(label_map, classes_of, values, organs, read_image) -> tuple[np.ndarray, np.ndarray] | None:
    """(right, left) of the lesions; None where that is not certain."""
    masks = [
        np.isin(label_map, [value for value, classes in classes_of.items() if organ in classes]) for organ in organs
    ]
    lesion = np.isin(label_map, values)
    # A plane left of everything and one right of everything give the same where touching decides alone.
    by_touch = [side_of_lesions(lesion, Sides(*masks, True, "", _plane(label_map, x))) for x in (-np.inf, np.inf)]
    if (by_touch[0][0] == by_touch[1][0]).all():
        return by_touch[0]
    if read_image is None:
        return None
    plane = find_midplane(read_image())
    return side_of_lesions(lesion, Sides(*masks, True, "", plane)) if plane.is_certain else None


def _plane(label_map: np.ndarray, x: float) -> MidPlane:
    return MidPlane(np.full(label_map.shape[2], x), np.eye(4), True, "")
