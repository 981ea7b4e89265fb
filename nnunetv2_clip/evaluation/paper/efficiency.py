"""What a forward pass costs: parameters, FLOPs, time and memory of our network and of others (paper, Figure 7)."""

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.evaluation.figures import bar_panels, bubble_figure, save_figure
from nnunetv2_clip.evaluation.report import write_tables
from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.evaluation.tables import Table, number
from nnunetv2_clip.files import read_json
from nnunetv2_clip.networks.head import CHANNELS, NUM_DYNAMIC_PARAMETERS, text_driven_head
from nnunetv2_clip.networks.universal import CLIPUniversalNet
from nnunetv2_clip.trained_model import require_known_classes

NUM_CHANNELS = 1  # a CT
TEXT_WIDTH = 512  # CLIP ViT-B/32, the paper's encoder
NUM_MSD_TASKS = 6
SWIN_FEATURE_SIZE = 48
SWIN_STEP, SWIN_LONGEST = 32, 64  # every side is a multiple of 32, the longest at least 64

COLUMNS = (
    "parameters (M)", "per class", "GFLOPs", "per class", "seconds", "per class", "peak memory (MiB)", "per class"
)  # fmt: skip

# Short names of the networks, as on the command line.
UNIVERSAL_NET, ONE_CLASS, NNUNET, ONE_TASK, TASKS, SWIN = (
    "universal", "universal-1-class", "nnunet", "nnunet-1-task", "nnunet-per-task", "swin-unetr"
)  # fmt: skip
WITH_DICE = (UNIVERSAL_NET, NNUNET, TASKS, SWIN)  # networks that can have an evaluation


@dataclass(frozen=True)
class Candidate:
    """A network to be measured.

    Attributes:
        key: short name.
        name: for tables and pictures.
        build: gives the network, without deep supervision, in evaluation mode.
        num_classes: how many classes one pass gives.
    """

    key: str
    name: str
    build: Callable[[], nn.Module]
    num_classes: int


@dataclass(frozen=True)
class Cost:
    """One forward pass of one image.

    Attributes:
        key, name, num_classes: of the network.
        parameters: their number.
        flops: multiplications and additions of convolutions and matrix products, by torch's counter.
        seconds: median over the repeats; NaN if not measured.
        peak_bytes: of all tensors at once, weights included; NaN if not measured.
    """

    key: str
    name: str
    num_classes: int
    parameters: int
    flops: int
    seconds: float
    peak_bytes: float

    @property
    def figures(self) -> tuple[float, float, float, float]:
        """Million parameters, GFLOPs, seconds, MiB."""
        return self.parameters / 1e6, self.flops / 1e9, self.seconds, self.peak_bytes / 2**20


def candidates(plans: Path, configuration: str) -> tuple[list[Candidate], tuple[int, ...]]:
    """The universal network and stock nnU-Net of the same plans, Swin UNETR if monai is there; the plans' patch size.

    Raises:
        UserError: no plans, or no such configuration.
    """
    content = read_json(plans, "give the plans.json of a model, or the plans in nnUNet_preprocessed")
    require_known_classes(content if isinstance(content, dict) else {}, plans)
    known = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(known, dict) or not known:
        raise UserError(plans, "holds no plans", "the plans.json of a model, or the plans in nnUNet_preprocessed")
    if configuration not in known:
        raise UserError(
            plans, f"has no configuration {configuration!r}", f"one of: {', '.join(known)}", "name it with -c"
        )
    names, backbone, kwargs = _architecture(content, configuration)
    parts = kwargs.pop("extensions", ())
    count = "1 class" if len(names) == 1 else f"{len(names)} classes"

    def universal(classes: Sequence[str]) -> nn.Module:
        own = [part for part in parts if set(part) & set(classes)]
        sizes = NUM_CHANNELS, len(classes), backbone, classes, TEXT_WIDTH
        return CLIPUniversalNet(*sizes, deep_supervision=False, extensions=own, **kwargs).eval()

    def stock(num_outputs: int) -> nn.Module:
        sizes = {"input_channels": NUM_CHANNELS, "num_classes": num_outputs}
        return locate(backbone)(**sizes, deep_supervision=False, **kwargs).eval()

    found = [
        Candidate(UNIVERSAL_NET, f"universal, {count}", lambda: universal(names), len(names)),
        Candidate(ONE_CLASS, "universal, 1 class", lambda: universal(names[:1]), 1),
        Candidate(NNUNET, f"nnU-Net, {count}", lambda: stock(len(names)), len(names)),
        Candidate(ONE_TASK, "nnU-Net, 1 task (2 classes)", lambda: stock(2), 2),
    ]
    if has_monai():
        found.append(Candidate(SWIN, f"Swin UNETR, {count}", lambda: _swin(len(names)), len(names)))
    return found, tuple(PlansManager(content).get_configuration(configuration).patch_size)


