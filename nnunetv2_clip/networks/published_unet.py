"""The U-Net of the paper's published weights, with the face of nnU-Net's U-Nets. One scale, full resolution.

Every side of a patch is a multiple of 8. A stage has two convolutions; the number of channels grows at the second one
on the way down, and up-convolutions keep theirs. The authors normalise by the statistics of the batch in training and
prediction alike; with one case in a batch that is instance normalisation, which stands here.

Written from the shapes of the published tensors and the description of the network; no library has this one.
"""

# Shapes: B cases, spatial sizes of the input divided by 1, 2, 4, 8.

from __future__ import annotations

import torch
from torch import Tensor, nn

DOWN = ((32, 64), (64, 128), (128, 256), (256, 512))  # channels after the first and the second convolution
UP = (256, 128, 64)


class PublishedUNet(nn.Module):
    """The U-Net as a backbone.

    Args:
        input_channels, num_classes: channels of the image and of the output.
        strides: as the plans of nnU-Net name them; the network has no other than its own.
        deep_supervision: the decoder returns a list of one scale instead of a tensor.
        final_norm: group normalisation and ReLU before the last convolution, as the authors' network has them.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: list,
        deep_supervision: bool = True,
        final_norm: bool = False,
    ):
        super().__init__()
        total = 2 ** len(UP)
        if list(strides[-1]) != [total] * 3:
            raise ValueError(f"This U-Net shrinks an image by {total} along each axis; the plans say {strides}.")
        self.encoder = _Encoder(input_channels)
        self.decoder = _Decoder(num_classes, final_norm, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> (B, num_classes, *spatial), in a list with deep supervision."""
        return self.decoder(self.encoder(image))


def _stage(channels: int, first: int, second: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, first), _convolution(first, second))


def _convolution(channels: int, result: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, result, kernel_size=3, padding=1),
        nn.InstanceNorm3d(result, affine=True),
        nn.ReLU(inplace=True),
    )


class _Encoder(nn.Module):
    def __init__(self, input_channels: int):
        super().__init__()
        self.output_channels = [second for _, second in DOWN]
        before = [input_channels, *self.output_channels]
        self.stages = nn.ModuleList(_stage(channels, *pair) for channels, pair in zip(before, DOWN, strict=False))
        self.pool = nn.MaxPool3d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, channels, *spatial) -> four skips, the finest first; the last is the bottleneck."""
        skips = [self.stages[0](image)]
        for stage in self.stages[1:]:
            skips.append(stage(self.pool(skips[-1])))
        return skips


class _Decoder(nn.Module):
    def __init__(self, num_classes: int, final_norm: bool, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        below = [DOWN[-1][1], *UP]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(channels, channels, 2, stride=2) for channels in below[:-1])
        self.stages = nn.ModuleList(_stage(channels + own, own, own) for channels, own in zip(below, UP, strict=False))
        self.final = nn.Sequential(nn.GroupNorm(16, UP[-1]), nn.ReLU()) if final_norm else nn.Identity()
        self.seg_layers = nn.ModuleList([nn.Conv3d(UP[-1], num_classes, kernel_size=1)])

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x = skips[-1]
        for up, stage, skip in zip(self.ups, self.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        x = self.seg_layers[0](self.final(x))
        return [x] if self.deep_supervision else x
