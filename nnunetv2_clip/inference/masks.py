"""Masks of single classes, kept small: a bit per voxel of the box that the class fills."""

# Shapes: X Y Z voxels in the axis order of the input file; network axes are those of nnU-Net's preprocessed array.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.imaging.boxes import Box, bounding_box, inside, moved, overlap, size_of

MAX_SAMPLES = 64  # along each axis of a box, for the centre


@dataclass(frozen=True, eq=False)
class Mask:
    """A boolean volume that is False outside a box.

    Attributes:
        shape: of the whole volume.
        box: where the bits lie; None for an empty mask.
        bits: the voxels of the box, eight to a byte.
    """

    shape: tuple[int, int, int]
    box: Box | None = None
    bits: np.ndarray | None = None

    @classmethod
    def of(cls, shape: Sequence[int], box: Box, voxels: np.ndarray) -> Mask:
        """From the voxels of a box, which is made as small as the mask allows."""
        tight = bounding_box(voxels)
        if tight is None:
            return cls(tuple(shape))
        return cls(tuple(shape), moved(tight, [part.start for part in box]), np.packbits(voxels[tight]))

    def __bool__(self) -> bool:
        return self.box is not None

    def voxels(self) -> np.ndarray:
        """(box) bool; an array without voxels for an empty mask."""
        return np.zeros((0, 0, 0), bool) if self.box is None else unpacked(self.bits, self.box)

    def centre(self) -> tuple[np.ndarray, int]:
        """(3,) mean position of the voxels of a mask that is not empty, and their number; both from a sample."""
        steps = [-(-size // MAX_SAMPLES) for size in size_of(self.box)]
        found = self.voxels()[tuple(slice(None, None, step) for step in steps)].nonzero()
        position = [np.mean(axis) * step for axis, step in zip(found, steps, strict=True)]
        return np.add(position, [part.start for part in self.box]), len(found[0]) * int(np.prod(steps))

    def within(self, box: Box) -> np.ndarray:
        """(box) bool: the mask inside another box."""
        result = np.zeros(size_of(box), bool)
        shared = overlap(self.box, box) if self.box else None
        if shared:
            result[inside(shared, box)] = self.voxels()[inside(shared, self.box)]
        return result

    def full(self, dtype: type = np.uint8) -> np.ndarray:
        """(X, Y, Z) 0 or 1."""
        volume = np.zeros(self.shape, dtype)
        if self.box is not None:
            volume[self.box] = self.voxels()
        return volume


def unpacked(bits: np.ndarray, box: Box) -> np.ndarray:
    """(box) bool of eight voxels to a byte."""
    sizes = size_of(box)
    return np.unpackbits(bits, count=int(np.prod(sizes))).view(bool).reshape(sizes)


@dataclass(frozen=True)
class Placement:
    """Where the cropped, transposed and reoriented network grid lies in the input file.

    Attributes:
        file_shape: (X, Y, Z) of the file.
        axes: for each network axis, the axis of the file that it runs along.
        is_flipped: for each network axis, does it run against the file's axis.
        start: first position of the network grid along each of its axes, in the uncropped network grid.
    """

    file_shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    is_flipped: tuple[bool, bool, bool]
    start: tuple[int, int, int]

    def box_in_file(self, box: Box) -> Box:
        """The box of network positions as a box of the file."""
        result: list[slice] = [slice(0)] * 3
        for axis, flipped, start, part in zip(self.axes, self.is_flipped, self.start, box, strict=True):
            first, last, size = part.start + start, part.stop + start, self.file_shape[axis]
            result[axis] = slice(size - last, size - first) if flipped else slice(first, last)
        return tuple(result)

    def voxels_in_file(self, voxels: np.ndarray) -> np.ndarray:
        """The voxels of a box, from network axes to those of the file (a view)."""
        flipped = tuple(axis for axis, is_flipped in enumerate(self.is_flipped) if is_flipped)
        return np.flip(voxels, flipped).transpose(np.argsort(self.axes))
