"""A lesion of a paired organ that was drawn without its organ belongs to the organ that it touches.

`complete` adds the liver to a liver tumour. Of a kidney tumour the side must be known first: where a source draws it
under a value of its own beside a right and a left kidney, position decides.
"""

# Shapes: X Y Z voxels in the image's own axis order.

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.laterality import MidPlane, Sides, find_midplane, side_of_lesions
from nnunetv2_clip.conversion.source import LoadedCase, Source, SourceCase
from nnunetv2_clip.imaging.intake import CT
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap, occurring_values, plain


def load_case(source: Source, case: SourceCase, taxonomy: Taxonomy) -> LoadedCase:
    """The case as its source reads it, each such lesion with the organ of its side."""
    loaded = source.load_case(case)
    read_image = (lambda: loaded.image) if source.modality == CT else None
    return loaded.with_drawn(*join_organs(loaded.labels, loaded.drawn, taxonomy, read_image))


def join_organs(
    labels: ClassMap, drawn: Collection[str], taxonomy: Taxonomy, read_image: Callable[[], Volume] | None
) -> tuple[ClassMap, tuple[str, ...], tuple[str, ...]]:
    """Give each such lesion the organ of its side, where both organs are drawn.

    Args:
        read_image: gives the CT; called only for a lesion that touches not just one of the organs. None: no CT.

    Returns:
        Labels and drawn classes as they are now, and what is doubtful, in words. A pair is no longer among these when
        the side of a lesion is uncertain.
    """
    drawn, notes = tuple(drawn), []
    for right, left in pairs_of(taxonomy):
        if not {right, left} <= set(drawn):
            continue
        lonely = [value for value, classes in labels.sets.items() if lacks_organ(classes, (right, left), taxonomy)]
        if not lonely or not np.isin(lonely, occurring_values(labels.values)).any():
            continue
        parts = _sides(labels, np.isin(labels.values, lonely), (right, left), read_image)
        if parts is None:
            drawn = tuple(name for name in drawn if name not in (right, left))
            notes.append(
                f"{right} and {left} not annotated: the side of a lesion that touches neither or both is not certain"
            )
            continue
        labels = labels.copy()
        labels.add({right}, parts[0])
        labels.add({left}, parts[1])
    return labels, drawn, tuple(notes)


def pairs_of(taxonomy: Taxonomy) -> list[tuple[str, str]]:
    """(right, left) of all paired classes."""
    return [(row.name, row.partner) for row in taxonomy if row.partner and row.side == "right"]


def lacks_organ(classes: frozenset[str] | None, organs: tuple[str, str], taxonomy: Taxonomy) -> bool:
    """Among the classes of a voxel is a lesion of these paired organs, but neither organ."""
    classes = plain(classes or ())
    return classes.isdisjoint(organs) and any(set(organs) == set(taxonomy.find(name).parents) for name in classes)


def _sides(
    labels: ClassMap, lesion: np.ndarray, organs: tuple[str, str], read_image: Callable[[], Volume] | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """(right, left) of the lesions; None where that is not certain."""
    masks = [labels.mask(organ) for organ in organs]
    # A plane left of everything and one right of everything give the same where touching decides alone.
    by_touch = [side_of_lesions(lesion, Sides(*masks, True, "", _plane(lesion, x))) for x in (-np.inf, np.inf)]
    if (by_touch[0][0] == by_touch[1][0]).all():
        return by_touch[0]
    if read_image is None:
        return None
    plane = find_midplane(read_image())
    return side_of_lesions(lesion, Sides(*masks, True, "", plane)) if plane.is_certain else None


def _plane(mask: np.ndarray, x: float) -> MidPlane:
    return MidPlane(np.full(mask.shape[2], x), np.eye(4), True, "")
