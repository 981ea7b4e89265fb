"""Right or left: a mask drawn for both sides of the body is split by position against the mid-plane.

The mid-plane is a sagittal plane through the spine (where no spine is seen, through the middle of the body), found in
each slice of each image. Both are told by Hounsfield units: without these no side is certain. Connected components only
keep an organ whole and tell specks from organs; their order or size never decides a side: a single kidney, a horseshoe
kidney and lungs that touch come out right.
"""

# Shapes: X Y Z voxels in the image's own axis order; x y z the same axes turned to RAS.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunetv2_clip.imaging.body import Body, find_body, from_ras, ras_spacing, to_ras
from nnunetv2_clip.imaging.components import connected_components
from nnunetv2_clip.imaging.hounsfield import not_hounsfield
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap, plain

BONE_HU = 200
SPINE_WINDOWS_MM = (45.0, 28.0)  # half width around the first and the second guess
SPINE_DEPTH = 0.45  # the spine stands in this part of the body, counted from the back
MIN_SPINE_AREA_MM2, MIN_SPINE_MM = 250.0, 20.0  # in a slice, in length
MAX_BONE_SHARE = 0.5  # of a slice of the body; where more is as bright as bone, no spine is told from the rest
SMOOTHING_MM = 60.0

SPECK_SHARE, SPECK_ML = 0.01, 2.0  # below both a component is no organ
WHOLE_SHARE = 0.85  # a component lies on a side with this part of its organ's voxels; otherwise it crosses the plane
MIN_DISTANCE_MM = 8.0  # of an organ's centre from the plane
TWIN_SHARE = 0.3  # two components of this relative size are two organs
CONTACT_MM = 4.0  # organs that touch in less than twice this come apart when eroded by it
MAX_ACROSS_MM = 30.0  # how far a lung may reach across the mid-plane


@dataclass(frozen=True, eq=False)
class MidPlane:
    """The body's mid-plane in the voxel grid of an image.

    Attributes:
        x: (z,) position along the RAS x axis, in voxels, for each slice from the feet to the head.
        affine: of the image.
        is_certain: a spine was seen, or the whole outline of the body.
        note: what it was found by.
    """

    x: np.ndarray
    affine: np.ndarray
    is_certain: bool
    note: str


@dataclass(frozen=True, eq=False)
class Sides:
    """A mask split into the two sides of the body.

    Attributes:
        right, left: (X, Y, Z) bool; without specks. Both are empty where `certain` is False and nothing could be said.
        certain: every organ lies on a side beyond doubt. Otherwise the pair counts as not annotated in this case.
        note: what was done or what is doubtful, in words; empty for two whole organs or one.
        plane: the mid-plane that was used.
    """

    right: np.ndarray
    left: np.ndarray
    certain: bool
    note: str
    plane: MidPlane


@dataclass(frozen=True)
class Pair:
    """A pair of organs that a source draws under the same label values.

    Attributes:
        right, left: the classes.
        values: every label value that belongs to the organs: their own, and those of their lesions.
    """

    right: str
    left: str
    values: tuple[int, ...]


def split_pairs(
    labels: ClassMap, pairs: Sequence[Pair], image: Volume, drawn: Sequence[str]
) -> tuple[ClassMap, tuple[str, ...], tuple[str, ...]]:
    """Split the pairs of a label map: each voxel gets the organ of its side.

    Args:
        labels: on the grid of `image`, without the paired organs.
        drawn: classes that are drawn in the case, with both organs of each pair.

    Returns:
        The labels, `drawn` without the pairs whose side is uncertain, and what was done or is doubtful, in words.
    """
    plane, result = find_midplane(image), labels.copy()
    result.sets = {value: frozenset() for pair in pairs for value in pair.values} | result.sets
    drawn, fixes = list(drawn), []
    for pair in pairs:
        of_lesions = [value for value in pair.values if plain(result.sets[value] or ())]
        mask, lesions = (np.isin(labels.values, values) for values in (pair.values, of_lesions))
        sides = split_sides(mask, image, plane, lesions)
        if sides.note:
            fixes.append(f"{pair.right} and {pair.left}: {sides.note}")
        if not sides.certain:
            drawn = [name for name in drawn if name not in (pair.right, pair.left)]
            continue
        for value in pair.values:
            of_value = labels.values == value
            if plain(result.sets[value] or ()):
                right, left = side_of_lesions(of_value, sides)
            else:  # specks stay what they are: nothing
                right, left = of_value & sides.right, of_value & sides.left
            result.add({pair.right}, right)
            result.add({pair.left}, left)
    return result, tuple(drawn), tuple(fixes)


