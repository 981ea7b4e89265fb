"""Planners in addition to nnU-Net's own, which nnU-Net's -pl cannot find because it looks inside nnunetv2 only."""

from __future__ import annotations

from pathlib import Path

from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import nnUNetPlanner_torchres
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)

from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.networks.head_layout import CHANNELS


class TorchPlanner(nnUNetPlanner_torchres):
    """nnU-Net's default U-Net with torch resampling, so that the export of many classes is fast.

    All planners here share this, and the estimate of memory for the text-driven head.
    """

    default_plans_name = "nnUNetPlans_torchres"
    default_memory_gb: float | None = 8

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=None, *args, **kwargs):
        kwargs.setdefault("plans_name", self.default_plans_name)
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb or self.default_memory_gb, *args, **kwargs)
        cases = Manifest.load(Path(self.raw_dataset_folder) / MANIFEST_FILE).cases.values()
        self.most_annotated = max((len(case.supervised) for case in cases), default=0)

    def static_estimate_VRAM_usage(self, patch_size, input_channels, output_channels, *architecture):
        """nnU-Net's estimate with what the head keeps at full resolution: 8 features, and the logits of one case.

        nnU-Net counts an output channel for every class of the dataset. Here a case gets logits for the classes that
        it annotates, at most `most_annotated`; hidden maps are computed again in the backward pass, never kept.
        """
        return super().static_estimate_VRAM_usage(
            patch_size, input_channels, CHANNELS + self.most_annotated, *architecture
        )


class SmallPlanner(TorchPlanner):
    """A small U-Net and small patches: a first try on a CPU, the demo, tests.

    8 base features instead of 32, one convolution a stage instead of two, and patches for a hundredth of the memory
    that nnU-Net plans for; everything else is nnU-Net's planning.
    """

    default_plans_name = "CLIPSmallPlans"
    default_memory_gb = 0.08

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.UNet_base_num_features = 8
        self.UNet_max_features_3d = self.UNet_max_features_2d = 64
        self.UNet_blocks_per_stage_encoder = self.UNet_blocks_per_stage_decoder = (1,) * 14


class ResEncMPlanner(TorchPlanner, nnUNetPlannerResEncM):
    """nnU-Net's residual encoder U-Net M with torch resampling."""

    default_plans_name = "nnUNetResEncUNetMPlans_torchres"
    default_memory_gb = 8


class ResEncLPlanner(TorchPlanner, nnUNetPlannerResEncL):
    """nnU-Net's residual encoder U-Net L with torch resampling."""

    default_plans_name = "nnUNetResEncUNetLPlans_torchres"
    default_memory_gb = 24


class ResEncXLPlanner(TorchPlanner, nnUNetPlannerResEncXL):
    """nnU-Net's residual encoder U-Net XL with torch resampling."""

    default_plans_name = "nnUNetResEncUNetXLPlans_torchres"
    default_memory_gb = 40
