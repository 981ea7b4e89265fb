"""The sums of the loss equal the plain formulas on one-hot targets, forward and backward, whatever shape and mask."""

# Shapes: B cases, K classes, P pairs, V label values.

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from nnunetv2_clip.losses import pair_sums as module
from nnunetv2_clip.losses.pair_sums import pair_sums
from nnunetv2_clip.networks.pairs import Pairs


def plain_sums(logits, label_map, pairs, membership, ignore, known):
    """(P, 5): with a float target and a float mask for each pair."""
    rows = []
    for p, (x, b, k) in enumerate(zip(logits.flatten(1), pairs.cases, pairs.classes, strict=True)):
        values = label_map[b].flatten().long()
        valid = torch.ones(len(values), dtype=torch.bool) if known is None else known[p, values]
        valid = (valid & (values != (-1 if ignore is None else ignore))).to(x.dtype)
        t = membership[values, k].to(x.dtype)
        entropy, s = binary_cross_entropy_with_logits(x, t, reduction="none"), x.sigmoid()
        rows.append(torch.stack([(part * valid).sum() for part in (entropy, s * t, s, t, torch.ones_like(x))]))
    return torch.stack(rows)


def random_problem(seed, dtype=torch.float64):
    """Any number of cases, classes, label values and voxels; at least one pair; sometimes an ignore label,
    sometimes other known label values for each pair."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high, size=(): torch.randint(low, high + 1, size, generator=generator)  # noqa: E731
    num_cases, num_classes, num_values = (int(draw(1, top)) for top in (3, 6, 9))
    spatial = [int(draw(1, 9)) for _ in range(int(draw(1, 3)))]
    presence = draw(0, 1, (num_cases, num_classes)).bool()
    presence[int(draw(0, num_cases - 1)), int(draw(0, num_classes - 1))] = True
    pairs = Pairs.of(presence.nonzero())
    ignore = num_values - 1 if draw(0, 1) else None
    membership = draw(0, 1, (num_values, num_classes)).bool()
    if ignore is not None:
        membership[ignore] = False
    label_map = draw(0, num_values - 1, (num_cases, 1, *spatial)).to(torch.int16)
    logits = 4 * torch.randn(len(pairs), *spatial, generator=generator, dtype=torch.float64)
    known = draw(0, 1, (len(pairs), num_values)).bool() if draw(0, 1) else None
    return logits.to(dtype).requires_grad_(), label_map, pairs, membership, ignore, known


def values_and_gradient(function, problem):
    sums = function(*problem)
    weight = torch.linspace(-1, 2, sums[:, :3].numel(), dtype=sums.dtype).view(-1, 3)
    (gradient,) = torch.autograd.grad((sums[:, :3] * weight).sum(), problem[0])
    return sums, gradient


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_the_plain_form_over_random_shapes_masks_and_class_counts(seed, monkeypatch):
    monkeypatch.setattr(module, "SMALLEST_CHUNK", 5)  # chunks that end in the middle
    monkeypatch.setattr(module, "VALUES_PER_THREAD", 1)
    problem = random_problem(seed)
    stacked = lambda *problem: torch.stack(pair_sums(*problem), dim=1)  # noqa: E731
    fast, slow = values_and_gradient(stacked, problem), values_and_gradient(plain_sums, problem)
    for ours, plain in zip(fast, slow, strict=True):
        assert torch.allclose(ours, plain, rtol=0, atol=1e-11)


def test_gradcheck():
    logits, *rest = random_problem(3)
    assert torch.autograd.gradcheck(lambda x: torch.stack(pair_sums(x, *rest)[:3]), (logits,), fast_mode=True)


def test_large_logits_stay_finite():
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    table = torch.tensor([[False], [True]])
    sums = pair_sums(logits, torch.tensor([[[0, 1]]]), Pairs.of(torch.tensor([[0, 0]])), table)
    assert sums.entropy.item() == 600  # both as wrong as can be
    sums.entropy.sum().backward()
    assert logits.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_single_precision(dtype):
    num_voxels = 100_000  # 100 000 times 0.047 is far from what half precision can count to in steps of 0.047
    logits = torch.full((1, num_voxels), -3.0, dtype=dtype, requires_grad=True)
    label_map, pairs = torch.zeros(1, 1, num_voxels, dtype=torch.int16), Pairs.of(torch.tensor([[0, 0]]))
    sums = pair_sums(logits, label_map, pairs, torch.tensor([[False]]))
    assert sums.probability.item() == pytest.approx(num_voxels * 0.04742587317756678, rel=1e-4)
    sums.entropy.sum().backward()
    assert logits.grad.dtype == dtype


def test_nothing_but_logits_and_label_map_is_kept_for_backward():
    problem = random_problem(1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        pair_sums(*problem)
    of_voxels = [tensor for tensor in kept if tensor.numel() >= problem[1].numel()]
    assert {tensor.data_ptr() for tensor in of_voxels} <= {problem[0].data_ptr(), problem[1].data_ptr()}


def test_autocast_leaves_the_sums_alone():
    logits = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    label_map, pairs = torch.arange(1000).view(1, 1, -1) % 3, Pairs.of(torch.tensor([[0, 0], [0, 1]]))
    membership = torch.tensor([[False, False], [True, False], [False, True]])
    plain = pair_sums(logits, label_map, pairs, membership)
    with torch.autocast("cpu", torch.bfloat16):
        cast = pair_sums(logits, label_map, pairs, membership)
    for ours, expected in zip(cast, plain, strict=True):
        assert torch.equal(ours, expected)
