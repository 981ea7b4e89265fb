"""Logits of the network's grid in, masks of the image's grid out: class by class, a few rows at a time.

The sliding window runs along the first axis, so that its first rows are final long before the last patch. They are
resampled at once, only where the class can be positive, and kept as bits: no float volume of the output's size exists.
"""

# Shapes: K classes; Z Y X voxels of the network's grid; n rows along Z.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunetv2_clip.imaging.boxes import Box, inside, moved, size_of, union_box
from nnunetv2_clip.inference.masks import Mask, Placement, unpacked
from nnunetv2_clip.inference.resampling import AxisMap

BLOCK_VOXELS = 1 << 22  # output voxels that exist as floats at one time
PROBABILITY_STEPS = 65535
Pieces = dict[str, list[tuple[Box, np.ndarray]]]


def logit(probability: float) -> float:
    """The logit above which a voxel has more than this probability."""
    return float(np.log(probability) - np.log1p(-probability))


@dataclass(frozen=True, eq=False)
class Probability:
    """The probability of one class; 0 outside its box.

    Attributes:
        box: in the input file; None: nowhere above 0.
        steps: (box) uint16, in steps of 1/65535.
    """

    box: Box | None = None
    steps: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """(box) float32, 0 to 1."""
        assert self.steps is not None
        return self.steps.astype(np.float32) / PROBABILITY_STEPS

    def full(self, shape: Sequence[int]) -> np.ndarray:
        """(X, Y, Z) uint16 steps."""
        volume = np.zeros(shape, np.uint16)
        if self.box is not None:
            volume[self.box] = self.steps
        return volume


