"""The text-driven head: three 1x1x1 convolutions whose weights were generated for one (case, class) pair.

Source: paper, section 3.2 (text-driven segmentor). The convolutions are matrix products over voxels; the voxels are
visited in chunks that stay in the cache, and the backward pass computes the hidden maps again instead of keeping them.
"""

# Shapes: B cases, K classes, P (case, class) pairs, C = 8 channels, N voxels.

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHANNELS = 8
# W1 (8, 8), b1 (8), W2 (8, 8), b2 (8), w3 (8), b3 (1): 153 numbers for each class.
LAYER_SIZES = (CHANNELS * CHANNELS, CHANNELS, CHANNELS * CHANNELS, CHANNELS, CHANNELS, 1)
NUM_DYNAMIC_PARAMETERS = sum(LAYER_SIZES)
# Hidden values alive at once: keeps a chunk in the cache of a CPU and in a small part of a GPU's memory.
HIDDEN_VALUES_PER_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 25}

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


def _chunks(num_pairs: int, num_voxels: int, device: torch.device) -> tuple[range, int]:
    """First voxel of each chunk, and the size of a chunk."""
    size = HIDDEN_VALUES_PER_CHUNK.get(device.type, 1 << 20) // (num_pairs * CHANNELS)
    size = max(size, 256)
    return range(0, num_voxels, size), size


def _hidden(layers: Layers, features: Tensor) -> tuple[Tensor, Tensor]:
    """Both hidden maps (P, 8, n) of features (8, n). The first layer of all classes is one product."""
    w1, b1, w2, b2, _, _ = layers
    first = torch.addmm(b1.reshape(-1, 1), w1.reshape(-1, CHANNELS), features).relu_().view(-1, *features.shape)
    return first, torch.baddbmm(b2, w2, first).relu_()


class _TextDrivenHead(torch.autograd.Function):
    """Logits of all pairs of one case; keeps only features and parameters for the backward pass."""

    @staticmethod
    def forward(ctx, features: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(features, theta)
        layers = split_parameters(theta)
        logits = features.new_empty(theta.shape[0], features.shape[1])
        starts, size = _chunks(*logits.shape, features.device)
        for start in starts:
            part = slice(start, start + size)
            _, second = _hidden(layers, features[:, part])
            logits[:, part] = torch.baddbmm(layers[5], layers[4], second)[:, 0]
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logits: Tensor) -> tuple[Tensor, Tensor]:
        features, theta = ctx.saved_tensors
        layers = split_parameters(theta)
        w1, _, w2, _, w3, _ = layers
        grad_features = torch.empty_like(features)
        wide = torch.promote_types(theta.dtype, torch.float32)  # sums over a million voxels are not for half precision
        sums = [torch.zeros_like(layer, dtype=wide) for layer in layers]
        starts, size = _chunks(*grad_logits.shape, features.device)
        for start in starts:
            part = slice(start, start + size)
            x, grad = features[:, part], grad_logits[:, part].unsqueeze(1)
            first, second = _hidden(layers, x)
            grad_second = (w3.transpose(1, 2) * grad).masked_fill_(second == 0, 0)
            grad_first = torch.bmm(w2.transpose(1, 2), grad_second).masked_fill_(first == 0, 0)
            grad_features[:, part] = w1.reshape(-1, CHANNELS).t() @ grad_first.view(-1, x.shape[1])
            sums[0] += (grad_first.view(-1, x.shape[1]) @ x.t()).view_as(w1)
            sums[1] += grad_first.sum(2, keepdim=True, dtype=wide)
            sums[2] += torch.bmm(grad_second, first.transpose(1, 2))
            sums[3] += grad_second.sum(2, keepdim=True, dtype=wide)
            sums[4] += torch.bmm(grad, second.transpose(1, 2))
            sums[5] += grad.sum(2, keepdim=True, dtype=wide)
        grad_theta = torch.cat([layer.flatten(1) for layer in sums], dim=1).to(theta.dtype)
        return grad_features, grad_theta


@torch.compiler.disable  # the number of pairs changes with every batch
def text_driven_head(features: Tensor, theta: Tensor, case_index: Tensor) -> Tensor:
    """Logits of (case, class) pairs.

    Args:
        features: (B, 8, *spatial), the decoder's features.
        theta: (P, 153), the dynamic parameters of each pair.
        case_index: (P,) long, ascending: the case of each pair.

    Returns:
        (P, *spatial) logits in the type of `features`; with P = 0 empty, but still part of the graph.
    """
    spatial = features.shape[2:]
    flat = features.flatten(2)
    theta = theta.to(features.dtype)
    counts = torch.bincount(case_index, minlength=flat.shape[0]).tolist()
    with torch.autocast(features.device.type, enabled=False):
        parts = [_TextDrivenHead.apply(flat[b], own) for b, own in enumerate(theta.split(counts)) if own.shape[0] > 0]
    if not parts:  # nothing annotated: an empty result that still reaches every parameter, with zero gradient
        return (flat.sum() + theta.sum()) * flat.new_zeros((0, *spatial))
    return torch.cat(parts).view(-1, *spatial)
