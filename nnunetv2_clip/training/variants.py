"""Variants of the trainer, each a small override; named as nnU-Net names its own."""

from __future__ import annotations

import os

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_clip.training.trainer import CLIPUniversalTrainer


class _FixedLength(CLIPUniversalTrainer):
    """Another number of epochs."""

    length: int

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device=torch.device("cuda"),
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.length


class CLIPUniversalTrainer_1epoch(_FixedLength):
    length = 1


class CLIPUniversalTrainer_5epochs(_FixedLength):
    length = 5


class CLIPUniversalTrainer_10epochs(_FixedLength):
    length = 10


class CLIPUniversalTrainer_20epochs(_FixedLength):
    length = 20


class CLIPUniversalTrainer_50epochs(_FixedLength):
    length = 50


class CLIPUniversalTrainer_100epochs(_FixedLength):
    length = 100


class CLIPUniversalTrainer_250epochs(_FixedLength):
    length = 250


class CLIPUniversalTrainer_2000epochs(_FixedLength):
    length = 2000


class CLIPUniversalTrainerDemo(CLIPUniversalTrainer):
    """Minutes on a CPU instead of hours on a GPU: for the demo and for a first try of a new merge.

    AdamW, because nnU-Net's SGD with momentum 0.99 needs more steps than a CPU makes in minutes; two of three patches
    show an annotated class.

    Iterations and epochs can be set from outside, so that a smoke test is the same code:
    nnUNet_clip_demo_epochs (default 12) and nnUNet_clip_demo_iterations (default 120).
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device=torch.device("cuda"),
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr, self.weight_decay = 2e-3, 1e-5
        self.oversample_foreground_percent = 0.67
        self.num_epochs = int(os.environ.get("nnUNet_clip_demo_epochs", 12))
        self.num_iterations_per_epoch = int(os.environ.get("nnUNet_clip_demo_iterations", 120))
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 10)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
