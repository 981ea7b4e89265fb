"""The masked loss: annotated pairs give the plain loop's loss and gradient, all others give exactly nothing."""

# Shapes: B cases, K classes, P pairs.

from dataclasses import replace

import pytest
import torch

from nnunetv2_clip.losses.masked import MaskedLoss, deep_supervision_weights
from nnunetv2_clip.losses.pair_sums import PairSums, membership_table, pair_sums
from nnunetv2_clip.networks.pairs import Pairs

LABELS = {"background": 0, "liver": [1, 3], "spleen": [2], "liver_tumor": [3]}
IGNORE_LABELS = {**LABELS, "ignore": 4}
ONE_CASE, TWO_CASES = (Pairs(torch.arange(n), torch.zeros(n, dtype=torch.long)) for n in (1, 2))


def plain_pair_loss(logits, target, valid=None):
    """Voxel by voxel, as the formulas stand in the books."""
    entropy, overlap, size, count, is_present = 0.0, 0.0, 0.0, 0, False
    for x, t, known in zip(logits, target, valid if valid is not None else [True] * len(logits), strict=True):
        if not known:
            continue
        p = torch.sigmoid(x)
        entropy = entropy - (torch.log(p) if t else torch.log(1 - p))
        overlap, size, count = overlap + p * float(t), size + p + float(t), count + 1
        is_present = is_present or bool(t)
    return entropy / count + (1 - (2 * overlap + 1e-5) / (size + 1e-5) if is_present else 0)


def loss_of_one_class(logits, target, **settings):
    """Loss of (B, N) logits against a (B, N) target; label value 1 is the only class."""
    loss = MaskedLoss(torch.tensor([[False], [True]]), None, (1.0,), **settings)
    pairs = Pairs.of(torch.tensor([[b, 0] for b in range(len(logits))]))
    return loss([logits], [torch.tensor(target, dtype=torch.int16)[:, None]], pairs).item()


def test_membership_follows_the_regions():
    table = membership_table(IGNORE_LABELS)
    assert table.tolist() == [
        [False, False, False],
        [True, False, False],
        [False, True, False],
        [True, False, True],
        [False, False, False],
    ]


def by_voxel(label_map, pairs, membership, ignore):
    """The sums of each voxel alone, (P, N) each."""
    logits = torch.zeros(len(pairs), 1)
    voxels = [pair_sums(logits, part, pairs, membership, ignore) for part in label_map.split(1, dim=-1)]
    return PairSums(*(torch.stack(column, dim=1) for column in zip(*voxels, strict=True)))


def test_targets_of_a_tumour_voxel_are_organ_and_tumour():
    label_map = torch.tensor([[[0, 1, 2, 3]], [[3, 3, 0, 1]]], dtype=torch.int16)
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 2], [1, 1]]))
    targets = by_voxel(label_map, pairs, membership_table(LABELS), None).target
    assert targets.int().tolist() == [[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_voxels_with_the_ignore_label_are_unknown_for_all_pairs_of_their_case():
    label_map = torch.tensor([[[0, 4, 2, 3]], [[4, 3, 0, 4]]], dtype=torch.int16)
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 2], [1, 1]]))
    valid = by_voxel(label_map, pairs, membership_table(IGNORE_LABELS), 4).num_voxels
    assert valid.int().tolist() == [[1, 0, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]]
    assert by_voxel(label_map, pairs, membership_table(IGNORE_LABELS), None).num_voxels.all()


def test_a_perfect_sure_prediction_costs_nothing():
    logits = torch.tensor([[40.0, -40.0, 40.0]], dtype=torch.float64)
    assert loss_of_one_class(logits, [[1, 0, 1]]) == pytest.approx(0, abs=1e-6)


def test_one_voxel_by_hand():
    # p = 1/2, t = 1: entropy ln 2, Dice 2 * 0.5 / 1.5 = 2/3
    assert loss_of_one_class(torch.zeros(1, 1), [[1]]) == pytest.approx(0.6931471805599453 + 1 / 3, abs=1e-5)


