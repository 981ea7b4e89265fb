"""What the published weights were trained with, as nnU-Net's plans say it.

Source: paper, section 4 (implementation details), and the names and shapes of the tensors.
"""

from __future__ import annotations

from nnunetv2_clip.networks.swin_unetr import MONAI_0_9

LICENCE = "CC BY-NC-ND 4.0 (of the published weights)"
TERMS = (
    "name the authors, make no commercial use, and pass on nothing that you make of the weights: the model folder is "
    "for you alone"
)
UNET, SWIN = "U-Net", "Swin UNETR"
SPACING_MM = 1.5
PATCH = 96  # voxels along each axis; a multiple of 32, as Swin UNETR needs
HU_MIN, HU_MAX = -175, 250
NUM_CLASSES = 32
TRANSPOSE = [2, 1, 0]  # nnU-Net's reader gives z, y, x; the authors' networks have seen x, y, z

# nnU-Net's CTNormalization clips to the percentiles, subtracts the mean and divides by the standard deviation: so the
# window becomes 0 to 1.
INTENSITIES = {"percentile_00_5": HU_MIN, "percentile_99_5": HU_MAX, "mean": HU_MIN, "std": HU_MAX - HU_MIN}

# Read by nnU-Net to size the targets: one scale of deep supervision, and the factor to the bottom.
_ARCHITECTURES = {
    UNET: ("published_unet.PublishedUNet", {"strides": [[1, 1, 1], [8, 8, 8]]}),
    SWIN: ("swin_unetr.SwinUNETR", {"strides": [[1, 1, 1], [32, 32, 32]], "feature_size": 48}),
}


def architecture(variant: str, merging: str = MONAI_0_9) -> dict:
    """The entry `architecture` of plans, with arguments to be added to."""
    name, arguments = _ARCHITECTURES[variant]
    return {
        "network_class_name": f"nnunetv2_clip.networks.{name}",
        "arch_kwargs": {**arguments, **({"merging": merging} if variant == SWIN else {})},
        "_kw_requires_import": [],
    }
