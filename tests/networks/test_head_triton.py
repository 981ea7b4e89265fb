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

# Of the 2-norm: rounding of the stored type. All inputs are small whole numbers, which TF32 holds exactly up to 2048:
# of others a GPU cuts digits off, ReLUs flip, and each flip counts far more than rounding (tests/host/test_gpu.py).
TOLERANCES = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def relative_difference(values, exact):
    return ((values.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30)).item()


def compare(features, theta, case_index, tolerance):
    """Logits and both gradients of the kernel against the matrix form in double precision."""
    from nnunetv2_clip.networks.head_triton import TritonHead

    weight = whole_numbers(2, len(theta), features.shape[2])
    counts = torch.bincount(case_index, minlength=len(features)).tolist()
    results = []
    for function, where, x in ((TritonHead, case_index, features), (MatrixHead, counts, features.double())):
        x, parameters = x.detach().requires_grad_(), theta.detach().to(torch.float64).float().requires_grad_()
        logits = function.apply(x, parameters, where)
        results.append((logits, *torch.autograd.grad((logits * weight).sum(), (x, parameters))))
    assert results[0][0].dtype == features.dtype
    assert [relative_difference(*pair) < tolerance for pair in zip(*results, strict=True)] == [True] * 3


def whole_numbers(largest, *shape):
    return torch.randint(-largest, largest + 1, shape).float().to(DEVICE)


def problem(num_cases, num_voxels, cases, dtype=torch.float32):
    """Hidden sums stay below 802."""
    torch.manual_seed(len(cases) + num_voxels)
    features = whole_numbers(3, num_cases, 8, num_voxels).to(dtype)
    return features, whole_numbers(2, len(cases), NUM_DYNAMIC_PARAMETERS), torch.tensor(cases, device=DEVICE)


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
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_trial_passes_where_the_kernel_works(dtype, capsys):
    from nnunetv2_clip.networks import head

    with torch.inference_mode():
        assert head._passes_trial(torch.device(DEVICE), dtype)
    assert not capsys.readouterr().err


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


def test_more_voxels_than_the_kernels_can_count_are_refused():
    from nnunetv2_clip.networks.head_triton import TritonHead

    huge = torch.empty_strided((1, 8, 1), (0, 2**28, 1), device="meta")
    with pytest.raises(AssertionError, match="32 bit"):
        TritonHead.apply(huge, torch.empty(1, NUM_DYNAMIC_PARAMETERS, device="meta"), torch.zeros(1, device="meta"))


class GpuThatIsNotThere:
    """What Triton asks of a driver when it compiles."""

    def __init__(self, capability):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, device):
        return 0


def compile_for(capability, dtype, num_voxels, num_pairs, monkeypatch):
    """Forward and backward as they are launched, but compiled only; the machine code of each."""
    from triton.runtime.driver import driver

    from nnunetv2_clip.networks import head_triton

    compiled = []
    warm_up = lambda kernel, grid, *arguments, **options: compiled.append(  # noqa: E731
        kernel.warmup(*arguments, grid=grid, **options)
    )
    monkeypatch.setattr(head_triton, "_launch", warm_up)
    monkeypatch.setattr(driver, "_active", GpuThatIsNotThere(capability))
    features = torch.zeros(1, 8, num_voxels, dtype=dtype, requires_grad=True)
    theta = torch.zeros(num_pairs, NUM_DYNAMIC_PARAMETERS)
    head_triton.TritonHead.apply(features, theta, torch.zeros(num_pairs, dtype=torch.long)).sum().backward()
    return [kernel.asm["cubin"] for kernel in compiled]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 120])
def test_what_is_shipped_compiles_for_gpus_that_are_not_there(capability, dtype, monkeypatch):
    """In a patch of 2^n voxels; any other number is one more variant, compiled below for one GPU."""
    forward, backward = compile_for(capability, dtype, 64**3, 3, monkeypatch)
    assert len(forward) > 0 and len(backward) > 0


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_odd_numbers_of_voxels_compile_and_the_number_of_pairs_compiles_nothing_anew(dtype, monkeypatch):
    forward, backward = compile_for(90, dtype, 77, 3, monkeypatch)
    assert forward and backward
    for num_pairs in (1, 16):
        assert compile_for(90, dtype, 77, num_pairs, monkeypatch) == [forward, backward]
