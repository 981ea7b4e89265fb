"""What a forward pass costs: parameters, FLOPs, time and memory of our network and of others (paper, Figure 7)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.tables import MISSING, Table, number
from nnunetv2_clip.manifest import read_json
from nnunetv2_clip.networks.universal import CLIPUniversalNet

TEXT_WIDTH = 512  # CLIP ViT-B/32, the paper's encoder
NUM_MSD_TASKS = 6
SWIN_FEATURE_SIZE = 48
SWIN_STEP, SWIN_SMALLEST = 32, 64  # sizes that Swin UNETR can take


@dataclass(frozen=True)
class Candidate:
    """A network to be measured.

    Attributes:
        build: gives the network, without deep supervision, in evaluation mode.
        num_classes: how many classes one pass gives.
    """

    name: str
    build: Callable[[], nn.Module]
    num_classes: int


@dataclass(frozen=True)
class Cost:
    """One forward pass of one image.

    Attributes:
        size: voxels of the input.
        flops: multiplications and additions of convolutions and matrix products, by torch's counter.
        seconds: median over the repeats.
        peak_bytes: of GPU memory, weights included; None on the CPU, where torch does not keep account.
    """

    name: str
    num_classes: int
    size: tuple[int, ...]
    parameters: int
    flops: int
    seconds: float
    peak_bytes: int | None


def candidates(plans: Path, configuration: str, num_channels: int = 1) -> tuple[list[Candidate], tuple[int, ...]]:
    """The universal network and stock nnU-Net of the same plans, Swin UNETR if monai is there; the plans' patch size.

    Raises:
        UserError: no plans, or no such configuration.
    """
    content = read_json(plans, "give the plans.json of a model, or the plans in nnUNet_preprocessed")
    if not isinstance(content, dict) or configuration not in content.get("configurations", {}):
        known = ", ".join(content.get("configurations", {})) if isinstance(content, dict) else "none"
        raise UserError(plans, f"has no configuration {configuration!r}", f"one of: {known}", "name it with -c")
    names, backbone, kwargs = _architecture(content, configuration)

    def universal(classes: Sequence[str]) -> nn.Module:
        return CLIPUniversalNet(
            num_channels, len(classes), backbone, classes, TEXT_WIDTH, deep_supervision=False, **kwargs
        ).eval()

    def stock(num_outputs: int) -> nn.Module:
        return locate(backbone)(
            input_channels=num_channels, num_classes=num_outputs, deep_supervision=False, **kwargs
        ).eval()

    found = [
        Candidate(f"universal, {len(names)} classes", lambda: universal(names), len(names)),
        Candidate("universal, 1 class", lambda: universal(names[:1]), 1),
        Candidate(f"nnU-Net, {len(names)} regions", lambda: stock(len(names)), len(names)),
        Candidate("nnU-Net, 2 regions (one task)", lambda: stock(2), 2),
    ]
    if find_spec("monai") is not None:
        found.append(
            Candidate(f"Swin UNETR, {len(names)} channels", lambda: _swin(num_channels, len(names)), len(names))
        )
    return found, tuple(PlansManager(content).get_configuration(configuration).patch_size)


def measure(
    candidate: Candidate, size: Sequence[int], device: torch.device, repeats: int, num_channels: int = 1
) -> Cost:
    """The cost of one forward pass; FLOPs are counted on the CPU, where no operation is hidden in a fused kernel."""
    network = candidate.build()
    image = torch.zeros(1, num_channels, *size)
    flops = count_flops(network, image)
    network, image = network.to(device), image.to(device)
    seconds, peak = _run(network, image, device, repeats)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(candidate.name, candidate.num_classes, tuple(size), parameters, flops, seconds, peak)


@torch.inference_mode()
def count_flops(network: nn.Module, image: torch.Tensor) -> int:
    """Multiplications and additions of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def head_flops(num_classes: int, num_voxels: int, num_channels: int = 8) -> int:
    """FLOPs of the text-driven head by formula: 8x8, 8x8 and 8x1 weights per class and voxel, two operations each.

    The paper's form, without biases. `matrix_head_flops` is what our matrix products do.
    """
    return 2 * (2 * num_channels**2 + num_channels) * num_classes * num_voxels


def matrix_head_flops(num_classes: int, num_voxels: int, num_channels: int = 8) -> int:
    """The same in our matrix products, which move the first two biases into the next layer's: once, not per voxel."""
    return head_flops(num_classes, num_voxels, num_channels) + 2 * num_classes * num_channels * (num_channels + 1)


def fits(candidate: Candidate, size: Sequence[int]) -> bool:
    """Can the network take an input of this size."""
    return not candidate.name.startswith("Swin") or all(
        edge % SWIN_STEP == 0 and edge >= SWIN_SMALLEST for edge in size
    )


def cost_table(costs: Sequence[Cost], size: tuple[int, ...], device: str, note: str = "") -> Table:
    """One line per network; the last line is six one-task networks, as the six MSD tasks need without our method."""
    rows = [_row(cost) for cost in costs]
    single = next((cost for cost in costs if "one task" in cost.name), None)
    if single is not None:
        many = NUM_MSD_TASKS * single.num_classes
        cells = number(NUM_MSD_TASKS * single.parameters / 1e6, 2), number(NUM_MSD_TASKS * single.flops / 1e9, 1)
        per_class = number(single.flops / single.num_classes / 1e9, 2)
        rows.append((f"{NUM_MSD_TASKS} such networks", str(many), *cells, per_class, MISSING, MISSING))
    columns = ("Network", "classes", "parameters (M)", "GFLOPs", "GFLOPs per class", "seconds", "peak memory (MiB)")
    shape = " x ".join(map(str, size))
    return Table(f"One forward pass, {shape} voxels, {device}", columns, tuple(rows), note)


def _row(cost: Cost) -> tuple[str, ...]:
    return (
        cost.name,
        str(cost.num_classes),
        number(cost.parameters / 1e6, 2),
        number(cost.flops / 1e9, 1),
        number(cost.flops / cost.num_classes / 1e9, 2),
        number(cost.seconds, 3),
        MISSING if cost.peak_bytes is None else number(cost.peak_bytes / 2**20, 0),
    )


@torch.inference_mode()
def _run(network: nn.Module, image: torch.Tensor, device: torch.device, repeats: int) -> tuple[float, int | None]:
    """Median seconds after one pass that warms up, and the peak memory."""
    is_cuda = device.type == "cuda"
    network(image)
    if is_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        network(image)
        if is_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated(device) if is_cuda else None


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


def _swin(num_channels: int, num_outputs: int) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels=num_channels, out_channels=num_outputs, feature_size=SWIN_FEATURE_SIZE).eval()