def has_monai() -> bool:
    """Is the library there that Swin UNETR comes from."""
    return find_spec("monai") is not None


def measure_all(
    networks: Sequence[Candidate], size: tuple[int, ...], device: torch.device, repeats: int
) -> tuple[list[Cost], list[str]]:
    """The costs of all networks that can take an input of this size, and in words which were left out and why.

    Where one nnU-Net for one task was measured, six of them follow, as the six MSD tasks need without our method.
    """
    costs, left_out = [], [] if has_monai() else ["Swin UNETR left out: monai is not installed."]
    for network in tqdm(networks, desc=" x ".join(map(str, size)), unit="network"):
        reason = misfit(network, size)
        try:
            if not reason:
                costs.append(measure_network(network, size, device, repeats))
                costs += [six_networks(costs[-1])] if network.key == ONE_TASK else []
        except RuntimeError as error:  # a size that is no multiple of the strides, or not enough memory
            reason = str(error).splitlines()[0]
        if reason:
            left_out.append(f"{network.name} left out at this size: {reason}.")
    return costs, left_out


def measure_network(candidate: Candidate, size: Sequence[int], device: torch.device, repeats: int) -> Cost:
    """The cost of one forward pass; FLOPs are counted on the CPU, where no operation is hidden in a fused kernel."""
    network = candidate.build()
    image = torch.zeros(1, NUM_CHANNELS, *size)
    flops = count_flops(network, image)
    network, image = network.to(device), image.to(device)
    peak = _peak_bytes(network, image)
    seconds = _seconds(network, image, repeats)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(candidate.key, candidate.name, candidate.num_classes, parameters, flops, seconds, peak)


def six_networks(cost: Cost) -> Cost:
    """Six one-task networks, one after the other: the classes of each are counted, time and memory not measured."""
    sums = (NUM_MSD_TASKS * value for value in (cost.num_classes, cost.parameters, cost.flops))
    return Cost(TASKS, f"{NUM_MSD_TASKS} nnU-Nets, 1 task each", *sums, float("nan"), float("nan"))


@torch.inference_mode()
def count_flops(network: Callable[[torch.Tensor], object], image: torch.Tensor) -> int:
    """Multiplications and additions of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def head_flops(num_classes: int, num_voxels: int, num_channels: int = CHANNELS) -> int:
    """FLOPs of the text-driven head by formula: 8x8, 8x8 and 8x1 weights per class and voxel, two operations each.

    The paper's form, without biases. `matrix_head_flops` is what our matrix products do.
    """
    return 2 * (2 * num_channels**2 + num_channels) * num_classes * num_voxels


def matrix_head_flops(num_classes: int, num_voxels: int, num_channels: int = CHANNELS) -> int:
    """The same in our matrix products, which move the first two biases into the next layer's: once, not per voxel."""
    return head_flops(num_classes, num_voxels, num_channels) + 2 * num_classes * num_channels * (num_channels + 1)


def check_head(num_classes: int, size: Sequence[int]) -> str:
    """The FLOPs of the head alone, counted and by formula, in words."""
    num_voxels = math.prod(size)
    weights, classes = torch.zeros(num_classes, NUM_DYNAMIC_PARAMETERS), torch.zeros(num_classes, dtype=torch.long)
    features = torch.zeros(1, CHANNELS, *size)
    counted = count_flops(lambda features: text_driven_head(features, weights, classes), features)
    formula = matrix_head_flops(num_classes, num_voxels)
    verdict = "as the formula says" if counted == formula else f"but {formula / 1e9:.6g} by the formula"
    return (
        f"The text-driven head of {num_classes} classes takes {counted / 1e9:.6g} GFLOPs of it, counted, {verdict}: "
        f"2 (8 x 8 + 8 x 8 + 8) for each class and voxel, and a constant."
    )


def misfit(candidate: Candidate, size: Sequence[int]) -> str:
    """Why a network cannot take an input of this size, as far as that is known beforehand; empty if it can."""
    if candidate.key == SWIN and (any(side % SWIN_STEP for side in size) or max(size) < SWIN_LONGEST):
        return f"every side must be a multiple of {SWIN_STEP}, and the longest at least {SWIN_LONGEST}"
    return ""


def cost_table(costs: Sequence[Cost], size: tuple[int, ...], device: str, note: str = "") -> Table:
    """One line per network: each figure for all its classes, then for one of them."""
    shape = " x ".join(map(str, size))
    title = f"One forward pass, {shape} voxels, {device}"
    return Table(title, ("Network", "classes", *COLUMNS), tuple(_row(cost) for cost in costs), note)


