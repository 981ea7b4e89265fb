"""The text-driven head as one fused kernel for CUDA: hidden maps never reach the GPU's memory.

A program takes a tile of voxels of one case, reads its 8 channels once and walks over the pairs of that case. The
layers are products of 16 x 16 matrices: 8 channels, the constant 1 that carries the bias, and zeros. The backward
pass computes the hidden maps again; each program writes its own partial sums of the parameters' gradient, which are
then added up without atomics, so that results are the same from run to run.
"""

# Shapes: B cases, P (case, class) pairs, N voxels, T tiles of voxels.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from nnunetv2_clip.networks.head_layout import CHANNELS, WIDE, affine_matrices, gradient_of_parameters

PADDED = 16  # the smallest side of a matrix that a tensor core takes
FORWARD_BLOCK, FORWARD_WARPS = 128, 4  # voxels at a time
# One warp holds all of a block, so that sums over its voxels need no second copy in another warp. The block is the
# largest that nearly stays in registers: 235 to 255 of them, at most 56 bytes elsewhere (compiled for 8.0 to 12.0).
BACKWARD_BLOCK, BACKWARD_WARPS = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}, 1
VOXELS_PER_TILE = 1024  # of a program in the backward pass: its partial sums take a sixth of the logits' memory


@triton.jit
def _load_block(
    features, voxel, num_voxels, channel_stride, voxel_stride, CHANNELS: tl.constexpr, PADDED: tl.constexpr
):
    """(16, BLOCK): the channels, a constant 1, zeros."""
    row = tl.arange(0, PADDED)[:, None]
    inside = (row < CHANNELS) & (voxel[None, :] < num_voxels)
    x = tl.load(features + row * channel_stride + voxel[None, :] * voxel_stride, mask=inside, other=0.0)
    return tl.where(row == CHANNELS, 1.0, x.to(tl.float32))


@triton.jit
def _forward_kernel(
    features,
    first,
    second,
    third,
    pair_start,
    logits,
    num_voxels,
    case_stride,
    channel_stride,
    voxel_stride,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    case = tl.program_id(1).to(tl.int64)
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, PADDED)
    square = row[:, None] * PADDED + row[None, :]
    x = _load_block(features + case * case_stride, voxel, num_voxels, channel_stride, voxel_stride, CHANNELS, PADDED)
    for pair in range(tl.load(pair_start + case), tl.load(pair_start + case + 1)):
        matrix = pair * PADDED * PADDED + square
        hidden = tl.maximum(tl.dot(tl.load(first + matrix), x, input_precision=PRECISION), 0.0)
        hidden = tl.maximum(tl.dot(tl.load(second + matrix), hidden, input_precision=PRECISION), 0.0)
        logit = tl.sum(tl.load(third + pair * PADDED + row)[:, None] * hidden, axis=0)
        tl.store(logits + pair * num_voxels + voxel, logit, mask=voxel < num_voxels)


