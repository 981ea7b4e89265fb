"""The text-driven head as matrix products, for any device: voxels in chunks that stay in the cache.

The backward pass computes the hidden maps again instead of keeping them.
"""

# Shapes: B cases, P pairs, p pairs of one case, N voxels, n voxels of a chunk; 9 channels: 8 and a constant 1.

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunetv2_clip.networks.head_layout import CHANNELS, affine_matrices, gradient_of_parameters

WIDE = CHANNELS + 1
# Hidden values alive at once: keeps a chunk in the cache of each core, and in a small part of a GPU's memory.
HIDDEN_VALUES_PER_THREAD = 144 << 10
HIDDEN_VALUES_ELSEWHERE = 1 << 25
SMALLEST_CHUNK = 64


def _chunk_size(num_pairs: int, device: torch.device) -> int:
    values = HIDDEN_VALUES_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else HIDDEN_VALUES_ELSEWHERE
    size = values // (num_pairs * WIDE)
    return max(size - size % SMALLEST_CHUNK, SMALLEST_CHUNK)  # rows that begin where a vector register does


class _Scratch:
    """Memory for one chunk, used again by the next: fresh memory and fresh views cost as much as the products."""

    def __init__(self, num_pairs: int, num_voxels: int, like: Tensor):
        self.num_voxels = num_voxels
        self.input = like.new_ones(WIDE, num_voxels)
        self.flat = [like.new_empty(num_pairs * WIDE, num_voxels) for _ in range(3)]
        self.maps = [flat.view(num_pairs, WIDE, num_voxels) for flat in self.flat]
        self.logits = like.new_empty(num_pairs, 1, num_voxels)

    def load(self, features: Tensor) -> Tensor:
        """Features (8, n) with a constant 1 below: (9, n)."""
        self.input[:CHANNELS] = features
        return self.input


def _chunks(features: Tensor, per_pair: Tensor, dtype_of: Tensor) -> Iterator[tuple[Tensor, Tensor, _Scratch]]:
    """Slices of features (8, N) and per_pair (p, N), and memory to work in."""
    num_pairs = len(per_pair)
    size = _chunk_size(num_pairs, features.device)
    scratch = None
    for x, values in zip(features.split(size, dim=1), per_pair.split(size, dim=1), strict=True):
        if scratch is None or scratch.num_voxels != x.shape[1]:
            scratch = _Scratch(num_pairs, x.shape[1], dtype_of)
        yield x, values, scratch


def _case_forward(features: Tensor, theta: Tensor, logits: Tensor) -> None:
    """Features (8, N), theta (p, 153) -> logits (p, N), in place."""
    first, second, third = affine_matrices(theta)
    first = first.view(-1, WIDE)
    for x, result, scratch in _chunks(features, logits, theta):
        torch.mm(first, scratch.load(x), out=scratch.flat[0]).relu_()
        torch.bmm(second, scratch.maps[0], out=scratch.maps[1]).relu_()
        result.copy_(torch.bmm(third, scratch.maps[1], out=scratch.logits)[:, 0])


def _case_backward(features: Tensor, theta: Tensor, grad_logits: Tensor, grad_features: Tensor) -> Tensor:
    """Features (8, N), theta (p, 153), gradient of the logits (p, N) -> gradient of theta; of the features in place."""
    first, second, third = affine_matrices(theta)
    to_hidden = (third.transpose(1, 2) * second).transpose(1, 2).contiguous()  # the way back through layers 3 and 2
    to_input = first[:, :, :CHANNELS].reshape(-1, CHANNELS).t()
    outer = torch.zeros_like(second)
    grad_first = theta.new_zeros(WIDE, len(theta) * WIDE)
    done = 0
    for x, grad, scratch in _chunks(features, grad_logits, theta):
        hidden, second_sum, masked = scratch.maps
        inputs = scratch.load(x)
        torch.mm(first.view(-1, WIDE), inputs, out=scratch.flat[0]).relu_()
        torch.bmm(second, hidden, out=second_sum)
        scratch.logits[:, 0] = grad
        _where_positive(scratch.logits.expand_as(hidden), second_sum, out=masked)
        outer.baddbmm_(masked, hidden.transpose(1, 2))
        torch.bmm(to_hidden, masked, out=second_sum)
        _where_positive(second_sum, hidden, out=masked)
        grad_first.addmm_(inputs, scratch.flat[2].t())
        grad_features[:, done : done + x.shape[1]] = torch.mm(to_input, scratch.flat[2])
        done += x.shape[1]
    grad_first = grad_first.view(WIDE, len(theta), WIDE).permute(1, 2, 0)
    return gradient_of_parameters(second, third, grad_first, outer)


def _where_positive(values: Tensor, condition: Tensor, out: Tensor) -> Tensor:
    """`values` where `condition` > 0, else 0: the derivative of ReLU in one pass."""
    return torch.ops.aten.threshold_backward.grad_input(values, condition, 0, grad_input=out)


class MatrixHead(torch.autograd.Function):
    """Logits of all pairs; keeps only features and parameters for the backward pass.

    Sums run in at least single precision, whatever the type of the features.
    """

    @staticmethod
    def forward(ctx, features: Tensor, theta: Tensor, counts: Sequence[int]) -> Tensor:
        """(B, 8, N) features, (P, 153) theta ordered by case, pairs of each case -> (P, N) logits."""
        ctx.save_for_backward(features, theta)
        ctx.counts = counts
        logits = features.new_empty(len(theta), features.shape[2])
        exact = torch.promote_types(features.dtype, torch.float32)
        for case, own, part in zip(features, theta.to(exact).split(counts), logits.split(counts), strict=True):
            if len(own):
                _case_forward(case, own, part)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logits: Tensor) -> tuple[Tensor, Tensor, None]:
        features, theta = ctx.saved_tensors
        exact = torch.promote_types(features.dtype, torch.float32)
        grad_features = torch.zeros_like(features, memory_format=torch.contiguous_format)
        grad_theta = []
        per_case = (features, theta.to(exact).split(ctx.counts), grad_logits.split(ctx.counts), grad_features)
        for case, own, grad, grad_case in zip(*per_case, strict=True):
            if len(own):
                grad_theta.append(_case_backward(case, own, grad, grad_case))
        return grad_features, torch.cat(grad_theta).to(theta.dtype), None