def write_efficiency(
    tables: Sequence[Table], costs: Mapping[tuple[int, ...], list[Cost]], dice: Mapping[str, float], folder: Path
) -> list[str]:
    """efficiency.md, .html and .tex, a picture per size, and Dice against FLOPs where Dice is known.

    Args:
        costs: input size -> networks that were measured.
        dice: short name of a network -> mean Dice.

    Returns:
        The names of the files.
    """
    pictures = {}
    for size, found in costs.items():
        pictures[f"efficiency_{'x'.join(map(str, size))}" if pictures else "efficiency"] = _bars(found)
    size, found = next(iter(costs.items()))
    points = {
        cost.name: (cost.flops / 1e9, dice[cost.key], cost.parameters / 1e6) for cost in found if cost.key in dice
    }
    if points:
        shape = " x ".join(map(str, size))
        axes = f"GFLOPs of one forward pass, {shape} voxels", "Dice, mean over classes"
        pictures["efficiency_dice"] = bubble_figure(points, *axes, "M parameters")
    drawn = [save_figure(figure, folder, name) for name, figure in pictures.items()]
    write_tables(tables, folder, "efficiency", "Efficiency", pictures=drawn)
    return ["efficiency.md", "efficiency.html", "efficiency.tex", *(f"{name}.png" for name in pictures)]


def mean_dice(evaluations: Mapping[str, Path]) -> dict[str, float]:
    """Short name of a network -> Dice, the mean over the classes of its evaluation.

    Raises:
        UserError: no such network, or no evaluation.
    """
    for key in evaluations:
        if key not in WITH_DICE:
            raise UserError("-i", f"unknown network {key!r}.{suggestion(key, WITH_DICE)}", f"of {', '.join(WITH_DICE)}")
    loaded = {key: Evaluation.load(path) for key, path in evaluations.items()}
    return {key: found.mean_over_classes(found.headline_pairs)["Dice"].mean for key, found in loaded.items()}


def _row(cost: Cost) -> tuple[str, ...]:
    figures = zip(cost.figures, (2, 2, 3, 1), strict=True)
    cells = [number(value / n, digits) for value, digits in figures for n in (1, cost.num_classes)]
    return cost.name, str(cost.num_classes), *cells


@torch.inference_mode()
def _seconds(network: nn.Module, image: torch.Tensor, repeats: int) -> float:
    """Median of the repeats, after the passes that came before have warmed everything up."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@torch.inference_mode()
def _peak_bytes(network: nn.Module, image: torch.Tensor) -> int:
    """All tensors at once, weights and image included; on the CPU from the allocations that torch's profiler sees."""
    if image.is_cuda:
        network(image)
        torch.cuda.synchronize(image.device)
        torch.cuda.reset_peak_memory_stats(image.device)
        network(image)
        torch.cuda.synchronize(image.device)
        return torch.cuda.max_memory_allocated(image.device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it would print that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        network(image)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    fixed = sum(tensor.nbytes for tensor in (image, *network.parameters(), *network.buffers()))
    return fixed + max(itertools.accumulate(changes), default=0)


def _architecture(plans: dict, configuration: str) -> tuple[tuple[str, ...], str, dict]:
    """Class names, dotted path of the backbone, and its arguments with the classes that they name looked up."""
    stock = PlansManager(plans).get_configuration(configuration)
    kwargs = dict(stock.network_arch_init_kwargs)
    for key in stock.network_arch_init_kwargs_req_import:
        if kwargs.get(key) is not None:
            kwargs[key] = locate(kwargs[key])
    names = tuple(kwargs.pop("class_names", UNIVERSAL.names))
    backbone = kwargs.pop("backbone_class", stock.network_arch_class_name)
    for key in ("text_width", "image_width", "deep_supervision"):
        kwargs.pop(key, None)
    return names, backbone, kwargs


def _swin(num_outputs: int) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels=NUM_CHANNELS, out_channels=num_outputs, feature_size=SWIN_FEATURE_SIZE).eval()


def _bars(costs: Sequence[Cost]):
    parameters, gigaflops, seconds, mebibytes = zip(*(cost.figures for cost in costs), strict=True)

    def per_class(values: Sequence[float]) -> list[float]:
        return [value / cost.num_classes for value, cost in zip(values, costs, strict=True)]

    panels = {
        "GFLOPs, all classes": gigaflops,
        "GFLOPs per class": per_class(gigaflops),
        "Parameters (M)": parameters,
        "Seconds, all classes": seconds,
        "Peak memory (MiB)": mebibytes,
        "Seconds per class": per_class(seconds),
    }
    return bar_panels([cost.name for cost in costs], panels)
