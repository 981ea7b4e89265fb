"""Variants of the trainer, each a small override; named as nnU-Net names its own."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nnunetv2_clip.errors import UserError, exit_on_user_error
from nnunetv2_clip.losses.masked import Losses
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.text.encode import encode
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.training.exclusion import ExclusionLoss, exclusive_classes
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer


def _of_length(num_epochs: int) -> type[CLIPUniversalTrainer]:
    """The trainer with another number of epochs. Its name is that of the variable that holds it, for pickle."""

    def set_up(self) -> None:
        self.num_epochs = num_epochs

    name = f"CLIPUniversalTrainer_{num_epochs}epoch{'s' if num_epochs > 1 else ''}"
    return type(name, (CLIPUniversalTrainer,), {"_set_up": set_up, "__module__": __name__})


CLIPUniversalTrainer_1epoch = _of_length(1)
CLIPUniversalTrainer_5epochs = _of_length(5)
CLIPUniversalTrainer_10epochs = _of_length(10)
CLIPUniversalTrainer_20epochs = _of_length(20)
CLIPUniversalTrainer_50epochs = _of_length(50)
CLIPUniversalTrainer_100epochs = _of_length(100)
CLIPUniversalTrainer_250epochs = _of_length(250)
CLIPUniversalTrainer_2000epochs = _of_length(2000)


class CLIPUniversalTrainerDemo(CLIPUniversalTrainer):
    """Minutes on a CPU instead of hours on a GPU: for the demo and for a first try of a new merge.

    AdamW, because nnU-Net's SGD with momentum 0.99 needs more steps than a CPU makes in minutes.

    Iterations and epochs can be set from outside, so that a smoke test is the same code:
    nnUNet_clip_demo_epochs (default 12) and nnUNet_clip_demo_iterations (default 160).
    """

    def _set_up(self) -> None:
        self.initial_lr, self.weight_decay = 1e-3, 1e-5
        with exit_on_user_error():
            self.num_epochs = _from_environment("nnUNet_clip_demo_epochs", 12)
            self.num_iterations_per_epoch = _from_environment("nnUNet_clip_demo_iterations", 160)
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 10)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


def _from_environment(variable: str, default: int) -> int:
    """Raises UserError: no whole number above 0."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(variable, f"is {text!r}", "a whole number above 0", f"export {variable}={default}")
    return int(text)


def warm_up_cosine(epoch: int, num_epochs: int, warm_up: int) -> float:
    """The factor of the learning rate in an epoch: rises in equal steps to 1 at epoch `warm_up`, then falls to 0."""
    if epoch < warm_up:
        return (epoch + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm_up) / max(num_epochs - warm_up, 1)))


class WarmUpCosine(LRScheduler):
    """The paper's learning rate: linear warm-up, then half a cosine.

    Called as nnU-Net calls its own scheduler: `step(epoch)` before each epoch.
    """

    def __init__(self, optimizer: Optimizer, num_epochs: int, warm_up: int):
        self.num_epochs, self.warm_up = num_epochs, warm_up
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of this epoch; without `epoch` that of the first."""
        factor = warm_up_cosine(epoch or 0, self.num_epochs, self.warm_up)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class CLIPUniversalTrainerPaper(CLIPUniversalTrainer):
    """The paper's recipe: AdamW at 4e-4 with weight decay 1e-5, linear warm-up, then cosine, 50 epochs.

    Patch, batch and voxel size are matters of the plans: `nnunetv2_clip plan -pl paper` or `-pl paper_swin`. An epoch
    is nnU-Net's 250 iterations. The paper does not state the length of the warm-up: a tenth of the epochs here.

    Source: paper, section 4 (implementation details).
    """

    warm_up_epochs = 5

    def _set_up(self) -> None:
        self.num_epochs = 50
        self.initial_lr = 4e-4
        self.weight_decay = 1e-5

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, WarmUpCosine(optimizer, self.num_epochs, self.warm_up_epochs)


class _WithoutText(CLIPUniversalTrainer):
    """Vectors without meaning instead of the text embeddings; the plans record which."""

    encoder: str  # as in 'nnunetv2_clip embed --encoder'

    def _text_table(self, path: Path) -> TextTable:
        return encode(self.encoder, [self.manifest.taxonomy.find(name) for name in self.classes])


class CLIPUniversalTrainerOneHot(_WithoutText):
    """No text: one axis for each class, as in DoDNet. An ablation: such a model cannot take up new classes."""

    encoder = "onehot"


class CLIPUniversalTrainerRandomText(_WithoutText):
    """No text: one random direction for each class. The control of an ablation."""

    encoder = "random:0"


class CLIPUniversalTrainerUnmasked(CLIPUniversalTrainer):
    """The baseline that takes unknown for background: every trained class gives loss in every case.

    Validation counts a class only where it is annotated, as in all trainers here.
    """

    def _presence(self, case_ids: Sequence[str]) -> np.ndarray:
        if not self.network.training:
            return super()._presence(case_ids)
        return np.tile(self.trained, (len(case_ids), 1))

    def _known_values(self, case_ids: Sequence[str], pairs: Pairs) -> None:
        return None


class CLIPUniversalTrainerExclusive(CLIPUniversalTrainer):
    """A voxel annotated as one class is a known negative of every class that cannot share it (training/exclusion.py).

    Costs the loss of every trained class in every case, and trusts that the datasets draw the borders between organs
    alike: not the default. Pseudo labels are refused: what a model has guessed is no known negative of another class.
    """

    def _build_loss(self):
        if self.manifest.has_pseudo_labels:
            with exit_on_user_error():
                found = "holds pseudo labels, which rule out nothing for certain"
                remedy = "train with CLIPUniversalTrainer, or on the dataset without pseudo labels"
                raise UserError(self.manifest.where, found, "truth only for this trainer", remedy)
        masked = super()._build_loss()
        exclusive = exclusive_classes(self.classes, self.manifest.taxonomy)
        return ExclusionLoss(exclusive, masked.membership, masked.ignore, masked.weights, masked.batch_dice)

    def _presence(self, case_ids: Sequence[str]) -> np.ndarray:
        annotated = super()._presence(case_ids)
        return annotated | self.trained if self.network.training else annotated

    def _pairs(self, case_ids: Sequence[str]) -> Pairs:
        pairs = super()._pairs(case_ids)
        return replace(pairs, annotated=pairs.pick(torch.from_numpy(super()._presence(case_ids))))

    def _count(self, pairs: Pairs, losses: Losses) -> None:
        assert pairs.annotated is not None
        own = losses.is_known & pairs.annotated
        super()._count(pairs, Losses(losses.mean, losses.per_pair, own, losses.probability, losses.target))
