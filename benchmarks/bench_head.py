"""The text-driven head against the paper's form: grouped 1x1x1 convolutions on features repeated for every class.

    python benchmarks/bench_head.py [--sizes 64 96] [--threads 1] [--devices cpu cuda] [--dtypes float32]

Batch 1, 8 channels, 32 classes. "2 of 32": our head computes the two annotated classes only; the grouped form computes
all and the loss reads two. Ratios on the CPU are of processor time, on a GPU of wall-clock time; the fastest of several
runs. Writes benchmarks/results/head.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import Timing, measure, results_folder, table, verdict, write_result
from torch import Tensor
from torch.nn.functional import conv3d

from nnunetv2_clip.networks.head import NUM_DYNAMIC_PARAMETERS, text_driven_head
from nnunetv2_clip.networks.head_layout import split_parameters

NUM_CLASSES = 32
# What is measured -> (pairs of our head, with backward, goal on CPU, goal on GPU).
ROWS = {
    "forward, 32 classes": (NUM_CLASSES, False, 20, 10),
    "forward + backward, 32 classes": (NUM_CLASSES, True, 5, 10),
    "forward + backward, 2 of 32 annotated": (2, True, 150, None),
}
MEMORY_GOAL = 20  # forward + backward of 32 classes: 1/20 of the grouped form's memory on a GPU


def grouped_head(features: Tensor, theta: Tensor) -> Tensor:
    """(1, 8, *spatial), (K, 153) -> (K, *spatial)."""
    w1, b1, w2, b2, w3, b3 = split_parameters(theta)
    x = features.repeat(1, len(theta), 1, 1, 1)
    for weight, bias in ((w1, b1), (w2, b2)):
        x = conv3d(x, weight.reshape(-1, 8, 1, 1, 1), bias.flatten(), groups=len(theta)).relu_()
    return conv3d(x, w3.reshape(-1, 8, 1, 1, 1), b3.flatten(), groups=len(theta))[0]


def our_head(features: Tensor, theta: Tensor) -> Tensor:
    return text_driven_head(features, theta, torch.zeros(len(theta), dtype=torch.long, device=theta.device))


class Work:
    """One head on one size and device: the same features, parameters and gradient for both forms."""

    def __init__(self, head: Callable, size: int, computed: int, read: int, device: str, dtype: str = "float32"):
        torch.manual_seed(0)
        self.head, self.read = head, read
        kind = {"device": device, "dtype": getattr(torch, dtype)}
        self.features = torch.randn(1, 8, size, size, size, **kind).requires_grad_()
        # Ours takes them as the controller gives them, in single precision; convolutions in the type of the features.
        theta = torch.randn(computed, NUM_DYNAMIC_PARAMETERS, device=device)
        self.theta = (theta if head is our_head else theta.to(kind["dtype"])).requires_grad_()
        self.grad = torch.randn(read, size, size, size, **kind)

    def forward(self) -> None:
        with torch.no_grad():
            self.head(self.features, self.theta)

    def forward_backward(self) -> None:
        self.features.grad = self.theta.grad = None
        logits = self.head(self.features, self.theta)
        (logits if self.read == len(logits) else logits[: self.read]).backward(self.grad)

    def kept_mib(self) -> float:
        """What the forward pass keeps for the backward pass."""
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.update({x.data_ptr(): x.nbytes}) or x, lambda x: x
        ):
            self.head(self.features, self.theta)
        return sum(kept.values()) / 2**20


def run(
    device: str, dtype: str, size: int, backward: bool, computed: int, read: int, head
) -> tuple[Timing, float | None]:
    """Time, and on a GPU the peak memory in MiB."""
    work = Work(head, size, computed, read, device, dtype)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    timing = measure(work.forward_backward if backward else work.forward, budget_s=6)
    return timing, torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96], help="edge of the cube in voxels")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), help="(default: all that are there)")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16", "bfloat16"), default=["float32"])
    parser.add_argument("--pages", type=Path, help="folder of the page (default: benchmarks/results)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    devices = args.devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    works = [(dtype, size, *row) for dtype in args.dtypes for size in args.sizes for row in ROWS.items()]
    rows = []
    for dtype, size, name, (pairs, backward, *goals) in works:
        cells = [f"{name}, {size}^3, {dtype}"]
        for device, goal in zip(("cpu", "cuda"), goals, strict=True):
            cells += compared(device, dtype, size, backward, pairs, goal) if device in devices else [""] * 5
        rows.append(cells)
        print(*cells, sep=" | ", flush=True)
    columns = [
        f"{device} {column}" for device in ("CPU", "GPU") for column in ("grouped", "ours", "ratio", "goal", "met")
    ]
    kept = [Work(head, args.sizes[0], NUM_CLASSES, NUM_CLASSES, "cpu").kept_mib() for head in (grouped_head, our_head)]
    write_result(
        "head",
        "Text-driven head",
        table(["work", *columns], rows),
        f"Kept for the backward pass, 32 classes, {args.sizes[0]}^3: grouped {kept[0]:.0f} MiB, ours {kept[1]:.0f} "
        f"MiB. Goal on a GPU: peak memory of forward + backward at most 1/{MEMORY_GOAL}.",
        folder=args.pages or results_folder(devices[-1]),
    )


def compared(device: str, dtype: str, size: int, backward: bool, pairs: int, goal: float | None) -> list[object]:
    """Grouped, ours, ratio, goal, met."""
    ours, our_mib = run(device, dtype, size, backward, pairs, pairs, our_head)
    try:
        grouped, grouped_mib = run(device, dtype, size, backward, NUM_CLASSES, pairs, grouped_head)
    except torch.OutOfMemoryError:
        return ["out of memory", ours, "", f">= {goal}x" if goal else "", f"(memory of ours {our_mib:.0f} MiB)"]
    clock = "cpu_s" if device == "cpu" else "wall_s"
    reached = getattr(grouped, clock) / getattr(ours, clock)
    met = verdict(reached, goal) if goal else ""
    if device == "cuda":
        met += f" (memory {grouped_mib:.0f} : {our_mib:.0f} MiB)"
    return [grouped, ours, f"{reached:.1f}x", f">= {goal}x" if goal else "", met]


if __name__ == "__main__":
    main()
