"""The text-driven head equals its plain loop, forward and backward, and computes nothing but the wanted pairs."""

# Shapes: B cases, P pairs, C = 8 channels.

import subprocess
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from nnunetv2_clip.networks import head, head_matrix
from nnunetv2_clip.networks.head import NUM_DYNAMIC_PARAMETERS, split_parameters, text_driven_head


def plain_loop(features, theta, case_index):
    """Paper, section 3.2, one convolution after the other."""
    logits = []
    for own, b in zip(theta, case_index.tolist(), strict=True):
        w1, b1, w2, b2, w3, b3 = split_parameters(own[None])
        x = features[b][None].flatten(2)
        x = functional.conv1d(x, w1[0][:, :, None], b1[0, :, 0]).relu()
        x = functional.conv1d(x, w2[0][:, :, None], b2[0, :, 0]).relu()
        logits.append(functional.conv1d(x, w3[0][:, :, None], b3[0, :, 0])[0, 0])
    return torch.stack(logits).view(-1, *features.shape[2:])


def random_problem(shape=(2, 8, 3, 5, 4), cases=(0, 0, 1), dtype=torch.float64):
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=dtype, requires_grad=True)
    theta = torch.randn(len(cases), NUM_DYNAMIC_PARAMETERS, dtype=dtype, requires_grad=True)
    return features, theta, torch.tensor(cases, dtype=torch.long)


def test_a_class_has_153_dynamic_parameters():
    assert NUM_DYNAMIC_PARAMETERS == 153


@pytest.mark.parametrize("cases", [(0,), (0, 0, 1), (1, 1), (0, 2, 2, 2)])
@pytest.mark.parametrize("spatial", [(3, 5, 4), (7, 3), (1, 1, 1)])
def test_values_and_gradients_equal_the_plain_loop(cases, spatial, monkeypatch):
    monkeypatch.setattr(head_matrix, "SMALLEST_CHUNK", 7)
    monkeypatch.setattr(head_matrix, "FORWARD_VALUES_PER_THREAD", 1)
    monkeypatch.setattr(head_matrix, "BACKWARD_VALUES_PER_THREAD", 1)
    features, theta, case_index = random_problem((3, 8, *spatial), cases)
    weight = torch.randn(len(cases), *spatial, dtype=torch.float64)
    results = []
    for function in (text_driven_head, plain_loop):
        logits = function(features, theta, case_index)
        results.append((logits, *torch.autograd.grad((logits * weight).sum(), (features, theta))))
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=0, atol=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch):
    features, theta, case_index = random_problem((1, 8, 1000), (0, 0))
    whole = text_driven_head(features, theta, case_index)
    monkeypatch.setattr(head_matrix, "FORWARD_VALUES_PER_THREAD", 1)
    monkeypatch.setattr(head_matrix, "BACKWARD_VALUES_PER_THREAD", 1)
    assert torch.allclose(text_driven_head(features, theta, case_index), whole, rtol=0, atol=1e-12)


def test_gradcheck():
    features, theta, case_index = random_problem((2, 8, 3, 2), (0, 1, 1))
    assert torch.autograd.gradcheck(lambda f, t: text_driven_head(f, t, case_index), (features, theta), fast_mode=True)


def test_a_case_without_pair_gets_exactly_zero_gradient():
    features, theta, case_index = random_problem((2, 8, 4, 4), (1, 1))
    text_driven_head(features, theta, case_index).sum().backward()
    assert features.grad[0].abs().max() == 0
    assert features.grad[1].abs().max() > 0


def test_no_pair_gives_an_empty_result_and_zero_gradient():
    features, theta, case_index = random_problem((2, 8, 4, 4), ())
    logits = text_driven_head(features, theta, case_index)
    assert logits.shape == (0, 4, 4)
    logits.sum().backward()
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.03), (torch.bfloat16, 0.2)])
def test_lower_precision_stays_near_double_forward_and_backward(dtype, tolerance):
    features, theta, case_index = random_problem((1, 8, 6, 6), (0, 0))
    exact = text_driven_head(features, theta, case_index)
    expected = torch.autograd.grad(exact.sum(), (features, theta))
    low = [tensor.detach().to(dtype).requires_grad_() for tensor in (features, theta)]
    rough = text_driven_head(*low, case_index)
    assert rough.dtype == dtype
    assert ((rough - exact).abs() / (1 + exact.abs())).max() < tolerance
    for gradient, truth in zip(torch.autograd.grad(rough.sum(), low), expected, strict=True):
        assert gradient.dtype == dtype
        # Rounding flips a ReLU here and there: compared as a whole.
        assert (gradient.double() - truth).norm() < tolerance * truth.norm()


