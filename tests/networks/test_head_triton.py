"""The fused kernel equals the matrix form, forward and backward; without a GPU it runs in Triton's interpreter.

The interpreter is chosen when Triton is imported, hence in a process of its own.
"""

# Shapes: B cases, P pairs, N voxels.

import os
import subprocess
import sys

import pytest
import torch

from nnunetv2_clip.networks.head_layout import NUM_DYNAMIC_PARAMETERS
from nnunetv2_clip.networks.head_matrix import MatrixHead

pytest.importorskip("triton", reason="Triton is not installed: the matrix form runs everywhere")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="runs in the interpreter's own process")

# Relative to the largest value: rounding of the stored type; TF32 in three passes for single precision.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def relative_difference(values, exact):
    return ((values.double() - exact.double()).abs().max() / exact.abs().max().clamp_min(1e-30)).item()


def compare(features, theta, case_index, tolerance):
    """Logits and both gradients of the kernel against the matrix form in double precision."""
    from nnunetv2_clip.networks.head_triton import TritonHead

    weight = torch.linspace(-1, 1, len(theta) * features.shape[2], device=features.device).view(len(theta), -1)
    counts = torch.bincount(case_index, minlength=len(features)).tolist()
    results = []
    for function, where, x in ((TritonHead, case_index, features), (MatrixHead, counts, features.double())):
        x, parameters = x.detach().requires_grad_(), theta.detach().to(torch.float64).float().requires_grad_()
        logits = function.apply(x, parameters, where)
        results.append((logits, *torch.autograd.grad((logits * weight).sum(), (x, parameters))))
    assert results[0][0].dtype == features.dtype
    assert [relative_difference(*pair) < tolerance for pair in zip(*results, strict=True)] == [True] * 3


def problem(num_cases, num_voxels, cases, dtype=torch.float32):
    torch.manual_seed(len(cases) + num_voxels)
    features = torch.randn(num_cases, 8, num_voxels, device=DEVICE).to(dtype)
    return features, torch.randn(len(cases), NUM_DYNAMIC_PARAMETERS, device=DEVICE), torch.tensor(cases, device=DEVICE)


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_the_matrix_form_in_every_type(dtype):
    compare(*problem(2, 77, (0, 0, 1), dtype), TOLERANCES[dtype])


@runs_kernels
@pytest.mark.parametrize("num_voxels", [1, 31, 128, 129])
def test_any_number_of_voxels(num_voxels):
    compare(*problem(1, num_voxels, (0,)), TOLERANCES[torch.float32])


@runs_kernels
def test_partial_sums_of_several_tiles_and_steps(monkeypatch):
    from nnunetv2_clip.networks import head_triton

    monkeypatch.setattr(head_triton, "VOXELS_PER_TILE", 64)
    compare(*problem(2, 150, (0, 1, 1)), TOLERANCES[torch.float32])


@runs_kernels
@pytest.mark.parametrize("num_classes", [1, 100])
def test_one_to_a_hundred_classes(num_classes):
    compare(*problem(1, 33, (0,) * num_classes), TOLERANCES[torch.float32])


@runs_kernels
def test_a_case_without_pair_gets_exactly_zero_gradient():
    from nnunetv2_clip.networks.head_triton import TritonHead

    features, theta, case_index = problem(3, 40, (0, 2))
    features.requires_grad_()
    TritonHead.apply(features, theta, case_index).sum().backward()
    assert features.grad[1].abs().max() == 0
    assert features.grad[0].abs().max() > 0


@runs_kernels
def test_channels_last_features_are_welcome():
    features, theta, case_index = problem(2, 50, (0, 1))
    compare(features.transpose(1, 2).contiguous().transpose(1, 2), theta, case_index, TOLERANCES[torch.float32])


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests above ran")
def test_the_tests_above_pass_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype):
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nnunetv2_clip.networks import head_triton

    half = f"*{dtype}"
    sizes = {"CHANNELS": 8, "PADDED": 16, "BLOCK": 32, "PRECISION": "tf32x3" if dtype == "fp32" else "tf32"}
    matrices = {"features": half, "first": "*fp32", "second": "*fp32", "third": "*fp32", "pair_start": "*i64"}
    strides = {"case_stride": "i32", "channel_stride": "i32", "voxel_stride": "i32"}
    forward = {**matrices, "logits": half, "num_voxels": "i32", **strides}
    backward = {
        **matrices,
        **{
            "grad_logits": half,
            "grad_features": half,
            "partial_sums": "*fp32",
            "num_voxels": "i32",
            "num_pairs": "i32",
        },
        **strides,
    }
    for kernel, types, constants in (
        (head_triton._forward_kernel, forward, sizes),
        (head_triton._backward_kernel, backward, {**sizes, "BLOCKS_PER_TILE": 4}),
    ):
        signature = {**types, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(kernel, signature, constexprs=constants)
        compiled = triton_compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
        assert "cubin" in compiled.asm
