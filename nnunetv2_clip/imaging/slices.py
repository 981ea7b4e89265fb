"""Which slices of a case tell most, and how they lie on the page."""

# Shapes: X Y Z voxels of a volume turned to RAS (x to the patient's right, y to the front, z to the head).
# A picture is (rows, columns): the patient's right or front on the left-hand side, the head or front at the top.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.imaging.boxes import bounding_box


@dataclass(frozen=True)
class Plane:
    """A direction of view.

    Attributes:
        axis: the volume axis across the slices.
        left, top: letters of the body side at the picture's left and upper edge.
    """

    name: str
    axis: int
    left: str
    top: str


PLANES = (Plane("axial", 2, "R", "A"), Plane("coronal", 1, "R", "S"), Plane("sagittal", 0, "A", "S"))


def informative_slice(mask: np.ndarray, plane: Plane) -> int:
    """The position with the largest area of `mask`; the middle of the volume if the mask is empty.

    Among equal areas the one nearest to the middle of them is taken.
    """
    axes = tuple(axis for axis in range(3) if axis != plane.axis)
    area = mask.sum(axis=axes)
    if not area.any():
        return mask.shape[plane.axis] // 2
    largest = np.flatnonzero(area == area.max())
    return int(largest[len(largest) // 2])


def cut(volume: np.ndarray, plane: Plane, position: int) -> np.ndarray:
    """(rows, columns) of one slice as it lies on the page."""
    return volume.take(position, axis=plane.axis)[::-1, ::-1].T


def picture_size(shape: tuple[int, ...], spacing_mm: tuple[float, ...], plane: Plane, longest: int) -> tuple[int, int]:
    """(width, height) in pixels with the body's proportions; the longer side has `longest` pixels."""
    width_mm, height_mm = (shape[axis] * spacing_mm[axis] for axis in range(3) if axis != plane.axis)
    scale = longest / max(width_mm, height_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def detail_box(mask: np.ndarray, spacing_mm: tuple[float, ...], least_mm: float) -> tuple[slice, ...]:
    """The part of the volume to show when looking at `mask`: twice its extent, `least_mm` or more a side.

    The whole volume when the mask is empty.
    """
    box = bounding_box(mask)
    if box is None:
        return tuple(slice(0, size) for size in mask.shape)
    parts = []
    for part, size, spacing in zip(box, mask.shape, spacing_mm, strict=True):
        half = max(part.stop - part.start, least_mm / spacing / 2)
        centre = (part.start + part.stop) / 2
        parts.append(slice(max(0, int(centre - half)), min(size, int(np.ceil(centre + half)))))
    return tuple(parts)