def split_sides(
    mask: np.ndarray, image: Volume, plane: MidPlane | None = None, lesions: np.ndarray | None = None
) -> Sides:
    """Split a mask of paired organs.

    Args:
        mask: (X, Y, Z) bool on the grid of `image`, both organs with all their lesions.
        image: Hounsfield units.
        plane: of the same image, if it is already known.
        lesions: (X, Y, Z) bool, what of `mask` is lesion, if that is known. It goes with its organ: a tumour of one
            kidney may reach far across the plane.
    """
    plane = plane or find_midplane(image)
    nothing = np.zeros(mask.shape, dtype=bool)
    if not mask.any():
        return Sides(nothing, nothing, True, "", plane)
    if not plane.is_certain:
        return Sides(nothing, nothing, False, f"side unknown: {plane.note}", plane)
    turned = to_ras(mask, plane.affine)
    box = ndimage.find_objects(turned.view(np.uint8))[0]
    of_lesions = np.zeros_like(turned[box]) if lesions is None else to_ras(lesions, plane.affine)[box]
    right, left, doubts, notes = _split(turned[box], of_lesions, _offset_mm(plane, box), ras_spacing(plane.affine))
    wholes = []
    for part in (right, left):
        whole = np.zeros(turned.shape, dtype=bool)
        whole[box] = part
        wholes.append(from_ras(whole, plane.affine))
    return Sides(*wholes, not doubts, "; ".join(doubts or notes), plane)


def side_of_lesions(lesion: np.ndarray, sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """(right, left) of a lesion mask: each lesion follows the organ that it overlaps or touches.

    A lesion that reaches both organs is divided as they are; one that touches none goes by the mid-plane.
    """
    right, left = np.zeros(lesion.shape, dtype=bool), np.zeros(lesion.shape, dtype=bool)
    if not lesion.any():
        return right, left
    components, _ = connected_components(lesion)
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
        own = components[box] == number
        near = ndimage.binary_dilation(own, np.ones((3, 3, 3)))
        on_right, on_left = int((near & sides.right[box]).sum()), int((near & sides.left[box]).sum())
        if on_right and on_left:
            share = own & _is_right(sides, box)
            inside = sides.right[box] | sides.left[box]
            share = np.where(inside, own & sides.right[box], share)
        elif on_right or on_left:
            share = own if on_right else np.zeros_like(own)
        else:
            share = own if (own & _is_right(sides, box)).sum() * 2 > own.sum() else np.zeros_like(own)
        right[box] |= share
        left[box] |= own & ~share
    return right, left


def find_midplane(image: Volume) -> MidPlane:
    """The mid-plane of the body in a CT: through the spine, else through the middle of the body's outline."""
    num_slices = to_ras(image.data, image.affine).shape[2]
    nowhere, unseen = np.zeros(num_slices), not_hounsfield(image)
    if unseen:
        return MidPlane(nowhere, image.affine, False, f"no spine is seen, {unseen}")
    body = find_body(image)
    if not body.mask.any():
        return MidPlane(nowhere, image.affine, False, "no body is seen in the image")
    spine = _spine_middle(body)
    has_spine = np.isfinite(spine).sum() * body.edges_mm[2] >= MIN_SPINE_MM or np.isfinite(spine).mean() > 0.3
    is_cut = body.mask[[0, -1]].any()
    note = "spine" if has_spine else "outline of the body"
    if is_cut and not has_spine:
        note = "no spine is seen and the body is cut at the border of the image"
    middle = _smooth(spine if has_spine else body.middle, SMOOTHING_MM / body.edges_mm[2])
    x = np.interp(np.arange(num_slices), np.arange(len(middle)) * body.step[2], middle * body.step[0])
    return MidPlane(x, image.affine, bool(has_spine or not is_cut), note)


def _split(
    mask: np.ndarray, lesions: np.ndarray, offset: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list, list]:
    """(right, left, doubts, notes) of a RAS mask; `offset` is the distance to the right of the plane in mm."""
    components, sizes = connected_components(mask)
    speck = min(SPECK_SHARE * sizes.max(), SPECK_ML * 1000 / float(np.prod(spacing)))
    right, left = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape, dtype=bool)
    doubts, notes, found = [], [], {"right": [], "left": []}
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        if sizes[number] < speck:
            continue
        own = components[box] == number
        distance = np.broadcast_to(offset, mask.shape)[box]
        organ = own & ~lesions[box]
        organ = organ if organ.sum() >= speck else own
        share = float((distance[organ] > 0).mean())
        if max(share, 1 - share) >= WHOLE_SHARE:
            side = "right" if share > 0.5 else "left"
            (right if side == "right" else left)[box] |= own
            found[side].append(int(sizes[number]))
            is_organ = sizes[number] >= TWIN_SHARE * sizes.max()
            if is_organ and abs(float(distance[organ].mean())) < MIN_DISTANCE_MM:
                doubts.append("an organ lies on the mid-plane")
            continue
        on_right = _cut(own, distance, spacing)
        right[box] |= on_right
        left[box] |= own & ~on_right
        for side, part in (("right", on_right), ("left", own & ~on_right)):
            found[side].append(int(part.sum()))
        middle = [abs(float(distance[part].mean())) for part in (on_right, own & ~on_right) if part.any()]
        if min(middle) < MIN_DISTANCE_MM:
            doubts.append("an organ lies on the mid-plane")
        notes.append("one connected body across the mid-plane, cut")
    for side, other in (("right", "left"), ("left", "right")):
        if not found[other] and sum(size >= TWIN_SHARE * max(found[side]) for size in found[side]) > 1:
            doubts.append(f"several organs on the {side} side and none on the {other}")
    return right, left, sorted(set(doubts)), sorted(set(notes))


