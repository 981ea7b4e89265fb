"""Trilinear resampling as nnU-Net's torch resampling does it, for any part of a volume.

Each axis is a table that says which two input positions an output position reads, so that a slab or a box of the
output can be computed alone. Every output is a weighted mean of the inputs it reads: where all of them are at most c,
the output is at most c. That is what makes cropping exact.

Source: torch's upsample_linear and upsample_nearest_exact (align_corners=False), in single precision as there;
the choice between them is nnU-Net's `determine_do_sep_z_and_axis`.
"""

# Shapes: O output positions along an axis; Z Y X voxels in the network's axis order.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AxisMap:
    """output[o] = (1 - weight[o]) * input[low[o]] + weight[o] * input[high[o]].

    Attributes:
        low, high: (O,) int64, ascending.
        weight: (O,) float32.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    @classmethod
    def linear(cls, in_size: int, out_size: int) -> AxisMap:
        scale, half = np.float32(in_size) / np.float32(out_size), np.float32(0.5)
        source = np.maximum(scale * (np.arange(out_size, dtype=np.float32) + half) - half, np.float32(0))
        low = np.minimum(source.astype(np.int64), in_size - 1)
        return cls(low, np.minimum(low + 1, in_size - 1), (source - low).astype(np.float32))

    @classmethod
    def nearest(cls, in_size: int, out_size: int) -> AxisMap:
        scale = np.float32(in_size) / np.float32(out_size)
        source = scale * (np.arange(out_size, dtype=np.float32) + np.float32(0.5))
        low = np.minimum(source.astype(np.int64), in_size - 1)
        return cls(low, low, np.zeros(out_size, np.float32))

    def __len__(self) -> int:
        return len(self.low)

    @property
    def in_size(self) -> int:
        return int(self.high[-1]) + 1

    def readers(self, first: int, last: int) -> slice:
        """The outputs that read any input from `first` to `last` (both included)."""
        start = int(np.searchsorted(self.high, first, "left"))
        return slice(start, max(start, int(np.searchsorted(self.low, last, "right"))))

    def inputs(self, outputs: slice) -> slice:
        """The inputs that a non-empty range of outputs reads."""
        return slice(int(self.low[outputs.start]), int(self.high[outputs.stop - 1]) + 1)

    def apply(self, values: Tensor, dim: int, outputs: slice, offset: int) -> Tensor:
        """Resample one dimension.

        Args:
            values: float32; position i along `dim` is input position `offset` + i.
            outputs: which outputs to compute; they read nothing outside `values`.
        """
        lower = _pick(values, dim, self.low[outputs] - offset)
        if not self.weight[outputs].any():
            return lower
        upper = _pick(values, dim, self.high[outputs] - offset)
        shape = [1] * values.ndim
        shape[dim] = -1
        weight = torch.from_numpy(self.weight[outputs]).to(values.device).view(shape)
        return torch.lerp(lower, upper, weight)


def _pick(values: Tensor, dim: int, positions: np.ndarray) -> Tensor:
    """The given positions along one dimension. On the CPU numpy does this nine times as fast as torch."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.take(values.numpy(), positions, axis=dim))
    return values.index_select(dim, torch.from_numpy(positions).to(values.device))


def axis_maps(
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    in_spacing: Sequence[float],
    out_spacing: Sequence[float],
    force_separate_z: bool | None = None,
    anisotropy_threshold: float | None = None,
) -> tuple[AxisMap, AxisMap, AxisMap]:
    """How nnU-Net resamples logits from one grid to another: linear, but nearest across thick slices."""
    from nnunetv2.configuration import ANISO_THRESHOLD
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    threshold = ANISO_THRESHOLD if anisotropy_threshold is None else anisotropy_threshold
    separate, axis = determine_do_sep_z_and_axis(force_separate_z, in_spacing, out_spacing, threshold)
    thick = int(np.ravel(axis)[0]) if separate else -1
    return tuple(
        (AxisMap.nearest if dim == thick else AxisMap.linear)(int(before), int(after))
        for dim, (before, after) in enumerate(zip(in_shape, out_shape, strict=True))
    )
