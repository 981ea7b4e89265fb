"""nnU-Net's sliding window with one difference: rows leave as soon as no later patch can touch them.

Patches, weights and their order are the host's, unless our entry of the plans asks for others (`Window`).

Logits are summed in single precision. Half precision, which the host uses, changes voxels near the surface of a mask
(each sum is off by up to a few 2^-11 of its value, and at the surface the value crosses zero), so that no bound proves
the masks equal; letting rows go saves more memory than halving them.
"""

# Shapes: K classes; Z Y X voxels of the preprocessed image, padded to the patch; D rows of a patch along Z.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from nnunetv2_clip.inference.air import air_windows
from nnunetv2_clip.tables import Finite, Row, checked
from nnunetv2_clip.trained_model import PLANS_KEY

PROBE_EVERY = 8  # of the windows of air: is anything found there
NOTHING_FOUND = -2.2  # logit of a probability of 0.1: below every threshold that rules have
WINDOW_ENTRY = "window"  # in our entry of the plans


@dataclass(frozen=True)
class Window(Row):
    """How patches lie and are blended.

    Attributes:
        floor: the smallest weight of a voxel, as a share of the largest in its patch.
        positions: "spread": as nnU-Net places them, at equal distances; "steps": at multiples of the step, the last one
            pushed back into the image.
    """

    floor: Annotated[Finite, Field(ge=0, le=1)] = 0.0
    positions: Literal["spread", "steps"] = "spread"

    @classmethod
    def of_plans(cls, plans: Mapping) -> Window:
        """Raises UserError: the entry is damaged."""
        entry = (plans.get(PLANS_KEY) or {}).get(WINDOW_ENTRY, {})
        return checked(cls, entry, f"plans.json, entry {PLANS_KEY!r}, {WINDOW_ENTRY}", "import the weights again")


REFERENCE = Window(floor=1e-3, positions="steps")  # of the authors of the paper: MONAI's


