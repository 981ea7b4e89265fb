"""CTs of random bodies, and what goes wrong with CTs: for the rates of false and of missed alarms.

A body differs from the next in size, table, arms, contrast agent, missing organs, part of the trunk that is seen, field
of view, padding, noise, metal, voxel size and the order of its axes. Its header is right and its values are Hounsfield
units, so that nothing may be found wrong with it.
"""

# Shapes: X Y Z voxels, RAS until the axes are ordered at random.

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
from nibabel.orientations import apply_orientation as turned
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import ndimage

from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, Phantom, make_phantom

AXES = [codes for order in permutations(("LR", "PA", "IS")) for codes in product(*order)]
MAY_BE_MISSING = ("spleen", "gallbladder", "left_kidney", "right_kidney", "stomach", "colon", "prostate", "bladder")
VESSELS, KIDNEYS, SOLID = ("aorta", "postcava", "portal_and_splenic_vein"), ("left_kidney", "right_kidney"), ("liver",)
CONTRAST_HU = ({}, {VESSELS: 42, KIDNEYS: 35, SOLID: 55}, {VESSELS[:1]: 340, KIDNEYS: 220, SOLID: 70})
PADDING_HU = (None, None, -1024, -2000, -3024)
LEAST_SEEN_MM, LARGEST_MARGIN_MM = 130.0, 110.0


def random_body(seed: int) -> Volume:
    """One CT; the same seed gives the same voxels."""
    rng = np.random.default_rng(seed)
    spacing = np.array([*[rng.uniform(4, 6)] * 2, rng.uniform(4, 8)])
    size = np.array(DEFAULT_BODY_MM) * rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    missing = [name for name in MAY_BE_MISSING if rng.random() < 0.15]
    phantom = make_phantom(seed, tuple(spacing), tuple(size), tumours=bool(rng.random() < 0.5), missing=missing)
    image = phantom.image.astype(np.float32)
    _change_contrast(image, phantom, CONTRAST_HU[rng.integers(len(CONTRAST_HU))])
    if rng.random() < 0.3:
        image[~ndimage.binary_dilation(phantom.extras["skin"], iterations=2)] = -1000  # no table
    if rng.random() < 0.3:
        image[tuple(slice(at, at + 2) for at in rng.integers(np.array(image.shape) - 2))] = 3000  # metal
    image = _with_margin(_part_seen(image, spacing, rng), spacing, rng)
    image += rng.normal(0, rng.choice([5, 15, 40]), image.shape)
    image = np.clip(np.rint(image), -1024, 3071)
    _pad(image, PADDING_HU[rng.integers(len(PADDING_HU))])
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(AXES[rng.integers(len(AXES))]))
    affine = np.diag([*spacing, 1.0]) @ inv_ornt_aff(turn, image.shape)
    return Volume(turned(image, turn).astype(np.int16), affine)


def _change_contrast(image: np.ndarray, phantom: Phantom, values: dict[tuple[str, ...], float]) -> None:
    for names, hu in values.items():
        for name in names:
            mask = phantom.masks[name]
            image[mask] += hu - np.median(image[mask]) if mask.any() else 0


def _part_seen(image: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From the upper or the lower end, or from both, as much is cut off as leaves a scan of some length."""
    number = image.shape[2]
    least = int(np.ceil(LEAST_SEEN_MM / spacing[2]))
    length = number if rng.random() < 0.3 else int(rng.integers(least, number + 1))
    first = int(rng.integers(number - length + 1))
    return image[:, :, first : first + length]


def _with_margin(image: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Air around the body, with or without arms in it, or a field of view that cuts the sides off."""
    if rng.random() < 0.15:
        cut = int(image.shape[0] * rng.uniform(0, 0.1))
        return image[cut : image.shape[0] - cut].copy()
    margin = [int(part) for part in rng.uniform(0, LARGEST_MARGIN_MM, 2) // spacing[:2]]
    arms = rng.random(2) < 0.35
    if arms.any():
        margin[0] = int(LARGEST_MARGIN_MM // spacing[0])
    wide = np.pad(image, [(margin[0],) * 2, (margin[1],) * 2, (0, 0)], constant_values=-1000)
    for is_drawn, end in zip(arms, (0, wide.shape[0]), strict=True):
        if is_drawn:
            _draw_arm(wide, abs(end - 50 / spacing[0]), spacing, rng)
    return wide


def _draw_arm(image: np.ndarray, x: float, spacing: np.ndarray, rng: np.random.Generator) -> None:
    """A cylinder of muscle around one of bone, along the whole scan."""
    centre = np.array([x, image.shape[1] * rng.uniform(0.35, 0.65)])
    grid = np.stack(np.indices(image.shape[:2]), axis=-1)
    distance = np.linalg.norm((grid - centre) * spacing[:2], axis=-1)
    image[distance < rng.uniform(32, 45)] = 50
    image[distance < rng.uniform(8, 13)] = 700


def _pad(image: np.ndarray, value: float | None) -> None:
    """What lies outside the round field of view of the scanner."""
    if value is not None:
        x, y = (np.linspace(-1, 1, size) for size in image.shape[:2])
        image[x[:, None] ** 2 + y[None, :] ** 2 > 1.3] = value


def _flipped(*axes: int) -> Callable[[Volume], Volume]:
    """The array turned round along axes of the body, which its header does not know."""

    def flip(volume: Volume) -> Volume:
        ras = volume.turned_to_ras()
        return Volume(np.flip(ras.data, axes), ras.affine)

    return flip


def _exchanged(*order: int) -> Callable[[Volume], Volume]:
    """The array with axes of the body exchanged, which its header does not know."""

    def exchange(volume: Volume) -> Volume:
        ras = volume.turned_to_ras()
        return Volume(ras.data.transpose(order), ras.affine)

    return exchange


def _changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Volume], Volume]:
    return lambda volume: Volume(change(volume.data.astype(np.float32)), volume.affine)


def _in_metres(volume: Volume) -> Volume:
    return Volume(volume.data, np.diag([1e-3, 1e-3, 1e-3, 1]) @ volume.affine)


# What goes wrong with a CT, in words -> how to make it.
SPOILED: dict[str, Callable[[Volume], Volume]] = {
    "mirrored": _flipped(0),
    "front and back exchanged": _flipped(1),
    "upside down": _flipped(2),
    "rotated by 180 degrees about the long axis": _flipped(0, 1),
    "rotated by 180 degrees about the axis from back to front": _flipped(0, 2),
    "rotated by 180 degrees about the axis from left to right": _flipped(1, 2),
    "turned by 90 degrees about the long axis": _exchanged(1, 0, 2),
    "slices taken from back to front": _exchanged(0, 2, 1),
    "HU + 1024": _changed(lambda hu: hu + 1024),
    "HU + 1024, nothing below 0": _changed(lambda hu: np.clip(hu + 1024, 0, None)),
    "HU + 1024, padding of -2000": _changed(lambda hu: np.where(hu < -800, -2000, hu + 1024)),
    "z-scored": _changed(lambda hu: (hu - hu.mean()) / hu.std()),
    "scaled to [-1, 1]": _changed(lambda hu: np.clip(hu / 1000, -1, 1)),
    "scaled to [0, 1]": _changed(lambda hu: np.clip((hu + 160) / 400, 0, 1)),
    "8 bits": _changed(lambda hu: np.rint(np.clip((hu + 160) / 400, 0, 1) * 255)),
    "metres for millimetres": _in_metres,
}