@triton.jit(do_not_specialize=["num_pairs"])  # else compiled anew for 1 pair and for multiples of 16
def _backward_kernel(
    features,
    first,
    second,
    third,
    pair_start,
    grad_logits,
    grad_features,
    partial_sums,
    num_voxels,
    num_pairs,
    case_stride,
    channel_stride,
    voxel_stride,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS_PER_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    case, tile = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    row = tl.arange(0, PADDED)
    square = row[:, None] * PADDED + row[None, :]
    WIDE: tl.constexpr = CHANNELS + 1
    wanted = (row[:, None] < WIDE) & (row[None, :] < WIDE)
    own_sums = partial_sums + tile * num_pairs * (2 * WIDE * WIDE) + row[:, None] * WIDE + row[None, :]
    begin, end = tl.load(pair_start + case), tl.load(pair_start + case + 1)
    num_blocks = tl.minimum(tl.cdiv(num_voxels - tile * (BLOCKS_PER_TILE * BLOCK), BLOCK), BLOCKS_PER_TILE)
    for step in range(0, num_blocks):
        voxel = (tile * BLOCKS_PER_TILE + step) * BLOCK + tl.arange(0, BLOCK)
        inside = voxel < num_voxels
        x = _load_block(
            features + case * case_stride, voxel, num_voxels, channel_stride, voxel_stride, CHANNELS, PADDED
        )
        grad_x = tl.zeros((PADDED, BLOCK), dtype=tl.float32)
        for pair in range(begin, end):
            matrix = pair * PADDED * PADDED + square
            first_matrix, second_matrix = tl.load(first + matrix), tl.load(second + matrix)
            hidden = tl.maximum(tl.dot(first_matrix, x, input_precision=PRECISION), 0.0)
            second_sum = tl.dot(second_matrix, hidden, input_precision=PRECISION)
            grad = tl.load(grad_logits + pair * num_voxels + voxel, mask=inside, other=0.0)
            masked = tl.where(second_sum > 0, grad.to(tl.float32)[None, :], 0.0)
            outer = tl.dot(masked, tl.trans(hidden), input_precision=PRECISION)
            to_hidden = tl.trans(tl.load(third + pair * PADDED + row)[:, None] * second_matrix)
            grad_hidden = tl.where(hidden > 0, tl.dot(to_hidden, masked, input_precision=PRECISION), 0.0)
            grad_first = tl.dot(grad_hidden, tl.trans(x), input_precision=PRECISION)
            grad_x += tl.dot(tl.trans(first_matrix), grad_hidden, input_precision=PRECISION)
            sums = own_sums + pair * (2 * WIDE * WIDE)
            again = wanted & (step > 0)
            grad_first += tl.load(sums, mask=again, other=0.0)
            outer += tl.load(sums + WIDE * WIDE, mask=again, other=0.0)
            tl.store(sums, grad_first, mask=wanted)
            tl.store(sums + WIDE * WIDE, outer, mask=wanted)
        tl.debug_barrier()  # the next step may load these sums in other threads than those that have stored them
        target = grad_features + (case * CHANNELS + row[:, None]) * num_voxels + voxel[None, :]
        tl.store(target, grad_x, mask=(row[:, None] < CHANNELS) & inside[None, :])


def _precision(dtype: torch.dtype) -> str:
    """TF32 keeps as many digits as half precision has; three passes of it keep those of single precision."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def _padded_matrices(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`affine_matrices` in single precision, padded with zeros: (P, 16, 16), (P, 16, 16), (P, 16)."""
    extra = PADDED - WIDE
    first, second, third = affine_matrices(theta.float())
    return pad(first, (0, extra, 0, extra)), pad(second, (0, extra, 0, extra)), pad(third[:, 0], (0, extra))


def _pair_start(case_index: Tensor, num_cases: int) -> Tensor:
    """(B + 1,) int64: the first pair of each case, found without waiting for the device."""
    cases = torch.arange(num_cases + 1, device=case_index.device)
    return torch.searchsorted(case_index.contiguous(), cases)


def _launch(kernel, grid: tuple[int, int], features: Tensor, *arguments, **options) -> None:
    """On the device of the features: Triton takes the current one, which need not be theirs."""
    with torch.cuda.device_of(features):
        kernel[grid](features, *arguments, **options)


class TritonHead(torch.autograd.Function):
    """Logits of all pairs; keeps only features and parameters for the backward pass."""

    @staticmethod
    def forward(ctx, features: Tensor, theta: Tensor, case_index: Tensor) -> Tensor:
        """(B, 8, N) features, (P, 153) theta, (P,) ascending case of each pair -> (P, N) logits."""
        ctx.save_for_backward(features, theta, case_index)
        num_cases, _, num_voxels = features.shape
        assert CHANNELS * features.stride(1) < 2**31, f"{num_voxels} voxels: the kernels count within a case in 32 bit"
        logits = features.new_empty(len(theta), num_voxels)
        _launch(
            _forward_kernel,
            (triton.cdiv(num_voxels, FORWARD_BLOCK), num_cases),
            features,
            *_padded_matrices(theta),
            _pair_start(case_index, num_cases),
            logits,
            num_voxels,
            *features.stride(),
            CHANNELS=CHANNELS,
            PADDED=PADDED,
            BLOCK=FORWARD_BLOCK,
            PRECISION=_precision(features.dtype),
            num_warps=FORWARD_WARPS,
        )
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logits: Tensor) -> tuple[Tensor, Tensor, None]:
        features, theta, case_index = ctx.saved_tensors
        num_cases, _, num_voxels = features.shape
        num_tiles = triton.cdiv(num_voxels, VOXELS_PER_TILE)
        grad_features = torch.empty_like(features, memory_format=torch.contiguous_format)
        sums = theta.new_empty(num_tiles, len(theta), 2, WIDE, WIDE, dtype=torch.float32)
        _launch(
            _backward_kernel,
            (num_tiles, num_cases),
            features,
            *_padded_matrices(theta),
            _pair_start(case_index, num_cases),
            grad_logits.contiguous(),
            grad_features,
            sums,
            num_voxels,
            len(theta),
            *features.stride(),
            CHANNELS=CHANNELS,
            PADDED=PADDED,
            BLOCK=BACKWARD_BLOCK[features.dtype],
            BLOCKS_PER_TILE=VOXELS_PER_TILE // BACKWARD_BLOCK[features.dtype],
            PRECISION=_precision(features.dtype),
            num_warps=BACKWARD_WARPS,
        )
        grad_first, outer = sums.sum(0).unbind(1)
        _, second, third = affine_matrices(theta.float())
        return grad_features, gradient_of_parameters(second, third, grad_first, outer).to(theta.dtype), None
