"""Probabilities of single classes on the image's grid, kept only in the box in which they are worth keeping."""

# Shapes: K classes; X Y Z voxels in the axis order of the input file; n rows along the first axis of the network.

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnunetv2_clip.inference.masks import Box, Placement, union
from nnunetv2_clip.inference.resampling import AxisMap
from nnunetv2_clip.inference.streaming import PROBABILITY_STEPS, StreamingExport, logit

LOWEST = 0.05  # a voxel with less is certainly not of the class


@dataclass(frozen=True, eq=False)
class Probability:
    """The probability of one class; 0 outside its box and wherever it is below `LOWEST`.

    Attributes:
        box: None when no voxel reaches `LOWEST`.
        steps: (box) uint16, in steps of 1/65535.
    """

    box: Box | None = None
    steps: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """(box) float32, 0 to 1."""
        assert self.steps is not None
        return self.steps.astype(np.float32) / PROBABILITY_STEPS


class ProbabilityExport(StreamingExport):
    """Takes finished rows of logits in order and keeps the probabilities of the wanted classes.

    Args:
        names: the K classes in channel order.
        maps: how each axis of the logits is resampled.
        wanted: the classes to keep.
    """

    def __init__(self, names: Sequence[str], maps: Sequence[AxisMap], wanted: Collection[str]):
        super().__init__(names, maps)
        self._wanted = frozenset(wanted)

    def _export(self, name: str, low: Tensor, ready: slice) -> None:
        if name not in self._wanted:
            return
        for box, values in self._resampled(low, ready, logit(LOWEST)):
            probability = values.sigmoid()
            steps = probability.mul(PROBABILITY_STEPS).round_().mul_(probability >= LOWEST)
            self._pieces[name].append((box, steps.cpu().numpy().astype(np.uint16)))

    def finish_probabilities(self, placement: Placement) -> dict[str, Probability]:
        """The wanted classes in the axes of the input file."""
        return {name: self._whole(name, placement) for name in self.names if name in self._wanted}

    def _whole(self, name: str, placement: Placement) -> Probability:
        pieces = self._pieces.pop(name)
        if not pieces:
            return Probability()
        box = union([piece_box for piece_box, _ in pieces])
        steps = np.zeros([part.stop - part.start for part in box], np.uint16)
        for piece_box, values in pieces:
            inside = tuple(
                slice(part.start - outer.start, part.stop - outer.start)
                for part, outer in zip(piece_box, box, strict=True)
            )
            steps[inside] = values
        return Probability(placement.box_in_file(box), np.ascontiguousarray(placement.voxels_in_file(steps)))
