"""What would head and loss in one piece save, which never stores the logits? Their time beside that of the logits' way.

    python benchmarks/bench_fusion.py [--size 64] [--classes 15] [--threads 1]

One case, forward and backward. Apart, head and loss pass the logits through memory five times: the head writes them,
the loss reads them twice, writes their gradient, and the head reads that. All arithmetic stays in one piece. Processor
time on the CPU, wall-clock time on a GPU; the fastest of several runs. Writes benchmarks/results/fusion.md.
"""

from __future__ import annotations

import argparse

import torch
from common import Timing, measure, table, write_result

from nnunetv2_clip.losses.masked import MaskedLoss
from nnunetv2_clip.networks.head import NUM_DYNAMIC_PARAMETERS, text_driven_head
from nnunetv2_clip.networks.pairs import Pairs

GOAL = 1.3  # one piece is worth its code where it is at least so much faster
PASSES = 5


class Work:
    """Head and loss of the annotated classes of one case; every voxel holds one of them or none."""

    def __init__(self, size: int, num_classes: int, device: str):
        torch.manual_seed(0)
        self.features = torch.randn(1, 8, size, size, size, device=device, requires_grad=True)
        self.theta = torch.randn(num_classes, NUM_DYNAMIC_PARAMETERS, device=device).mul_(0.1).requires_grad_()
        self.label_map = torch.randint(num_classes + 1, (1, 1, size, size, size), device=device, dtype=torch.int16)
        self.cases = torch.zeros(num_classes, dtype=torch.long, device=device)
        self.pairs = Pairs(self.cases, torch.arange(num_classes, device=device))
        membership = torch.eye(num_classes + 1, dtype=torch.bool, device=device)[:, 1:]
        self.masked_loss = MaskedLoss(membership, None, (1.0,))
        self.logits = text_driven_head(self.features, self.theta, self.cases).detach()
        self.gradient = torch.randn_like(self.logits)

    def head(self) -> None:
        text_driven_head(self.features, self.theta, self.cases).backward(self.gradient)

    def loss(self) -> None:
        self.masked_loss([self.logits.requires_grad_()], [self.label_map], self.pairs).backward()

    def both(self) -> None:
        logits = text_driven_head(self.features, self.theta, self.cases)
        self.masked_loss([logits], [self.label_map], self.pairs).backward()

    def copy(self) -> None:
        """Two passes: one that reads, one that writes."""
        self.gradient.copy_(self.logits.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="edge of the cube in voxels (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=15, help="annotated in the case (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        work = Work(args.size, args.classes, device)
        head, loss, both, copy = (measure(step, budget_s=5) for step in (work.head, work.loss, work.both, work.copy))
        saved = PASSES / 2 * seconds(copy, device)
        most = seconds(both, device) / (seconds(both, device) - saved)
        rows.append([device.upper(), head, loss, both, copy, f"{most:.2f}x", "yes" if most >= GOAL else "no"])
    header = ["", "head", "loss", "both", "copy of the logits", "gain without five passes", f"worth it (>= {GOAL}x)"]
    size = f"{args.classes} classes, {args.size}^3 voxels, forward + backward."
    write_result("fusion", "Head and loss in one piece: what it could save", size, table(header, rows))


def seconds(timing: Timing, device: str) -> float:
    return timing.cpu_s if device == "cpu" else timing.wall_s


if __name__ == "__main__":
    main()
