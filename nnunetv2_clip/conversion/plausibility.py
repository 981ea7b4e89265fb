"""Classes against reality: does a source hold what its table says, by occurrence, volume and side.

A release with other label values under the same names (or a slip in a table made by hand) gives classes that never
occur, an esophagus of two litres, or a right kidney on the left. Organs that the border of the image cuts, and organs
outside the field of view, are no reason for doubt.
"""

# Shapes: X Y Z voxels in the image's own axis order; positions in mm, RAS.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.classes import ClassRow, Taxonomy
from nnunetv2_clip.conversion.laterality import find_midplane
from nnunetv2_clip.conversion.lesions import pairs_of
from nnunetv2_clip.imaging.anatomy import MIN_DISTANCE_MM, organs_on_wrong_side
from nnunetv2_clip.imaging.body import COARSE_MM, find_body, ras_spacing
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap, unknown_in, value_counts

FAR = 8.0  # times larger or smaller than usual
MIN_LARGE = 2  # for the median of something too large
MIN_CASES = 3  # for other medians, for an organ whose neighbours are seen, and where no class of the source occurs
MIN_CASES_UNSURE = 30  # where no neighbour tells that the organ is in the field of view, or not everybody has it
MIN_CASES_OF_PART = 100  # for lesions, which may be rare
MIN_WHOLE = 1 / 3  # of the neighbours
NOT_EVERYBODYS = ("prostate",)
NEIGHBOURS = (  # what is whole in an image brings the others into the field of view
    ("right_lung", "left_lung", "esophagus", "aorta"),
    (
        *("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "pancreas", "duodenum"),
        *("right_adrenal_gland", "left_adrenal_gland", "aorta", "postcava", "portal_and_splenic_vein"),
        *("celiac_trunk", "colon", "intestine"),
    ),
    ("rectum", "bladder", "prostate", "left_femur_head", "right_femur_head"),
)
MIN_WRONG_OF_PLANE_MM = 25.0  # of a single organ beyond the mid-plane
MAX_CUT = 0.4  # of the body's outline from the side: more than skin lies beyond the border of the image
SUSPECT = "; does its label value mean another class in this release? Compare the label maps with the table of values"


@dataclass(frozen=True)
class Extent:
    """What a class takes up in one case.

    Attributes:
        ml: its volume.
        is_cut: it touches the border of the image, or unknown voxels.
        centre_mm: mean position; None where a coarse look does not see it.
    """

    ml: float
    is_cut: bool
    centre_mm: tuple[float, float, float] | None

    @classmethod
    def of(cls, content: dict) -> Extent:
        """From the table that `asdict` made of it."""
        centre = content["centre_mm"]
        return cls(**{**content, "centre_mm": centre and tuple(centre)})


Seen = tuple[Collection[str], Mapping[str, Extent]]  # annotated classes of a case, and what occurs in it


def extents_of(labels: ClassMap, affine: np.ndarray) -> dict[str, Extent]:
    """Class -> extent, of every class that occurs.

    Args:
        affine: (4, 4) of the label map, voxel index -> RAS mm.
    """
    counts = value_counts(labels.values)
    cut = {value for part in _at_borders(labels) for value in value_counts(part)}
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    sums = _sums(labels.values, affine)
    found = {}
    for name in sorted(labels.names):
        values = [value for value in labels.values_of(name) if value in counts]
        if values:
            total = np.sum([sums[value] for value in values if value in sums], axis=0)
            centre = tuple(np.round(total[:3] / total[3], 1).tolist()) if np.ndim(total) else None
            ml = round(sum(counts[value] for value in values) * voxel_ml, 4)
            found[name] = Extent(ml, not cut.isdisjoint(values), centre)
    return found


def _at_borders(labels: ClassMap) -> Iterator[np.ndarray]:
    """Values at the borders of the image, and of what is known."""
    partly = {value: None for value, classes in labels.sets.items() if classes and unknown_in(classes)}
    known = ClassMap(labels.values, labels.sets | partly).known()
    for axis in range(3):
        values = np.moveaxis(labels.values, axis, 0)
        yield values[[0, -1]]
        if known is not None:
            unknown = ~np.moveaxis(known, axis, 0)
            yield values[1:][unknown[:-1]]
            yield values[:-1][unknown[1:]]


def _sums(values: np.ndarray, affine: np.ndarray) -> dict[int, np.ndarray]:
    """Value -> (4,) sums of x, y, z in mm and number, over every n-th voxel; without the value 0."""
    step = np.maximum(np.round(COARSE_MM / np.linalg.norm(affine[:3, :3], axis=0)), 1).astype(int)
    coarse = values[:: step[0], :: step[1], :: step[2]]
    index = np.array(np.nonzero(coarse))
    occurring, which = np.unique(coarse[tuple(index)], return_inverse=True)
    places = affine[:3, :3] @ (index * step[:, None]) + affine[:3, 3:]
    rows = [np.bincount(which, weights) for weights in (*places, None)]
    return dict(zip(occurring.tolist(), np.array(rows).T, strict=True))


def wrong_sides(extents: Mapping[str, Extent], taxonomy: Taxonomy, image: Volume | None) -> tuple[str, ...]:
    """What lies on the wrong side of the body in one case, in words.

    Args:
        image: the CT, for an organ whose partner does not occur; None: no CT.
    """
    centres = {name: extent.centre_mm for name, extent in extents.items() if extent.centre_mm is not None}
    found = list(organs_on_wrong_side(centres, {name: extents[name].ml for name in centres}, taxonomy))
    for pair in pairs_of(taxonomy):
        single = [name for name in pair if name in extents]
        if image is not None and len(single) == 1:
            found += _beyond_plane(taxonomy.find(single[0]), extents[single[0]], image)
    return tuple(found)


def _distance_mm(pair: tuple[str, str], extents: Mapping[str, Extent]) -> float | None:
    """How far the right one of a pair lies to the right of the left one."""
    centres = [extents[name].centre_mm for name in pair if name in extents]
    return centres[0][0] - centres[1][0] if len(centres) == 2 and None not in centres else None


def _beyond_plane(row: ClassRow, extent: Extent, image: Volume) -> list[str]:
    """Only a whole organ in a whole body is judged: a narrow image shows other bone where the spine should be."""
    if extent.is_cut or extent.centre_mm is None:
        return []
    body = find_body(image).mask
    if body[[0, -1]].mean(axis=(1, 2)).max() > MAX_CUT * body.any(axis=0).mean():  # its middle need not be the body's
        return []
    plane = find_midplane(image)
    if not plane.is_certain:
        return []
    x, _, z, _ = np.linalg.inv(image.turned_to_ras().affine) @ (*extent.centre_mm, 1)
    distance = (x - plane.x[int(np.clip(round(z), 0, len(plane.x) - 1))]) * ras_spacing(image.affine)[0]
    distance = distance if row.side == "right" else -distance
    if distance > -MIN_WRONG_OF_PLANE_MM:
        return []
    other = "left" if row.side == "right" else "right"
    return [f"{row.name} lies {-distance:.0f} mm to the {other} of the mid-plane ({plane.note})"]


def doubtful_classes(cases: Iterable[Seen], taxonomy: Taxonomy) -> list[str]:
    """What cannot be right in the cases of one source together, in words."""
    cases = list(cases)
    found = []
    for row in taxonomy:
        own = [extents for annotated, extents in cases if row.name in annotated]
        occurring = [extents[row.name] for extents in own if row.name in extents]
        if not occurring:
            found += _never_occurs(row, [(names, extents) for names, extents in cases if row.name in names])
        elif row.volume_ml and not row.parents:  # lesions have any size
            found += _wrong_volume(row, occurring)
    return found + _exchanged(cases, taxonomy)


def _never_occurs(row: ClassRow, cases: list[Seen]) -> list[str]:
    needed = MIN_CASES_OF_PART if row.parents else MIN_CASES_UNSURE
    neighbours = {name for region in NEIGHBOURS if row.name in region for name in region if name != row.name}
    if not any(extents for _, extents in cases):
        needed = MIN_CASES_UNSURE if row.parents else MIN_CASES
    elif any(neighbours.intersection(names) for names, _ in cases):
        cases = [case for case in cases if _shows(*case, neighbours)]
        needed = MIN_CASES_UNSURE if row.name in NOT_EVERYBODYS else MIN_CASES
    if len(cases) < needed:
        return []
    remedy = ". A class that is known not to occur belongs under 'absent'" if row.parents else ""
    return [f"{row.name} is annotated in {len(cases)} cases that should show it and occurs in none{SUSPECT}{remedy}"]


def _shows(annotated: Collection[str], extents: Mapping[str, Extent], neighbours: set[str]) -> bool:
    """Is the place of an organ in the field of view: enough of its neighbours are whole."""
    looked_for = neighbours.intersection(annotated)
    whole = [name for name in looked_for if name in extents and not extents[name].is_cut]
    return bool(whole) and len(whole) >= MIN_WHOLE * len(looked_for)


def _wrong_volume(row: ClassRow, occurring: list[Extent]) -> list[str]:
    """What is cut off is at least as large as it looks. Empty organs are small, but none is far too large."""
    whole = [extent for extent in occurring if not extent.is_cut]
    for extents, needed, sign, word in ((occurring, MIN_LARGE, 1, "more"), (whole, MIN_CASES, -1, "less")):
        median = float(np.median([extent.ml for extent in extents])) if len(extents) >= needed else row.volume_ml
        times = (median / row.volume_ml) ** sign
        if times > FAR:
            amount = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
            usual = f"{times:.0f} times {word} than the usual {row.volume_ml:g} ml"
            return [f"{row.name} takes up {amount} ml (median of {len(extents)} cases), {usual}{SUSPECT}"]
    return []


def _exchanged(cases: list[Seen], taxonomy: Taxonomy) -> list[str]:
    """Pairs that lie the wrong way round in most cases."""
    distances = defaultdict(list)
    for _, extents in cases:
        for pair in pairs_of(taxonomy):
            if (distance := _distance_mm(pair, extents)) is not None:
                distances[pair].append(distance)
    found = []
    for (right, left), known in distances.items():
        wrong = sum(distance < -MIN_DISTANCE_MM for distance in known)
        if wrong > 1 and wrong > len(known) / 2:
            found.append(f"{right} and {left} are exchanged in {wrong} of {len(known)} cases{SUSPECT}")
    return found