class SlidingWindow:
    """The patches of one image and the networks (one per fold) that look at them."""

    def __init__(
        self, predictor: nnUNetPredictor, networks: Sequence[nn.Module], data: Tensor, air_bound: float | None = None
    ):
        """`data` is (1, Z, Y, X) float32 on the CPU; windows of air have one answer if its largest value is given."""
        self._predictor, self._networks = predictor, tuple(networks)
        patch = tuple(predictor.configuration_manager.patch_size)
        self._data, unpad = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
        self._unpad = unpad[1:]
        self._window = Window.of_plans(predictor.plans_manager.plans)
        self._slicers = self._patches(patch)
        self._depth = patch[0] if len(patch) == 3 else 1
        self._patch = patch
        self._air = frozenset() if air_bound is None else air_windows(self._data, self._slicers, air_bound)
        self.finds_in_air = False  # said by the last run

    @property
    def buffer_bytes_per_class(self) -> int:
        """Memory that `run` holds for each class at a time: the sums, and a copy of one class while they move."""
        return 4 * self._depth * self._data.shape[2] * self._data.shape[3]

    @property
    def patch_bytes_per_class(self) -> int:
        """Memory of the logits of one class in one patch, in single precision."""
        return 4 * math.prod(self._patch)

    def look_at_one_patch(self) -> None:
        """Run the networks once, to see what that costs."""
        self._predict(self._slicers[0])

    @torch.inference_mode()
    def run(self, num_classes: int, sink: Callable[[Tensor], None], device: torch.device) -> None:
        """Call `sink` with (K, n, Y, X) float32 rows of logits, in order; sums are held on `device`."""
        plane = self._data.shape[2:]
        sums = torch.zeros((num_classes, self._depth, *plane), device=device)
        weights = torch.zeros((self._depth, *plane), device=device)
        gaussian = self._gaussian().to(device)
        base, answers = 0, _Answers(self._predict, self._data, self._slicers, self._air)
        self.finds_in_air = answers.finds_in_air
        slicers = self._slicers
        if self._predictor.allow_tqdm:
            slicers = tqdm(slicers, "patches", leave=False, unit="patch")
        for number, slicer in enumerate(slicers):
            start = slicer[1].start if isinstance(slicer[1], slice) else slicer[1]
            if start > base:
                self._release(sums, weights, base, start - base, sink)
                base = start
            window = (slice(None), slice(0, self._depth), *slicer[-2:])
            # 2d patches have no rows: they fill the only one
            logits = answers.of(number).to(device).view(num_classes, self._depth, *self._patch[-2:])
            sums[window].addcmul_(logits.float(), gaussian)
            weights[window[1:]] += gaussian
        self._release(sums, weights, base, self._depth, sink)

    def _patches(self, patch: tuple[int, ...]) -> list[tuple]:
        """What cuts them out of the image, in ascending order of rows."""
        size = self._data.shape[1:]
        if self._window.positions == "spread":
            return self._predictor._internal_get_sliding_window_slicers(size)
        steps = [max(int(edge * self._predictor.tile_step_size), 1) for edge in patch]
        starts = [
            [*range(0, whole - edge, step), whole - edge] for whole, edge, step in zip(size, patch, steps, strict=True)
        ]
        cuts = [[slice(start, start + edge) for start in own] for own, edge in zip(starts, patch, strict=True)]
        return [(slice(None), *cut) for cut in product(*cuts)]

    def _gaussian(self) -> Tensor:
        """(D, Y, X) of the patch, in the host's half precision."""
        values = compute_gaussian(self._patch, sigma_scale=1 / 8, value_scaling_factor=10, device=torch.device("cpu"))
        values = values.float().view(self._depth, *self._patch[-2:])
        return values.clamp(min=self._window.floor * values.max())

    @torch.inference_mode()
    def _predict(self, slicer: tuple) -> Tensor:
        """(K, *patch) logits: the mean over folds, and over the mirrored copies that the checkpoint allows."""
        device = self._predictor.device
        patch = self._data[slicer][None].clone(memory_format=torch.contiguous_format).to(device)
        mean = None
        with torch.autocast("cuda", enabled=device.type == "cuda"):
            for network in self._networks:
                self._predictor.network = network
                logits = self._predictor._internal_maybe_mirror_and_predict(patch)[0]
                mean = logits if mean is None else mean.add_(logits)
        mean /= len(self._networks)
        if not torch.isfinite(mean).all():
            raise FloatingPointError("the network gave logits that are NaN or infinite")
        return mean

    def _release(self, sums: Tensor, weights: Tensor, base: int, count: int, sink: Callable[[Tensor], None]) -> None:
        """Hand the first rows to `sink`, without the padding, and move the others up."""
        rows, *plane = self._unpad
        first, last = max(rows.start - base, 0), min(rows.stop - base, count)
        if last > first:
            inside = (slice(first, last), *plane)
            sums[:, :count].div_(weights[:count])
            sink(sums[(slice(None), *inside)])
        left = self._depth - count
        for values in (*sums, weights):
            values[:left] = values[count:].clone()
            values[left:] = 0


class _Answers:
    """What the networks say about each window; windows that hold the same have one answer.

    The same: one value in all voxels, such as clipped air or what pads a CT; then the answer is the one that each of
    them would get. Or they are windows of air: then every eighth of them is predicted, and if no class has a
    probability worth naming in any of these, all have the last one's answer.
    """

    def __init__(self, predict: Callable[[tuple], Tensor], data: Tensor, slicers: Sequence[tuple], air: frozenset[int]):
        self._predict, self._data, self._slicers = predict, data, slicers
        self._of_value: tuple[float, Tensor] | None = None
        self._of_air: Tensor | None = None
        self.finds_in_air = False
        for number in sorted(air)[::PROBE_EVERY]:
            self._of_air = predict(slicers[number])
            self.finds_in_air = bool((self._of_air > NOTHING_FOUND).any())
            if self.finds_in_air:
                break
        self._air = frozenset() if self.finds_in_air else air

    def of(self, number: int) -> Tensor:
        """(K, *patch) logits of a window; not to be changed."""
        if number in self._air:
            assert self._of_air is not None
            return self._of_air
        slicer = self._slicers[number]
        lowest, highest = (float(value) for value in self._data[slicer].aminmax())
        if lowest != highest:
            return self._predict(slicer)
        if self._of_value is None or self._of_value[0] != lowest:
            self._of_value = lowest, self._predict(slicer)
        return self._of_value[1]
