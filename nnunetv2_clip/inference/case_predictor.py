"""Predict one CT: preprocess, slide, export on the way; within a memory budget if one is given."""

# Shapes: K classes; X Y Z voxels in the axis order of the input file.

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch._dynamo import OptimizedModule
from tqdm import tqdm

from nnunetv2_clip.device import compiles_on
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.air import air_bound
from nnunetv2_clip.inference.grid import Preprocessed, preprocess
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.memory import (
    GB,
    classes_at_a_time,
    free_beside,
    peak_bytes,
    reset_peak,
    used_bytes,
)
from nnunetv2_clip.inference.restricted import drop_untrained
from nnunetv2_clip.inference.sliding import SlidingWindow
from nnunetv2_clip.inference.streaming import StreamingExport
from nnunetv2_clip.networks.universal import bare_network

# Reading and preprocessing hold the image as stored, and single-precision copies of it before and after resampling.
BYTES_PER_INPUT_VOXEL = 24
SLACK_BYTES = 200_000_000  # what allocators keep, and the tables of the export


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says about one CT, in the axes of its file.

    Attributes:
        masks: class -> mask, for every class asked for.
        probabilities: class -> (X, Y, Z) uint16, in steps of 1/65535.
        seconds: stage -> time.
        num_passes: how often the network ran, because memory did not hold the sums of all classes at once.
    """

    masks: dict[str, Mask]
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    num_passes: int = 1


class CasePredictor:
    """A model on its device, ready for case after case.

    Args:
        predictor: from `load_predictor`.
        max_ram: bytes that the process should stay below; None: all classes at once.
        skips_air: windows that hold only air around the patient have one answer (inference/air.py).

    Raises:
        UserError: air cannot be told from the values that this model sees.
    """

    def __init__(self, predictor, max_ram: int | None = None, skips_air: bool = False):
        self._predictor = predictor
        self.names = tuple(predictor.network.class_names)
        self.trained = tuple(drop_untrained(predictor))
        self._networks = _networks_of_folds(predictor)
        self._thresholds: Mapping[str, float] = {}
        self._probabilities: tuple[str, ...] = ()
        self._max_ram = max_ram
        schemes = predictor.configuration_manager.normalization_schemes
        self._air_bound = air_bound(predictor.plans_manager.plans, schemes) if skips_air else None
        self._said: set[str] = set()

    def for_classes(
        self,
        names: Sequence[str],
        thresholds: Mapping[str, float] | None = None,
        probabilities: Sequence[str] = (),
    ) -> CasePredictor:
        """The same networks for some of the classes.

        Args:
            thresholds: class -> probability above which a voxel belongs to it; 0.5 where not named.
            probabilities: of these names: classes whose probabilities are wanted as volumes.
        """
        other = copy(self)
        other.names, other.trained = tuple(names), tuple(name for name in self.trained if name in names)
        other._thresholds, other._probabilities = dict(thresholds or {}), tuple(probabilities)
        return other

    @property
    def modality(self) -> str:
        """nnU-Net's name of the image channel that the model was trained with."""
        return next(iter(self._predictor.dataset_json["channel_names"].values()))

    def check_size(self, where: object, shape: Sequence[int]) -> None:
        """Can an image of this shape be read and preprocessed within the budget.

        Raises:
            UserError: no.
        """
        needed = used_bytes() + BYTES_PER_INPUT_VOXEL * int(np.prod([int(size) for size in shape]))
        self._require(needed, where, f"reading and resampling its voxels {tuple(shape)} ")

    def _require(self, needed: int, where: object, what: str = "") -> None:
        if self._max_ram is not None and needed > self._max_ram:
            found = f"{what}does not fit into --max-ram {self._max_ram / GB:.3g}GB"
            expected = f"at least {math.ceil(needed / GB * 10) / 10:.1f}GB for this image and model"
            raise UserError(where, found, expected, "give more memory, or crop the image")

    def preprocess(self, image: InputImage) -> Preprocessed:
        return preprocess(image, self._predictor)

    def predict(self, case: Preprocessed, where: object = "image") -> Prediction:
        """Masks of every class of the model; empty for those that it was never trained on.

        Raises:
            UserError: one class alone does not fit into the memory budget.
        """
        export = lambda names: StreamingExport(names, case.maps, self._thresholds, self._probabilities)  # noqa: E731
        exports, seconds = self.run(case, where, export)
        shape = case.placement.file_shape
        masks = {name: Mask(shape) for name in self.names}
        probabilities = {name: np.zeros(shape, np.uint16) for name in self._probabilities}
        start = time.perf_counter()
        for one in exports:
            masks |= one.finish(case.placement)
            found = one.finish_probabilities(case.placement)
            probabilities |= {name: probability.full(shape) for name, probability in found.items()}
        seconds["export"] += time.perf_counter() - start
        return Prediction(masks, probabilities, seconds, len(exports))

    def run(self, case: Preprocessed, where: object, make_export) -> tuple[list, dict[str, float]]:
        """Stream the logits into `make_export(names)`, one for each pass of the network; and the time they took."""
        data = torch.from_numpy(np.ascontiguousarray(case.data))
        window = SlidingWindow(self._predictor, self._networks, data, self._air_bound)
        device, count = self._where_to_sum(window, case, where)
        exports, seconds = [], {"network": 0.0, "export": 0.0}
        for first in range(0, len(self.trained), count):
            names = self.trained[first : first + count]
            export = self._pass(window, names, make_export(names), device, seconds)
            if export is None:
                device = self._main_memory("the device ran out of it")
                export = self._pass(window, names, make_export(names), device, seconds)
            exports.append(export)
        return exports, seconds

    def _pass(self, window: SlidingWindow, names: Sequence[str], export, device: torch.device, seconds: dict):
        """The export, after one pass of the network over the image for these classes; None: the sums did not fit."""
        clock = _Clock(export.push, self._predictor.device)
        start = time.perf_counter()
        try:
            with _only(self._networks, names):
                window.run(len(names), clock, device)
        except torch.cuda.OutOfMemoryError:
            if device.type == "cpu":
                raise  # the network itself does not fit
            return None
        if window.finds_in_air:
            self._say_once("Note: --skip-air is without effect", "the model finds some class in air")
        seconds["network"] += time.perf_counter() - start - clock.seconds
        seconds["export"] += clock.seconds
        return export

    def _where_to_sum(self, window: SlidingWindow, case: Preprocessed, where: object) -> tuple[torch.device, int]:
        """The device of the sums, and for how many classes at a time: all of them, unless memory forbids it."""
        device, count = self._predictor.device, len(self.trained)
        free = free_beside(window.look_at_one_patch, device)
        if free is not None:
            base = 2 * window.buffer_bytes_per_class + _resampled_bytes(window, case) + SLACK_BYTES
            per_class = window.buffer_bytes_per_class + 2 * window.patch_bytes_per_class
            count = classes_at_a_time(len(self.trained), per_class, free - base)
            if not count:
                needed = base + len(self.trained) * per_class
                device = self._main_memory(f"the device has {free / GB:.1f} GB free, they need {needed / GB:.1f} GB")
                count = len(self.trained)
        if self._max_ram is not None:
            count = min(count, self._classes_within_budget(window, case, where))
        return device, count

    def _main_memory(self, reason: str) -> torch.device:
        self._say_once("Note: logits are summed in main memory, which is slower", reason)
        return torch.device("cpu")

    def _say_once(self, what: str, why: str) -> None:
        """On stderr, for the first of many cases."""
        if what not in self._said:
            tqdm.write(f"{what}: {why}", file=sys.stderr)
        self._said.add(what)

    def _classes_within_budget(self, window: SlidingWindow, case: Preprocessed, where: object) -> int:
        """How many classes at a time fit into `max_ram`.

        Raises:
            UserError: not even one.
        """
        reset_peak()
        window.look_at_one_patch()
        volumes = int(np.prod(case.placement.file_shape)) * (1 + 2 * len(self._probabilities))
        base = peak_bytes() + _resampled_bytes(window, case) + volumes + SLACK_BYTES
        # sums, the rows between two slabs, an answer that windows share, and at the worst a bit per voxel of the output
        per_class = 2 * window.buffer_bytes_per_class + window.patch_bytes_per_class
        per_class += int(np.prod(case.placement.file_shape)) // 8
        self._require(base + per_class, where)
        return (self._max_ram - base) // per_class


