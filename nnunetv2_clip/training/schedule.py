"""The paper's learning rate: linear warm-up, then half a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def warm_up_cosine(epoch: int, num_epochs: int, warm_up: int) -> float:
    """The factor of the learning rate in an epoch: rises in equal steps to 1 at epoch `warm_up`, then falls to 0."""
    if epoch < warm_up:
        return (epoch + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm_up) / max(num_epochs - warm_up, 1)))


class WarmUpCosine(LRScheduler):
    """Called as nnU-Net calls its own scheduler: `step(epoch)` before each epoch."""

    def __init__(self, optimizer: Optimizer, num_epochs: int, warm_up: int):
        self.num_epochs, self.warm_up = num_epochs, warm_up
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of this epoch; without `epoch` that of the first."""
        factor = warm_up_cosine(epoch or 0, self.num_epochs, self.warm_up)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
