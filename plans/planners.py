"""Planners beside nnU-Net's own, which nnU-Net's -pl cannot find because it looks inside nnunetv2 only."""

from __future__ import annotations

from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import (
    nnUNetPlanner_torchres,
    nnUNetPlannerResEncL_torchres,
)


class SmallPlanner(nnUNetPlanner_torchres):
    """A small U-Net and small patches: a first try on a CPU, the demo, tests.

    8 base features instead of 32, one convolution a stage instead of two, and patches for a hundredth of the memory
    that nnU-Net plans for; everything else is nnU-Net's planning.
    """

    default_plans_name = "CLIPSmallPlans"
    default_memory_gb = 0.04

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=default_memory_gb, *args, **kwargs):
        kwargs.setdefault("plans_name", self.default_plans_name)
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, *args, **kwargs)
        self.UNet_base_num_features = 8
        self.UNet_max_features_3d = self.UNet_max_features_2d = 64
        self.UNet_blocks_per_stage_encoder = self.UNet_blocks_per_stage_decoder = (1,) * 14


class TorchPlanner(nnUNetPlanner_torchres):
    """nnU-Net's default U-Net with torch resampling, so that the export of many classes is fast."""

    default_plans_name = "nnUNetPlans_torchres"
    default_memory_gb = 8


class ResEncLPlanner(nnUNetPlannerResEncL_torchres):
    """nnU-Net's residual encoder U-Net L with torch resampling."""

    default_plans_name = "nnUNetResEncUNetLPlans_torchres"
    default_memory_gb = 24


PLANNERS = {"small": SmallPlanner, "default": TorchPlanner, "resenc_l": ResEncLPlanner}
