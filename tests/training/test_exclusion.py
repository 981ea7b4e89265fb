"""Exclusion: what an annotated class tells about the others, against a plain loop."""

import math
from dataclasses import replace

import pytest
import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.losses.masked import SMOOTH, MaskedLoss
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.exclusion import ExclusionLoss, exclusive_classes

CLASSES = ("liver", "spleen", "liver_tumor", "hepatic_vessel")
# Label values: 0 background, 1 liver, 2 spleen, 3 liver tumour in liver, 4 hepatic vessel in liver, 5 ignore.
MEMBERSHIP = torch.tensor(
    [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool
)
IGNORE = 5


def test_classes_exclude_each_other_unless_one_holds_the_other_or_one_organ_holds_both():
    liver, spleen, tumor, vessel = range(4)
    allowed = {(liver, tumor), (liver, vessel), (tumor, vessel)}
    exclusive = exclusive_classes(CLASSES, UNIVERSAL)
    for i in range(4):
        for j in range(4):
            assert exclusive[i, j] == (i != j and (i, j) not in allowed and (j, i) not in allowed)
    assert exclusive[spleen].tolist() == [True, False, True, True]


def test_left_and_right_exclude_each_other():
    assert exclusive_classes(("left_kidney", "right_kidney"), UNIVERSAL)[0, 1]


def plain_loop(logits, label_map, pairs, annotated):
    """Voxel by voxel, as the definition reads."""
    losses = {True: [], False: []}  # of annotated and of unannotated pairs
    for p, (case, k) in enumerate(pairs):
        entropy = overlap = size = count = 0.0
        for x, value in zip(logits[p].flatten().tolist(), label_map[case].flatten().tolist(), strict=True):
            inside = {CLASSES[c] for c in range(4) if MEMBERSHIP[value, c]}
            ruled_out = any(
                not ({other} | UNIVERSAL.ancestors(other)) & ({CLASSES[k]} | UNIVERSAL.ancestors(CLASSES[k]))
                for other in inside
            )
            if value == IGNORE or not (annotated[case][k] or ruled_out):
                continue
            target = float(CLASSES[k] in inside)
            probability = 1 / (1 + math.exp(-x))
            entropy -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
            overlap, size, count = overlap + probability * target, size + probability + target, count + 1
        if count:
            dice_loss = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH) if annotated[case][k] else 0
            losses[annotated[case][k]].append(entropy / count + dice_loss)
    return sum(sum(values) / len(values) for values in losses.values())


@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_the_loss_equals_a_plain_loop(ignore):
    generator = torch.Generator().manual_seed(0)
    annotated = [[True, False, True, False], [False, True, False, False], [False, False, False, False]]
    label_map = torch.zeros(3, 1, 2, 3, 4, dtype=torch.int16)
    shown = [[0, 1, 3], [0, 2], [0]]  # label values that a case with these annotations can hold
    for case, values in enumerate(shown):
        drawn = torch.randint(len(values), (2, 3, 4), generator=generator)
        label_map[case, 0] = torch.tensor(values, dtype=torch.int16)[drawn]
    if ignore:
        label_map[:, :, 0, 0] = ignore
    pairs = [(case, k) for case in range(3) for k in range(4)]
    table = replace(Pairs.of(torch.tensor(pairs)), annotated=torch.tensor(annotated).flatten())
    logits = torch.randn(len(pairs), 2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)

    loss = ExclusionLoss(exclusive_classes(CLASSES, UNIVERSAL), MEMBERSHIP, ignore, (1.0,))
    value = loss([logits], [label_map], table)
    assert value.item() == pytest.approx(plain_loop(logits, label_map, pairs, annotated), abs=1e-12)

    value.backward()
    spleen_map = label_map[1, 0] == 2
    liver_in_spleen_case = logits.grad[pairs.index((1, 0))]
    known = spleen_map & (label_map[1, 0] != IGNORE)
    assert (liver_in_spleen_case[known] > 0).all(), "known negatives are pushed down"
    assert (liver_in_spleen_case[~known] == 0).all(), "unknown voxels get exactly nothing"
    assert (logits.grad[pairs.index((0, 3))] == 0).all(), "a vessel may be anywhere in liver and tumour"
    assert (logits.grad[8:] == 0).all(), "a case without annotation says nothing"


def test_annotated_pairs_alone_give_the_masked_loss():
    label_map = torch.tensor([0, 1, 3, 1, 2, 2]).view(1, 1, 1, 2, 3)
    logits = torch.linspace(-2, 2, 12, dtype=torch.float64).view(2, 1, 2, 3)
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 1]]))
    masked = MaskedLoss(MEMBERSHIP, None, (1.0,))([logits], [label_map], pairs)
    with_flag = replace(pairs, annotated=torch.tensor([True, True]))
    exclusion = ExclusionLoss(exclusive_classes(CLASSES, UNIVERSAL), MEMBERSHIP, None, (1.0,))
    assert exclusion([logits], [label_map], with_flag) == exclusion([logits], [label_map], pairs) == masked


@pytest.mark.parametrize("batch_dice", [False, True])
def test_annotated_pairs_get_the_gradient_that_they_get_without_exclusion(batch_dice):
    generator = torch.Generator().manual_seed(1)
    label_map = torch.tensor([0, 1, 3, 1, 4, 1]).view(1, 1, 1, 2, 3)
    logits = torch.randn(4, 1, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    not_spleen = torch.tensor([True, False, True, True])
    pairs = Pairs(torch.zeros(4, dtype=torch.long), torch.arange(4), annotated=not_spleen)
    exclusion = ExclusionLoss(exclusive_classes(CLASSES, UNIVERSAL), MEMBERSHIP, None, (1.0,), batch_dice)
    exclusion([logits], [label_map], pairs).backward()
    annotated = [0, 2, 3]
    alone = logits.detach()[annotated].requires_grad_()
    MaskedLoss(MEMBERSHIP, None, (1.0,), batch_dice)([alone], [label_map], pairs[annotated]).backward()
    assert torch.equal(logits.grad[annotated], alone.grad)
    assert (logits.grad[1] > 0).sum() == 5, "every voxel of liver, tumour and vessel is a known negative of the spleen"


def test_dice_over_a_batch_leaves_out_the_cases_that_do_not_annotate_the_class():
    """Case 1 rules the spleen out in its liver: these voxels give entropy, but no part of the spleen's Dice."""
    label_map = torch.tensor([[0, 2, 2, 0], [1, 1, 0, 1]]).view(2, 1, 1, 1, 4)
    logits = torch.randn(3, 1, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    spleen, liver = 1, 0
    pairs = Pairs(torch.tensor([0, 1, 1]), torch.tensor([spleen, liver, spleen]), annotated=torch.tensor([1, 1, 0]) > 0)
    exclusion = ExclusionLoss(exclusive_classes(CLASSES, UNIVERSAL), MEMBERSHIP, None, (1.0,), True)
    masked = MaskedLoss(MEMBERSHIP, None, (1.0,), True)
    annotated = masked.of_pairs([logits[:2]], [label_map], pairs[:2])
    assert exclusion.of_pairs([logits], [label_map], pairs).per_pair[:2].tolist() == annotated.per_pair.tolist()
