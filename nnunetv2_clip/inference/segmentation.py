"""What a model says about one CT, for Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.outputs import paint_masks

# Shapes: X Y Z voxels in the scan's own axis order.


class Masks(Mapping[str, np.ndarray]):
    """Class -> (X, Y, Z) bool, in painting order. Kept as bits: an array is made whenever it is asked for."""

    def __init__(self, packed: Mapping[str, Mask]):
        self._packed = packed

    def __getitem__(self, name: str) -> np.ndarray:
        return self._packed[name].full(bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The classes of one CT, on its grid.

    Attributes:
        packed: class -> mask, kept small.
        rows: of these classes, in painting order.
        affine: 4 x 4, voxel index -> RAS+ position in mm.
        probabilities: class -> (X, Y, Z) uint16 in steps of 1/65535, of the classes for which it was asked.
        warnings: what looks unlike a CT.
    """

    packed: Mapping[str, Mask]
    rows: Sequence[ClassRow]
    affine: np.ndarray
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def masks(self) -> Masks:
        """Class -> (X, Y, Z) bool; masks of different classes may overlap."""
        return Masks(self.packed)

    @cached_property
    def label_map(self) -> np.ndarray:
        """(X, Y, Z) universal indices, sub-structures on top of their organ."""
        return paint_masks(self.packed, self.rows)
