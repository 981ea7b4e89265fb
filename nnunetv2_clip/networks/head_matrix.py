"""The text-driven head as matrix products, for any device: voxels in chunks that stay in the cache.

The backward pass computes the hidden maps again instead of keeping them.
"""

# Shapes: B cases, P pairs, p pairs of one case, N voxels; 9 channels: 8 and a constant 1.

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunetv2_clip.networks.head_layout import CHANNELS, WIDE, affine_matrices, gradient_of_parameters, split_parameters

# Values of one hidden map alive at once: two maps forward, three backward stay in the cache of each core.
FORWARD_VALUES_PER_THREAD = 128 << 10
BACKWARD_VALUES_PER_THREAD = 72 << 10
VALUES_ELSEWHERE = 1 << 25  # a small part of a GPU's memory
SMALLEST_CHUNK = 64


def _chunk_size(values_per_thread: int, values_per_voxel: int, device: torch.device) -> int:
    values = values_per_thread * torch.get_num_threads() if device.type == "cpu" else VALUES_ELSEWHERE
    size = values // values_per_voxel
    return max(size - size % SMALLEST_CHUNK, SMALLEST_CHUNK)  # rows that begin where a vector register does


class _Scratch:
    """Memory for one chunk, used again by the next: fresh memory and fresh views cost as much as the products."""

    def __init__(self, num_maps: int, num_channels: int, num_pairs: int, num_voxels: int, like: Tensor):
        self.num_voxels = num_voxels
        self.input = like.new_ones(num_channels, num_voxels)
        self.flat = [like.new_empty(num_pairs * num_channels, num_voxels) for _ in range(num_maps)]
        self.maps = [flat.view(num_pairs, num_channels, num_voxels) for flat in self.flat]
        self.logits = like.new_empty(num_pairs, 1, num_voxels)


def _case_forward(features: Tensor, theta: Tensor, logits: Tensor) -> None:
    """Features (8, N), theta (p, 153) -> logits (p, N), in place.

    A bias costs no pass of its own: relu(z + b) = max(z, -b) + b, and the last b moves into the next layer's bias.
    """
    w1, b1, w2, b2, w3, b3 = (layer.contiguous() for layer in split_parameters(theta))
    b2 = torch.baddbmm(b2, w2, b1)
    b3 = torch.baddbmm(b3, w3, b2)[:, 0]
    w1, floor1, floor2 = w1.view(-1, CHANNELS), -b1.view(-1, 1), -b2
    size = _chunk_size(FORWARD_VALUES_PER_THREAD, len(theta) * CHANNELS, features.device)
    scratch = None
    for x, result in zip(features.split(size, dim=1), logits.split(size, dim=1), strict=True):
        if scratch is None or scratch.num_voxels != x.shape[1]:
            scratch = _Scratch(2, CHANNELS, len(theta), x.shape[1], theta)
        first, second = scratch.maps
        torch.maximum(torch.mm(w1, x.to(theta.dtype), out=scratch.flat[0]), floor1, out=scratch.flat[0])
        torch.maximum(torch.bmm(w2, first, out=second), floor2, out=second)
        torch.add(torch.bmm(w3, second, out=scratch.logits)[:, 0], b3, out=result)


def _case_backward(features: Tensor, theta: Tensor, grad_logits: Tensor, grad_features: Tensor) -> Tensor:
    """Features (8, N), theta (p, 153), gradient of the logits (p, N) -> gradient of theta; of the features in place."""
    first, second, third = affine_matrices(theta)
    to_hidden = (third.transpose(1, 2) * second).transpose(1, 2).contiguous()  # the way back through layers 3 and 2
    to_input = first[:, :, :CHANNELS].reshape(-1, CHANNELS).t()
    outer = torch.zeros_like(second)
    grad_first = theta.new_zeros(WIDE, len(theta) * WIDE)
    size = _chunk_size(BACKWARD_VALUES_PER_THREAD, len(theta) * WIDE, features.device)
    scratch = None
    parts = (tensor.split(size, dim=1) for tensor in (features, grad_logits, grad_features))
    for x, grad, grad_x in zip(*parts, strict=True):
        if scratch is None or scratch.num_voxels != x.shape[1]:
            scratch = _Scratch(3, WIDE, len(theta), x.shape[1], theta)
        hidden, second_sum, masked = scratch.maps
        scratch.input[:CHANNELS] = x
        scratch.logits[:, 0] = grad
        torch.mm(first.view(-1, WIDE), scratch.input, out=scratch.flat[0]).relu_()
        torch.bmm(second, hidden, out=second_sum)
        _where_positive(scratch.logits.expand_as(hidden), second_sum, out=masked)
        outer.baddbmm_(masked, hidden.transpose(1, 2))
        torch.bmm(to_hidden, masked, out=second_sum)
        _where_positive(second_sum, hidden, out=masked)
        grad_first.addmm_(scratch.input, scratch.flat[2].t())
        torch.mm(to_input, scratch.flat[2], out=grad_x)
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
        grad_features = torch.empty_like(features, dtype=exact, memory_format=torch.contiguous_format)
        grad_theta = []
        per_case = (features, theta.to(exact).split(ctx.counts), grad_logits.split(ctx.counts), grad_features)
        for case, own, grad, grad_case in zip(*per_case, strict=True):
            if len(own):
                grad_theta.append(_case_backward(case, own, grad, grad_case))
            else:
                grad_case.zero_()
        return grad_features.to(features.dtype), torch.cat(grad_theta).to(theta.dtype), None
