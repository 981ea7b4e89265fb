"""MONAI's Swin UNETR with the face of nnU-Net's U-Nets: an encoder that returns skips, a decoder that takes them.

One scale only: the decoder has one segmentation layer, at full resolution. Every side of a patch is a multiple of 32,
and at least one side is 64 or more (instance normalisation needs two voxels at the bottom).
Source of the network: Hatamizadeh et al., Swin UNETR, 2022; the paper's second backbone.
"""

# Shapes: B cases, F feature size, spatial sizes of the input divided by 1, 2, 4, 8, 16, 32.

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_clip.errors import UserError

TOTAL_STRIDE = 32
# The eight voxels of a 2 x 2 x 2 cube in the order in which a merging joins their features. The weights have the same
# names and shapes with each order, but are of use with their own alone. That of MONAI 0.9.0 to 1.4.0 takes two corners
# twice and leaves two out.
MONAI_0_9, MONAI_1_5 = "monai_0.9", "monai_1.5"
MERGINGS = {
    MONAI_0_9: ("000", "100", "010", "001", "101", "010", "001", "111"),
    MONAI_1_5: ("000", "100", "010", "001", "110", "101", "011", "111"),
}


class SwinUNETR(nn.Module):
    """Swin UNETR as a backbone.

    Args:
        input_channels, num_classes: channels of the image and of the output.
        feature_size: F, a multiple of 12; 48 in the paper.
        strides: as the plans of nnU-Net name them; the network has no other than its own.
        deep_supervision: the decoder returns a list of one scale instead of a tensor.
        merging: a key of MERGINGS; the default is what plans that name none were trained with.
        final_norm: group normalisation and ReLU before the last convolution, as the authors' network has them.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        feature_size: int,
        strides: list,
        deep_supervision: bool = True,
        merging: str = MONAI_1_5,
        final_norm: bool = False,
    ):
        super().__init__()
        try:
            from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR  # pyright: ignore[reportMissingImports]
        except ImportError:
            found, remedy = "needs the package monai, which is not installed", "pip install 'nnunetv2_clip[swin]'"
            raise UserError("Swin UNETR", found, remedy=remedy) from None
        if list(strides[-1]) != [TOTAL_STRIDE] * 3:
            raise ValueError(f"Swin UNETR shrinks an image by {TOTAL_STRIDE} along each axis; the plans say {strides}.")
        if merging not in MERGINGS:
            raise ValueError(f"Swin UNETR has the mergings {', '.join(MERGINGS)}; the plans say {merging!r}.")
        joined: Any = partial(_Merging, MERGINGS[merging])  # MONAI's own default has changed, and may again
        network = MonaiSwinUNETR(input_channels, num_classes, feature_size=feature_size, downsample=joined)
        self.encoder = _Encoder(network, feature_size)
        final = nn.Sequential(nn.GroupNorm(16, feature_size), nn.ReLU()) if final_norm else nn.Identity()
        self.decoder = _Decoder(network, final, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> (B, num_classes, *spatial), in a list with deep supervision."""
        return self.decoder(self.encoder(image))


class _Merging(nn.Module):
    """Halves the resolution of a volume: the features of eight voxels become those of one, twice as many as before.

    Args:
        corners: see MERGINGS.
        dim: features.
        norm_layer, spatial_dims: as MONAI gives them.
    """

    def __init__(self, corners: tuple[str, ...], dim: int, norm_layer: Any = nn.LayerNorm, spatial_dims: int = 3):
        super().__init__()
        assert spatial_dims == 3
        self.starts = [tuple(int(start) for start in corner) for corner in corners]
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, dim), all sides even -> (B, D/2, H/2, W/2, 2 dim)."""
        x = torch.cat([x[:, d::2, h::2, w::2] for d, h, w in self.starts], dim=-1)
        return self.reduction(self.norm(x))


class _Encoder(nn.Module):
    """The transformer and the residual blocks on its outputs."""

    def __init__(self, network: Any, feature_size: int):
        super().__init__()
        self.output_channels = [feature_size * factor for factor in (1, 1, 2, 4, 8, 16)]
        self.transformer = network.swinViT
        self.normalize = network.normalize
        self.blocks = nn.ModuleList([network.encoder1, network.encoder2, network.encoder3, network.encoder4])
        self.bottleneck = network.encoder10

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, channels, *spatial) -> six skips, the finest first; the last is the bottleneck."""
        hidden = self.transformer(image, self.normalize)
        skips = [block(x) for block, x in zip(self.blocks, [image, *hidden[:3]], strict=True)]
        return [*skips, hidden[3], self.bottleneck(hidden[4])]


class _Decoder(nn.Module):
    """The upsampling blocks and the segmentation layer."""

    def __init__(self, network: Any, final: nn.Module, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.blocks = nn.ModuleList(
            [network.decoder5, network.decoder4, network.decoder3, network.decoder2, network.decoder1]
        )
        self.final = final
        self.seg_layers = nn.ModuleList([network.out.conv.conv])

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x = skips[-1]
        for block, skip in zip(self.blocks, reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        x = self.seg_layers[0](self.final(x))
        return [x] if self.deep_supervision else x
