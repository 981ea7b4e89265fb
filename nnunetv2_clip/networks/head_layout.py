"""The 153 dynamic parameters of a (case, class) pair: their order, and their form as matrices."""

# Shapes: P (case, class) pairs, C = 8 channels.

import torch
from torch import Tensor

CHANNELS = 8
WIDE = CHANNELS + 1  # and the constant 1 that carries the bias
# W1 (8, 8), b1 (8), W2 (8, 8), b2 (8), w3 (8), b3 (1): 153 numbers for each class.
LAYER_SIZES = (CHANNELS * CHANNELS, CHANNELS, CHANNELS * CHANNELS, CHANNELS, CHANNELS, 1)
NUM_DYNAMIC_PARAMETERS = sum(LAYER_SIZES)

Layers = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def split_parameters(theta: Tensor) -> Layers:
    """(P, 153) -> W1 (P, 8, 8), b1 (P, 8, 1), W2 (P, 8, 8), b2 (P, 8, 1), w3 (P, 1, 8), b3 (P, 1, 1)."""
    w1, b1, w2, b2, w3, b3 = theta.split(LAYER_SIZES, dim=1)
    square, column = (-1, CHANNELS, CHANNELS), (-1, CHANNELS, 1)
    return (
        w1.reshape(square),
        b1.reshape(column),
        w2.reshape(square),
        b2.reshape(column),
        w3.reshape(-1, 1, CHANNELS),
        b3.reshape(-1, 1, 1),
    )


def affine_matrices(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layers as matrices [[W, b], [0, 1]] on channels with a constant 1 below: no bias needs a pass of its own.

    (P, 153) -> (P, 9, 9), (P, 9, 9), (P, 1, 9).
    """
    w1, b1, w2, b2, w3, b3 = split_parameters(theta)
    keep_one = torch.zeros_like(theta[:, : CHANNELS + 1]).unsqueeze(1)
    keep_one[..., -1] = 1
    first = torch.cat((torch.cat((w1, b1), dim=2), keep_one), dim=1)
    second = torch.cat((torch.cat((w2, b2), dim=2), keep_one), dim=1)
    return first, second, torch.cat((w3, b3), dim=2)


def gradient_of_parameters(second: Tensor, third: Tensor, grad_first: Tensor, outer: Tensor) -> Tensor:
    """(P, 153), the gradient of theta from two small sums over voxels.

    Args:
        second, third: (P, 9, 9) and (P, 1, 9) of `affine_matrices`.
        grad_first: (P, 9, 9), the gradient of the first affine matrix.
        outer: (P, 9, 9), the sum over voxels of u h^T: h the first hidden map after ReLU; u the gradient of the logit
            where the second hidden map is positive, else 0. Gradients of layers 2 and 3 follow from it alone.
    """
    grad_second, grad_third = third.transpose(1, 2) * outer, (second * outer).sum(2)
    inner = slice(0, CHANNELS)
    parts = (
        grad_first[:, inner, inner],
        grad_first[:, inner, CHANNELS],
        grad_second[:, inner, inner],
        grad_second[:, inner, CHANNELS],
        grad_third,
    )
    return torch.cat([part.flatten(1) for part in parts], dim=1)
