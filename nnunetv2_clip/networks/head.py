"""The text-driven head: three 1x1x1 convolutions whose weights were generated for one (case, class) pair.

Source: paper, section 3.2 (text-driven segmentor). One face, two forms of the same arithmetic: matrix products
anywhere (head_matrix.py), a fused kernel on CUDA (head_triton.py).
"""

# Shapes: B cases, P (case, class) pairs, 8 channels, N voxels.

import functools
import importlib.util

import torch
from torch import Tensor

from nnunetv2_clip.networks.head_layout import CHANNELS, LAYER_SIZES, NUM_DYNAMIC_PARAMETERS, split_parameters
from nnunetv2_clip.networks.head_matrix import MatrixHead

__all__ = ("CHANNELS", "LAYER_SIZES", "NUM_DYNAMIC_PARAMETERS", "split_parameters", "text_driven_head")


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
    if len(theta) == 0:  # nothing annotated: an empty result that still reaches every parameter, with zero gradient
        return (flat.sum() + theta.sum()) * flat.new_zeros((0, *spatial))
    with torch.autocast(features.device.type, enabled=False):
        if fused_kernel_runs_on(flat.device, flat.dtype):
            from nnunetv2_clip.networks.head_triton import TritonHead

            logits = TritonHead.apply(flat, theta, case_index)
        else:
            counts = torch.bincount(case_index, minlength=len(flat)).tolist()
            logits = MatrixHead.apply(flat, theta, counts)
    return logits.view(-1, *spatial)


@functools.cache
def fused_kernel_runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """A CUDA device with the matrix units the kernel asks for, a type they take, and Triton installed."""
    if device.type != "cuda" or torch.version.hip or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and importlib.util.find_spec("triton") is not None
