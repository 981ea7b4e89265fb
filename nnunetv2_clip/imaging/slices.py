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
        left, top, right, bottom: letters of the body side at the picture's edges.
    """

    name: str
    axis: int
    left: str
    top: str
    right: str
    bottom: str


NEARLY = 0.9
PLANES = AXIAL, CORONAL, SAGITTAL = (
    Plane("axial", 2, "R", "A", "L", "P"),
    Plane("coronal", 1, "R", "S", "L", "I"),
    Plane("sagittal", 0, "A", "S", "P", "I"),
)
PICTURE_PX = (420, 768)  # of the longer side; in between a pixel is a voxel of the CT
FLAT = 2.0  # width to height of a coronal picture


def informative_slice(labels: np.ndarray, plane: Plane) -> int:
    """The position that shows most of the most classes; the middle of the volume if there is none.

    A class counts by the share of its largest area, so that a large organ does not outweigh all others. Of positions
    that show nearly as much as the best one, the middle one is taken: the ends of a scan cut organs.

    Args:
        labels: (X, Y, Z) a value per class, 0 for none; or a mask.
    """
    slices, num_values = np.moveaxis(labels, plane.axis, 0), int(labels.max(initial=0)) + 1
    areas = np.array([np.bincount(one.ravel(order="K"), minlength=num_values)[1:] for one in slices])
    areas = areas[:, areas.any(axis=0)]
    if not areas.size:
        return len(slices) // 2
    shown = (areas / areas.max(axis=0)).sum(axis=1)
    good = np.flatnonzero(shown >= NEARLY * shown.max())
    return int(good[len(good) // 2])


def cut(volume: np.ndarray, plane: Plane, position: int) -> np.ndarray:
    """(rows, columns) of one slice as it lies on the page."""
    return volume.take(position, axis=plane.axis)[::-1, ::-1].T


def picture_size(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], plane: Plane, least: int, most: int
) -> tuple[int, int]:
    """(width, height) in pixels with the body's proportions: the finer voxel edge is a pixel.

    Args:
        least, most: pixels of the longer side, whatever the voxels.
    """
    edges_mm = [spacing_mm[axis] for axis in range(3) if axis != plane.axis]
    width_mm, height_mm = (shape[axis] * spacing_mm[axis] for axis in range(3) if axis != plane.axis)
    longest_mm = max(width_mm, height_mm)
    scale = min(max(least, longest_mm / min(edges_mm)), most) / longest_mm
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def is_flat(coronal: tuple[int, int]) -> bool:
    """Of a short scan, by (width, height): coronal and sagittal pictures are low and better stand above each other."""
    return coronal[0] > FLAT * coronal[1]


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
