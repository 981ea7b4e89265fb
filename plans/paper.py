"""The paper's preset: 1.5 mm, patches of 96 x 96 x 96, batch 6, Hounsfield units -175 to 250 scaled to 0 to 1.

Source: paper, section 4 (implementation details).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from nnunetv2_clip.choices import CONFIGURATION
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.swin_unetr import MONAI_1_5
from nnunetv2_clip.plans.planners import TorchPlanner
from nnunetv2_clip.published.recipe import INTENSITIES, PATCH, SPACING_MM, SWIN, TRANSPOSE, UNET, architecture

BATCH = 6


class PaperPlanner(TorchPlanner):
    """nnU-Net's U-Net, its topology planned by nnU-Net for the paper's patch. One configuration: 3d_fullres."""

    default_plans_name = "CLIPPaperPlans"
    default_memory_gb = None  # patch and batch are given, whatever memory they take

    def __init__(self, *args, overwrite_target_spacing=None, **kwargs):
        spacing = overwrite_target_spacing or [SPACING_MM] * 3
        super().__init__(*args, overwrite_target_spacing=spacing, **kwargs)
        self.lowres_creation_threshold = 0  # no 3d_lowres
        # nnU-Net plans for an image of the size of one patch (below), never in need of a smaller one, 6 at a time.
        self.UNet_vram_target_GB = 1e6
        self.UNet_min_batch_size = BATCH
        self.max_dataset_covered = 0

    def get_plans_for_configuration(self, spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache):
        isotropic = np.full(len(spacing), spacing[0])
        patch = (PATCH,) * len(spacing)
        plan = super().get_plans_for_configuration(
            isotropic, patch, data_identifier, approximate_n_voxels_dataset, _cache
        )
        return {**plan, "spacing": spacing, "median_image_size_in_voxels": median_shape}

    def save_plans(self, plans):
        """Only 3d_fullres, and the window of Hounsfield units in place of the dataset's percentiles."""
        plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
        schemes = plans["configurations"][CONFIGURATION]["normalization_schemes"]
        if set(schemes) != {"CTNormalization"}:
            raise UserError(
                "dataset.json, channel_names",
                f"the channels are normalised by {schemes}",
                "CT alone: the paper's window is in Hounsfield units",
                "name the channel 'CT', or plan with another preset",
            )
        for properties in plans["foreground_intensity_properties_per_channel"].values():
            properties.update(INTENSITIES)
        super().save_plans(plans)


class PaperSwinPlanner(PaperPlanner):
    """The same with MONAI's Swin UNETR as the backbone."""

    default_plans_name = "CLIPPaperSwinPlans"
    network: ClassVar = architecture(SWIN, MONAI_1_5)

    def save_plans(self, plans):
        plans["configurations"][CONFIGURATION]["architecture"] = self.network
        super().save_plans(plans)


class PublishedSwinPlanner(PaperSwinPlanner):
    """Swin UNETR into which published weights fit: the merging of older MONAI, and axes in the order x, y, z."""

    default_plans_name = "CLIPPublishedSwinPlans"
    network = architecture(SWIN)

    def determine_transpose(self):
        return TRANSPOSE, TRANSPOSE


class PublishedUNetPlanner(PublishedSwinPlanner):
    """The authors' own U-Net, into which its published weights fit."""

    default_plans_name = "CLIPPublishedUNetPlans"
    network = architecture(UNET)