def _resampled_bytes(window: SlidingWindow, case: Preprocessed) -> int:
    """What the export holds of one class at a time: rows that are widened, and two neighbours to mix."""
    out_plane = 4 * len(case.maps[1]) * len(case.maps[2])
    rows = 2 + window.buffer_bytes_per_class // (4 * case.data.shape[2] * case.data.shape[3])
    return 3 * rows * out_plane


class _Clock:
    """Hands rows on and measures how long that takes."""

    def __init__(self, push, device: torch.device):
        self._push, self._device = push, device
        self.seconds = 0.0

    def __call__(self, rows: torch.Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that waiting for the network counts as network
        start = time.perf_counter()
        self._push(rows)
        self.seconds += time.perf_counter() - start


def _networks_of_folds(predictor) -> list[nn.Module]:
    """Compiled where nnU-Net has been told to (nnUNet_compile=t): each copy anew, as a copy of a compiled network runs
    the network that it was copied from."""
    networks = []
    for weights in predictor.list_of_parameters:
        network = deepcopy(bare_network(predictor.network))
        network.load_state_dict(weights)
        networks.append(network.to(predictor.device).eval())
    if isinstance(predictor.network, OptimizedModule) and compiles_on(predictor.device):
        networks = [torch.compile(network) for network in networks]
    return networks


@contextmanager
def _only(networks: Sequence[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """The networks with some of their classes, for a while."""
    networks = [bare_network(network) for network in networks]
    before = [(network.class_embedding, network.class_names) for network in networks]
    if tuple(names) != before[0][1]:
        for network in networks:
            network.class_embedding = deepcopy(network.class_embedding)
            network.keep_classes(names)
    try:
        yield
    finally:  # the next case needs all classes again, whatever happened to this one
        for network, (embedding, all_names) in zip(networks, before, strict=True):
            network.class_embedding, network.class_names = embedding, all_names
