"""Logits of the network's grid in, masks of the image's grid out: class by class, a few rows at a time.

The sliding window runs along the first axis, so that its first rows are final long before the last patch. They are
resampled at once, only where the class can be positive, and kept as bits: no float volume of the output's size exists.
"""

# Shapes: K classes; Z Y X voxels of the network's grid; n rows along Z.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nnunetv2_clip.inference.masks import Box, Mask, Placement, union
from nnunetv2_clip.inference.resampling import AxisMap

BLOCK_VOXELS = 1 << 22  # output voxels that exist as floats at one time
PROBABILITY_STEPS = 65535


def logit(probability: float) -> float:
    """The logit above which a voxel has more than this probability."""
    return float(np.log(probability) - np.log1p(-probability))


class StreamingExport:
    """Takes finished rows of logits in order and makes the masks.

    Args:
        names: the K classes in channel order.
        maps: how each axis of the logits is resampled.
        thresholds: probability above which a voxel belongs to a class (0.5 where not named).
        probabilities: classes whose probability is kept as a volume as well.
    """

    def __init__(
        self,
        names: Sequence[str],
        maps: Sequence[AxisMap],
        thresholds: Mapping[str, float] | None = None,
        probabilities: Sequence[str] = (),
    ):
        self.names = tuple(names)
        self._maps = tuple(maps)
        self._bounds = {name: logit((thresholds or {}).get(name, 0.5)) for name in names}
        self._pieces: dict[str, list[tuple[Box, np.ndarray]]] = {name: [] for name in names}
        self.out_shape = tuple(len(one) for one in maps)
        self.probabilities = {name: np.zeros(self.out_shape, np.uint16) for name in probabilities if name in names}
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

    def _mask(self, name: str, placement: Placement) -> Mask:
        pieces = self._pieces.pop(name)
        if not pieces:
            return Mask(placement.file_shape)
        box = union([piece_box for piece_box, _ in pieces])
        voxels = np.zeros([part.stop - part.start for part in box], bool)
        for piece_box, bits in pieces:
            sizes = [part.stop - part.start for part in piece_box]
            inside = tuple(
                slice(part.start - outer.start, part.stop - outer.start)
                for part, outer in zip(piece_box, box, strict=True)
            )
            voxels[inside] = np.unpackbits(bits, count=int(np.prod(sizes))).view(bool).reshape(sizes)
        return Mask.of(placement.file_shape, placement.box_in_file(box), placement.voxels_in_file(voxels))

    def _export(self, name: str, low: tuple[Tensor, Tensor], ready: slice) -> None:
        """One class: `low`, two times (n, Y, X), holds the rows from `_first_row` on."""
        volume = self.probabilities.get(name)
        if volume is not None:
            for box, values in self._resampled(low, ready, logit(0.5 / PROBABILITY_STEPS)):
                scaled = values.sigmoid_().mul_(PROBABILITY_STEPS).round_()
                volume[box] = scaled.cpu().numpy().astype(np.uint16)
        bound = self._bounds[name]
        for box, values in self._resampled(low, ready, bound):
            mask = (values > bound).cpu().numpy()
            if mask.any():
                self._pieces[name].append((box, np.packbits(mask)))

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


def _positive_box_of_two(first: Tensor, second: Tensor, bound: float) -> Box | None:
    """As `positive_box`, of two volumes one above the other; most classes need no copy of them."""
    boxes = [positive_box(first, bound), positive_box(second, bound)]
    if boxes[1] is not None:
        z, *across = boxes[1]
        boxes[1] = slice(z.start + len(first), z.stop + len(first)), *across
    found = [box for box in boxes if box is not None]
    return union(found) if found else None


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
