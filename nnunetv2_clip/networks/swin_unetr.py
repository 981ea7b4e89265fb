"""MONAI's Swin UNETR with the face of nnU-Net's U-Nets: an encoder that returns skips, a decoder that takes them.

One scale only: the decoder has one segmentation layer, at full resolution. Every side of a patch is a multiple of 32,
and at least one side is 64 or more (instance normalisation needs two voxels at the bottom).
Source of the network: Hatamizadeh et al., Swin UNETR, 2022; the paper's second backbone.
"""

# Shapes: B cases, F feature size, spatial sizes of the input divided by 1, 2, 4, 8, 16, 32.

from typing import Any

from torch import Tensor, nn

TOTAL_STRIDE = 32


class SwinUNETR(nn.Module):
    """Swin UNETR as a backbone.

    Args:
        input_channels, num_classes: channels of the image and of the output.
        feature_size: F, a multiple of 12; 48 in the paper.
        strides: as the plans of nnU-Net name them; the network has no other than its own.
        deep_supervision: the decoder returns a list of one scale instead of a tensor.
    """

    def __init__(
        self, input_channels: int, num_classes: int, feature_size: int, strides: list, deep_supervision: bool = True
    ):
        super().__init__()
        try:
            from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("Swin UNETR needs MONAI: pip install 'nnunetv2_clip[swin]'") from None
        if list(strides[-1]) != [TOTAL_STRIDE] * 3:
            raise ValueError(f"Swin UNETR shrinks an image by {TOTAL_STRIDE} along each axis; the plans say {strides}.")
        network = MonaiSwinUNETR(input_channels, num_classes, feature_size=feature_size)
        self.encoder = _Encoder(network, feature_size)
        self.decoder = _Decoder(network, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> (B, num_classes, *spatial), in a list with deep supervision."""
        return self.decoder(self.encoder(image))


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

    def __init__(self, network: Any, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.blocks = nn.ModuleList(
            [network.decoder5, network.decoder4, network.decoder3, network.decoder2, network.decoder1]
        )
        self.seg_layers = nn.ModuleList([network.out.conv.conv])

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x = skips[-1]
        for block, skip in zip(self.blocks, reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        x = self.seg_layers[0](x)
        return [x] if self.deep_supervision else x
