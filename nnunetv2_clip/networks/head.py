"""The text-driven head: three 1x1x1 convolutions whose weights were generated for one (case, class) pair.

Source: paper, section 3.2 (text-driven segmentor). One face, two forms of the same arithmetic: matrix products
anywhere (head_matrix.py), a fused kernel on CUDA (head_triton.py) after a trial that it works there.
"""

# Shapes: B cases, P (case, class) pairs, 8 channels, N voxels.

import functools
import importlib.util
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_clip.networks.head_layout import CHANNELS, LAYER_SIZES, NUM_DYNAMIC_PARAMETERS, split_parameters
from nnunetv2_clip.networks.head_matrix import MatrixHead

__all__ = ("CHANNELS", "LAYER_SIZES", "NUM_DYNAMIC_PARAMETERS", "split_parameters", "text_driven_head")

KERNEL_SWITCH = "nnUNet_clip_kernel"  # environment variable; f: no fused kernel
TRIAL_TOLERANCE = 0.2  # of the 2-norm: a ReLU that rounding flips counts a few percent, a wrong kernel far more


def text_driven_head(
    features: Tensor, theta: Tensor, case_index: Tensor, counts: Sequence[int] | None = None
) -> Tensor:
    """Logits of (case, class) pairs.

    Args:
        features: (B, 8, *spatial), the decoder's features.
        theta: (P, 153), the dynamic parameters of each pair.
        case_index: (P,) long, ascending: the case of each pair.
        counts: (B,) the pairs of each case; None: counted, for which the processor waits for the device.

    Returns:
        (P, *spatial) logits in the type of `features`; with P = 0 empty, but still part of the graph.
    """
    spatial = features.shape[2:]
    flat = features.flatten(2)
    if len(theta) == 0:  # nothing annotated: an empty result that still reaches every parameter, with zero gradient
        return (flat.sum() + theta.sum()) * flat.new_zeros((0, *spatial))
    with torch.autocast(features.device.type, enabled=False):
        if fused_kernel_runs_on(flat.device, flat.dtype):
            from nnunetv2_clip.networks.head_triton import TritonHead

            logits = TritonHead.apply(flat, theta, case_index)
        else:
            counts = torch.bincount(case_index, minlength=len(flat)).tolist() if counts is None else counts
            logits = MatrixHead.apply(flat, theta, counts)
    return logits.view(-1, *spatial)


def fused_kernel_runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """A CUDA device on which the kernel has passed its trial, and a type that it takes; not switched off."""
    if device.type != "cuda" or torch.version.hip or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return os.environ.get(KERNEL_SWITCH, "").lower() not in ("f", "false", "0") and _passes_trial(device, dtype)


@functools.cache
def _passes_trial(device: torch.device, dtype: torch.dtype) -> bool:
    """Compile and launch the kernels once, forward and backward: does it work, and does it give the right values."""
    try:
        _try_kernel(device, dtype)
    except torch.OutOfMemoryError:  # says nothing about the kernel
        raise
    except Exception as error:  # whatever Triton, its compiler, the C compiler or the driver raise
        _print_once(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200])
        return False
    return True


@torch.inference_mode(False)
@torch.enable_grad()
def _try_kernel(device: torch.device, dtype: torch.dtype) -> None:
    """Raises whatever goes wrong. Draws no random number."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise RuntimeError("the GPU has compute capability below 8.0")
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("Triton is not installed")
    from nnunetv2_clip.networks.head_triton import TritonHead

    drawn = torch.arange(8 * 64 + 3 * NUM_DYNAMIC_PARAMETERS, device=device).mul(12.9898).sin()  # any numbers
    features, theta = drawn[: 8 * 64].view(1, 8, 64).to(dtype), drawn[8 * 64 :].view(3, -1)
    results = []
    for function, cases in ((TritonHead, theta.new_zeros(3, dtype=torch.long)), (MatrixHead, [3])):
        leaves = features.clone().requires_grad_(), theta.clone().requires_grad_()
        logits = function.apply(*leaves, cases)
        results.append((logits, *torch.autograd.grad(logits.sum(), leaves)))
    for fused, plain in zip(*results, strict=True):
        if not (fused.float() - plain.float()).norm() < TRIAL_TOLERANCE * plain.float().norm():
            raise RuntimeError("the fused kernel gives wrong values")


@functools.cache
def _print_once(why: str) -> None:
    print(
        f"Note: the text-driven head runs without its fused kernel, slower and with the same result ({why}). Install "
        f"what is missing: an NVIDIA GPU of compute capability 8.0 or newer, Triton, a C compiler, a folder "
        f"TRITON_CACHE_DIR that can be written; or set {KERNEL_SWITCH}=f, and this note does not come again.",
        file=sys.stderr,
        flush=True,
    )