def test_only_the_logits_are_rounded_to_the_type_of_the_features():
    """Hidden maps in single precision: what is left is one rounding of the result, at most 2^-8 of it in bfloat16."""
    features, theta, case_index = random_problem((1, 8, 6, 6), (0, 0), torch.float32)
    features = features.detach().bfloat16()
    exact = plain_loop(features.double(), theta.double(), case_index)
    assert ((text_driven_head(features, theta, case_index) - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


@pytest.fixture
def replace_kernel(monkeypatch):
    """Another function in place of the fused kernel, which no trial has tried yet."""

    def replace(function):
        fused = types.ModuleType("nnunetv2_clip.networks.head_triton")
        fused.TritonHead = SimpleNamespace(apply=function)
        monkeypatch.setitem(sys.modules, fused.__name__, fused)
        forget_trials()

    yield replace
    forget_trials()


def forget_trials():
    head._passes_trial.cache_clear()
    head._print_once.cache_clear()


def test_where_the_fused_kernel_runs_it_is_what_computes_the_logits(replace_kernel, monkeypatch):
    replace_kernel(lambda flat, theta, case_index: torch.full((len(theta), 4), 7.0))
    monkeypatch.setattr(head, "fused_kernel_runs_on", lambda device, dtype: True)
    features, theta, case_index = random_problem((1, 8, 2, 2), (0, 0))
    assert (text_driven_head(features, theta, case_index) == 7).all()


def test_non_contiguous_features_are_welcome():
    features, theta, case_index = random_problem((1, 8, 6, 5), (0,))
    turned = features.transpose(2, 3)
    same = text_driven_head(turned.contiguous(), theta, case_index)
    assert torch.equal(text_driven_head(turned, theta, case_index), same)


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes_masks_and_class_counts_equal_the_plain_loop(seed, monkeypatch):
    monkeypatch.setattr(head_matrix, "SMALLEST_CHUNK", 5)
    monkeypatch.setattr(head_matrix, "FORWARD_VALUES_PER_THREAD", 1)
    monkeypatch.setattr(head_matrix, "BACKWARD_VALUES_PER_THREAD", 1)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high, size=(): torch.randint(low, high + 1, size, generator=generator)  # noqa: E731
    presence = draw(0, 1, (int(draw(1, 3)), int(draw(1, 40))))
    presence[0, 0] = 1
    spatial = [int(draw(1, 4)) for _ in range(int(draw(1, 3)))]
    features, theta, case_index = random_problem((len(presence), 8, *spatial), presence.nonzero()[:, 0].tolist())
    fast, slow = text_driven_head(features, theta, case_index), plain_loop(features, theta, case_index)
    assert torch.allclose(fast, slow, rtol=0, atol=1e-11)
    for ours, plain in zip(
        *(torch.autograd.grad(x.square().sum(), (features, theta)) for x in (fast, slow)), strict=True
    ):
        assert torch.allclose(ours, plain, rtol=1e-10, atol=1e-10)


def test_autocast_leaves_the_arithmetic_alone():
    features, theta, case_index = random_problem((1, 8, 6, 6), (0, 0), torch.float32)
    plain = text_driven_head(features.bfloat16(), theta, case_index)
    with torch.autocast("cpu", torch.bfloat16):
        cast = text_driven_head(features.bfloat16(), theta, case_index)
    assert torch.equal(cast, plain)
    cast.float().sum().backward()
    assert torch.isfinite(theta.grad).all()


def test_a_kernel_that_fails_is_tried_once_and_named_in_one_line_with_what_to_do(replace_kernel, capsys):
    tried = []

    def fail(*arguments):
        tried.append(arguments)
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")

    replace_kernel(fail)
    for _ in range(3):
        assert not head._passes_trial(torch.device("cpu"), torch.float32)
    assert not head._passes_trial(torch.device("cpu"), torch.float16)
    assert len(tried) == 2  # once for each type
    (line,) = capsys.readouterr().err.splitlines()
    assert "Failed to find C compiler" in line and "Install what is missing" in line and head.KERNEL_SWITCH in line


@pytest.mark.parametrize(("factor", "passes"), [(1, True), (1.5, False), (float("nan"), False)])
def test_a_kernel_that_gives_wrong_values_is_not_used(factor, passes, replace_kernel, capsys):
    replace_kernel(lambda flat, theta, cases: factor * head_matrix.MatrixHead.apply(flat, theta, [len(cases)]))
    before = torch.get_rng_state()
    assert head._passes_trial(torch.device("cpu"), torch.float32) == passes
    assert ("wrong values" in capsys.readouterr().err) != passes
    assert torch.equal(torch.get_rng_state(), before)  # a training draws the same numbers with and without a GPU


def test_a_full_gpu_says_nothing_about_the_kernel(replace_kernel):
    def fill_up(*arguments):
        raise torch.OutOfMemoryError

    replace_kernel(fill_up)
    with pytest.raises(torch.OutOfMemoryError):
        head._passes_trial(torch.device("cpu"), torch.float32)


def test_a_variable_switches_the_kernel_off_without_a_trial(monkeypatch):
    monkeypatch.setattr(head, "_passes_trial", lambda device, dtype: True)
    cuda = torch.device("cuda", 0)
    for value, runs in {"f": False, "False": False, "0": False, "t": True}.items():
        monkeypatch.setenv("nnUNet_clip_kernel", value)
        assert head.fused_kernel_runs_on(cuda, torch.float16) == runs
    assert not head.fused_kernel_runs_on(cuda, torch.float64)


def test_known_counts_of_pairs_spare_the_count():
    features, theta, case_index = random_problem((3, 8, 4, 4), (0, 2, 2))
    counted = text_driven_head(features, theta, case_index)
    assert torch.equal(text_driven_head(features, theta, case_index, (1, 0, 2)), counted)


def test_the_fused_kernel_is_for_cuda_alone():
    assert not head.fused_kernel_runs_on(torch.device("cpu"), torch.float32)


def test_without_triton_the_head_still_works():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from nnunetv2_clip.networks.head import text_driven_head\n"
        "assert text_driven_head(torch.ones(1, 8, 2), torch.ones(1, 153), torch.tensor([0])).shape == (1, 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