def _cut(mask: np.ndarray, distance: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The right part of a component that crosses the plane.

    Organs that only touch come apart when eroded a little; the border then runs where they touch. What stays one
    piece (a horseshoe kidney), or reaches far across the plane even then, is cut at the plane.
    """
    is_right = distance > 0
    rounds = max(1, round(CONTACT_MM / float(spacing[:2].mean())))
    eroded = ndimage.binary_erosion(mask, iterations=rounds)
    components, sizes = connected_components(eroded, connectivity=6)
    if not sizes.any():
        return mask & is_right
    piece_is_right = np.bincount(components.ravel(), weights=is_right.ravel()) * 2 > sizes
    large = np.flatnonzero(sizes >= 0.1 * sizes.max())
    across = eroded & (piece_is_right[components] != is_right)
    if piece_is_right[large].all() or not piece_is_right[large].any():
        return mask & is_right
    if np.abs(distance[across]).max(initial=0) > MAX_ACROSS_MM:
        return mask & is_right
    return _grow(mask, np.where(piece_is_right, 1, 2)[components] * eroded, is_right, 2 * rounds)


def _grow(mask: np.ndarray, seeds: np.ndarray, is_right: np.ndarray, rounds: int) -> np.ndarray:
    """Let seeds (1 right, 2 left) grow inside the mask by turns; what they do not reach goes by the plane."""
    right, left = seeds == 1, seeds == 2
    for _ in range(rounds):
        right |= ndimage.binary_dilation(right) & mask & ~left
        left |= ndimage.binary_dilation(left) & mask & ~right
    return right | (mask & is_right & ~left)


def _spine_middle(body: Body) -> np.ndarray:
    """(z,) the median x of bone at the back near the middle; NaN where too little is seen."""
    bone = (body.hu > BONE_HU) & body.mask
    area = float(body.edges_mm[0] * body.edges_mm[1])
    middle = np.full(len(body.middle), np.nan)
    for k in np.flatnonzero(np.isfinite(body.middle)):
        if bone[:, :, k].sum() > MAX_BONE_SHARE * body.mask[:, :, k].sum():
            continue
        rows = np.flatnonzero(body.mask[:, :, k].any(axis=0))
        back = slice(rows[0], rows[0] + int(np.ceil(SPINE_DEPTH * (rows[-1] + 1 - rows[0]))))
        x = np.nonzero(bone[:, back, k])[0]
        guess = body.middle[k]
        for window in SPINE_WINDOWS_MM:
            near = x[np.abs(x - guess) * body.edges_mm[0] <= window]
            if len(near) * area < MIN_SPINE_AREA_MM2:
                break
            guess = float(np.median(near))
        else:
            middle[k] = guess
    return middle


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Gaps filled from their neighbours, outliers removed by a running median."""
    known = np.flatnonzero(np.isfinite(values))
    filled = np.interp(np.arange(len(values)), known, values[known])
    size = max(1, round(width))
    padded = np.pad(filled, (size // 2, size - size // 2 - 1), mode="edge")
    # Not scipy's median filter: that of version 1.15 gives zeros where the values are much fewer than the window.
    return np.sort(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1)[:, size // 2]


def _is_right(sides: Sides, box: tuple[slice, ...]) -> np.ndarray:
    """Is each voxel of a box (in the image's own axes) to the right of the plane."""
    shape = sides.right.shape
    ras_shape = to_ras(np.broadcast_to(np.False_, shape), sides.plane.affine).shape
    is_right = np.arange(ras_shape[0])[:, None, None] > sides.plane.x[None, None, :]
    return from_ras(np.broadcast_to(is_right, ras_shape), sides.plane.affine)[box]


def _offset_mm(plane: MidPlane, box: tuple[slice, ...]) -> np.ndarray:
    """(x, 1, z) distance of each column of a box from the plane, positive to the right."""
    x = np.arange(box[0].start, box[0].stop)[:, None, None]
    return (x - plane.x[box[2]][None, None, :]) * float(ras_spacing(plane.affine)[0])