@pytest.mark.parametrize("with_ignore", [False, True])
def test_a_batch_equals_the_mean_over_its_pairs_in_a_plain_loop(with_ignore):
    torch.manual_seed(1)
    labels = IGNORE_LABELS if with_ignore else LABELS
    label_map = torch.randint(0, 5 if with_ignore else 4, (2, 1, 3, 4, 2), dtype=torch.int16)
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]]))
    logits = torch.randn(5, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    table = membership_table(labels)
    loss = MaskedLoss(table, labels.get("ignore"), (1.0,))([logits], [label_map], pairs)
    slow = 0.0
    for p, (b, k) in enumerate(zip(pairs.cases, pairs.classes, strict=True)):
        values = label_map[b].flatten().long()
        valid = (values != labels["ignore"]).tolist() if with_ignore else None
        slow = slow + plain_pair_loss(logits[p].flatten(), table[values, k].tolist(), valid) / len(pairs)
    assert loss.item() == pytest.approx(slow.item(), abs=1e-10)
    fast_gradient, slow_gradient = (torch.autograd.grad(each, logits)[0] for each in (loss, slow))
    assert (fast_gradient - slow_gradient).abs().max() < 1e-10


def test_a_pair_with_ignored_voxels_only_does_not_count():
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    label_map = torch.tensor([[[4, 4, 4, 4]], [[1, 0, 0, 1]]], dtype=torch.int16)
    loss = MaskedLoss(membership_table(IGNORE_LABELS), 4, (1.0,))
    both = loss([logits], [label_map], TWO_CASES)
    alone = loss([logits[1:]], [label_map[1:]], ONE_CASE)
    assert both.item() == pytest.approx(alone.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(both, logits)
    assert gradient[0].abs().max() == 0


def test_batch_dice_of_others_is_no_loss_of_a_pair_without_known_voxel():
    logits = torch.randn(2, 4, dtype=torch.float64)
    label_map = torch.tensor([[[4, 4, 4, 4]], [[1, 0, 0, 1]]], dtype=torch.int16)
    loss = MaskedLoss(membership_table(IGNORE_LABELS), 4, (1.0,), batch_dice=True)
    alone = loss([logits[1:]], [label_map[1:]], ONE_CASE)
    assert loss([logits], [label_map], TWO_CASES).item() == pytest.approx(alone.item(), abs=1e-12)


def test_a_pair_is_known_by_its_voxels_at_the_finest_scale():
    label_maps = [torch.tensor([[[4, 4, 4, 1]]]), torch.tensor([[[4, 4]]])]
    logits = [torch.zeros(1, 4), torch.zeros(1, 2)]
    loss = MaskedLoss(membership_table(IGNORE_LABELS), 4, (0.5, 0.5))
    assert loss.of_pairs(logits, label_maps, ONE_CASE).is_known.tolist() == [True]
    assert loss.of_pairs(logits[::-1], label_maps[::-1], ONE_CASE).is_known.tolist() == [False]


def test_no_pair_gives_zero_and_not_nan():
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = MaskedLoss(membership_table(LABELS), None, (1.0,))
    value = loss([logits], [torch.zeros(2, 1, 4, dtype=torch.int16)], Pairs.of(torch.zeros(0, 2, dtype=torch.long)))
    assert value.item() == 0


def test_batch_dice_sums_over_the_cases_of_a_class():
    logits = torch.tensor([[40.0, -40.0], [-40.0, 40.0]], dtype=torch.float64)
    target = [[1, 0], [0, 0]]
    # Entropy 0 for the first case, 40 / 2 for the second. Dice 1 and none alone; together 2 * 1 / (2 + 1) for both.
    assert loss_of_one_class(logits, target) == pytest.approx((20 + 0 + 0) / 2, abs=1e-4)
    assert loss_of_one_class(logits, target, batch_dice=True) == pytest.approx(10 + 1 / 3, abs=1e-4)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("level", [0.0, -10.0, -25.0])
def test_a_class_that_is_absent_is_told_by_cross_entropy_alone(batch_dice, level):
    """Whatever is predicted: no cliff where the last false voxel goes, and no loss that nothing can lower."""
    logits = torch.full((2, 1000), level, dtype=torch.float64, requires_grad=True)
    loss = MaskedLoss(torch.tensor([[False], [True]]), None, (1.0,), batch_dice)
    absent = loss([logits], [torch.zeros(2, 1, 1000, dtype=torch.int16)], TWO_CASES)
    entropy = torch.nn.functional.softplus(logits).mean()
    assert absent.item() == pytest.approx(entropy.item(), abs=1e-12)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (absent, entropy)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-14


def test_weighted_pairs_are_the_weighted_mean_of_a_plain_loop():
    torch.manual_seed(3)
    label_map = torch.randint(0, 4, (2, 1, 3, 4, 2), dtype=torch.int16)
    weights = torch.tensor([1, 0.25, 1, 0.5, 0.125])
    pairs = Pairs(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 2, 0, 1, 2]), weights)
    logits = torch.randn(5, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    table = membership_table(LABELS)
    loss = MaskedLoss(table, None, (1.0,))([logits], [label_map], pairs)
    slow = 0.0
    for p, (b, k) in enumerate(zip(pairs.cases, pairs.classes, strict=True)):
        values = label_map[b].flatten().long()
        slow = slow + float(weights[p]) * plain_pair_loss(logits[p].flatten(), table[values, k].tolist())
    slow = slow / weights.sum().item()
    assert loss.item() == pytest.approx(slow.item(), abs=1e-10)
    fast_gradient, slow_gradient = (torch.autograd.grad(each, logits)[0] for each in (loss, slow))
    assert (fast_gradient - slow_gradient).abs().max() < 1e-10


def test_weights_count_known_pairs_only_and_nothing_known_gives_zero():
    logits = torch.randn(2, 4, dtype=torch.float64)
    label_map = torch.tensor([[[4, 4, 4, 4]], [[1, 0, 0, 1]]], dtype=torch.int16)
    loss = MaskedLoss(membership_table(IGNORE_LABELS), 4, (1.0,))
    pairs = replace(TWO_CASES, weights=torch.tensor([1.0, 0.25]))
    alone = loss([logits[1:]], [label_map[1:]], ONE_CASE)
    assert loss([logits], [label_map], pairs).item() == pytest.approx(alone.item(), abs=1e-12)
    assert loss([logits[:1]], [label_map], pairs[:1]).item() == 0


def test_batch_dice_weights_its_sums():
    logits = torch.tensor([[40.0, -40.0], [-40.0, 40.0]], dtype=torch.float64)
    target = torch.tensor([[1, 0], [0, 0]], dtype=torch.int16)[:, None]
    loss = MaskedLoss(torch.tensor([[False], [True]]), None, (1.0,), batch_dice=True)
    value = loss([logits], [target], replace(TWO_CASES, weights=torch.tensor([1.0, 0.5])))
    # Entropy 0 and 20, the second with half the weight. Dice 2 * 1 / (2 * 1 + 0.5 * 1), for both.
    assert value.item() == pytest.approx((0 + 0.5 * 20) / 1.5 + 1 - 2 / 2.5, abs=1e-4)


def test_the_losses_of_pairs_average_to_the_loss():
    torch.manual_seed(4)
    label_maps = [torch.randint(0, 4, (2, 1, n), dtype=torch.int16) for n in (16, 8)]
    logits = [torch.randn(3, n, dtype=torch.float64) for n in (16, 8)]
    losses = MaskedLoss(membership_table(LABELS), None, (0.75, 0.25)).of_pairs(
        logits, label_maps, Pairs.of(torch.tensor([[0, 0], [0, 1], [1, 2]]))
    )
    assert losses.per_pair.mean().item() == pytest.approx(losses.mean.item(), abs=1e-12)
    assert losses.is_known.tolist() == [True] * 3 and not losses.per_pair.requires_grad


def test_deep_supervision_weights_are_those_of_nnunet():
    assert deep_supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert deep_supervision_weights(1) == (1.0,)