class StreamingExport:
    """Takes finished rows of logits in order and makes the masks.

    Args:
        names: the K classes in channel order.
        maps: how each axis of the logits is resampled.
        thresholds: probability above which a voxel belongs to a class (0.5 where not named).
        probabilities: classes whose probability is kept as well.
        lowest: probabilities below it are kept as 0.
        makes_masks: False: only probabilities are wanted.
    """

    def __init__(
        self,
        names: Sequence[str],
        maps: Sequence[AxisMap],
        thresholds: Mapping[str, float] | None = None,
        probabilities: Collection[str] = (),
        lowest: float = 0.5 / PROBABILITY_STEPS,
        makes_masks: bool = True,
    ):
        self.names = tuple(names)
        self._maps = tuple(maps)
        self._bounds = {name: logit((thresholds or {}).get(name, 0.5)) for name in names if makes_masks}
        self._bits: Pieces = {name: [] for name in names}
        self._steps: Pieces = {name: [] for name in names if name in probabilities}
        self._lowest = lowest
        self.out_shape = tuple(len(one) for one in maps)
        self._tail: Tensor | None = None  # rows that later outputs read as well
        self._first_row = 0
        self._done = 0

    def push(self, rows: Tensor) -> None:
        """The next (K, n, Y, X) float32 rows of logits, on any device; not needed any more afterwards."""
        tail = rows[:, :0] if self._tail is None else self._tail
        available = self._first_row + tail.shape[1] + rows.shape[1]
        z_map = self._maps[0]
        ready = slice(self._done, int(np.searchsorted(z_map.high, available, "left")))
        if ready.stop > ready.start:
            for k, name in enumerate(self.names):
                self._export(name, (tail[k], rows[k]), ready)
        first_needed = min(int(z_map.low[ready.stop]), available) if ready.stop < len(z_map) else available
        drop = first_needed - self._first_row
        kept = rows[:, max(drop - tail.shape[1], 0) :]
        self._tail = torch.cat((tail[:, drop:], kept), 1) if drop < tail.shape[1] else kept.clone()
        self._first_row, self._done = first_needed, ready.stop

    def finish(self, placement: Placement) -> dict[str, Mask]:
        """The masks in the axes of the input file."""
        assert self._done == len(self._maps[0]), "rows are missing"
        return {name: self._mask(name, placement) for name in self.names}

    def finish_probabilities(self, placement: Placement) -> dict[str, Probability]:
        """Those of the wanted classes in the axes of the input file."""
        return {name: Probability(*_joined(self._steps, name, placement)) for name in tuple(self._steps)}

    def _mask(self, name: str, placement: Placement) -> Mask:
        box, voxels = _joined(self._bits, name, placement)
        return Mask(placement.file_shape) if box is None else Mask.of(placement.file_shape, box, voxels)

    def _export(self, name: str, low: tuple[Tensor, Tensor], ready: slice) -> None:
        """One class: `low`, two times (n, Y, X), holds the rows from `_first_row` on."""
        if name in self._steps:
            for box, values in self._resampled(low, ready, logit(self._lowest)):
                probability = values.sigmoid_()
                steps = probability.mul(PROBABILITY_STEPS).round_().mul_(probability >= self._lowest)
                self._steps[name].append((box, steps.cpu().numpy().astype(np.uint16)))
        if name in self._bounds:
            bound = self._bounds[name]
            for box, values in self._resampled(low, ready, bound):
                mask = (values > bound).cpu().numpy()
                if mask.any():
                    self._bits[name].append((box, np.packbits(mask)))

    def _resampled(self, low: tuple[Tensor, Tensor], ready: slice, bound: float):
        """Boxes of the output that hold every voxel above `bound`, with their values."""
        box = _positive_box_of_two(*low, bound)
        if box is None:
            return
        rows, *_ = box
        z_map, y_map, x_map = self._maps
        z_out = z_map.readers(self._first_row + rows.start, self._first_row + rows.stop - 1)
        z_out = slice(max(z_out.start, ready.start), min(z_out.stop, ready.stop))
        y_out, x_out = (
            one.readers(part.start, part.stop - 1) for one, part in zip((y_map, x_map), box[1:], strict=True)
        )
        if any(part.stop <= part.start for part in (z_out, y_out, x_out)):
            return  # down-sampling may read none of the positive voxels
        z_in, y_in, x_in = (one.inputs(part) for one, part in zip(self._maps, (z_out, y_out, x_out), strict=True))
        values = _rows_of_two(*low, slice(z_in.start - self._first_row, z_in.stop - self._first_row), y_in, x_in)
        values = x_map.apply(values, 2, x_out, x_in.start)
        values = y_map.apply(values, 1, y_out, y_in.start)
        step = max(1, BLOCK_VOXELS // (values.shape[1] * values.shape[2]))
        for start in range(z_out.start, z_out.stop, step):
            part = slice(start, min(start + step, z_out.stop))
            yield (part, y_out, x_out), z_map.apply(values, 0, part, z_in.start)


class FanOut:
    """The same rows to several takers of rows, such as exports."""

    def __init__(self, takers: Sequence):
        self.takers = tuple(takers)

    def push(self, rows: Tensor) -> None:
        for taker in self.takers:
            taker.push(rows)


def _joined(pieces: Pieces, name: str, placement: Placement) -> tuple[Box | None, np.ndarray | None]:
    """The pieces of a class, taken away from the others, as one box of the file and its voxels; None: no pieces."""
    own = pieces.pop(name)
    if not own:
        return None, None
    box = placement.box_in_file(union_box([piece_box for piece_box, _ in own]))
    voxels = np.zeros(size_of(box), bool if own[0][1].ndim == 1 else own[0][1].dtype)
    for piece_box, values in own:
        values = unpacked(values, piece_box) if values.ndim == 1 else values
        voxels[inside(placement.box_in_file(piece_box), box)] = placement.voxels_in_file(values)
    return box, voxels


def _positive_box_of_two(first: Tensor, second: Tensor, bound: float) -> Box | None:
    """As `positive_box`, of two volumes one above the other; most classes need no copy of them."""
    boxes = [positive_box(first, bound), positive_box(second, bound)]
    if boxes[1] is not None:
        boxes[1] = moved(boxes[1], (len(first), 0, 0))
    found = [box for box in boxes if box is not None]
    return union_box(found)


def _rows_of_two(first: Tensor, second: Tensor, z: slice, y: slice, x: slice) -> Tensor:
    """A box of two volumes one above the other."""
    border = len(first)
    if z.start >= border:
        return second[z.start - border : z.stop - border, y, x]
    return torch.cat((first[z, y, x], second[: max(z.stop - border, 0), y, x]))


def positive_box(values: Tensor, bound: float) -> Box | None:
    """The smallest box around the voxels of (Z, Y, X) `values` above `bound`; None without any."""
    if not len(values):
        return None
    columns = values.amax(2)
    above = columns > bound
    rows, lines = above.any(1).nonzero()[:, 0], above.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    z, y = (slice(int(found[0]), int(found[-1]) + 1) for found in (rows, lines))
    across = (values[z, y].amax((0, 1)) > bound).nonzero()[:, 0]
    return z, y, slice(int(across[0]), int(across[-1]) + 1)
