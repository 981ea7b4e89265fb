"""The counts behind the pseudo Dice equal those of masks, voxel by voxel."""

import pytest
import torch

from nnunetv2_clip.losses.masked import MaskedLoss
from nnunetv2_clip.losses.pair_sums import membership_table
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.trainer import _true_false_counts

LABELS = {"background": 0, "liver": [1, 3], "spleen": [2], "liver_tumor": [3], "ignore": 4}


@pytest.mark.parametrize("ignore", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_true_and_false_voxels_are_counted_exactly(ignore, dtype):
    torch.manual_seed(0)
    table = membership_table(LABELS)
    label_map = torch.randint(0, 5, (2, 1, 20, 21, 22)).short()
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 2], [1, 1], [1, 2]]))
    logits = torch.randn(len(pairs), 20, 21, 22).to(dtype)
    logits[0, 0, 0, :5], logits[1, 0] = float("nan"), 0  # neither is a prediction
    counts = _true_false_counts(logits, label_map, pairs, MaskedLoss(table, ignore, (1.0,)), 3)
    expected = {key: [0, 0, 0] for key in ("tp_hard", "fp_hard", "fn_hard")}
    for logit, case, k in zip(logits.flatten(1), pairs.cases, pairs.classes, strict=True):
        labels = label_map[case].flatten()
        predicted, target, valid = logit > 0, table[labels.long(), k], labels != (-1 if ignore is None else ignore)
        expected["tp_hard"][k] += int((predicted & target & valid).sum())
        expected["fp_hard"][k] += int((predicted & ~target & valid).sum())
        expected["fn_hard"][k] += int((~predicted & target & valid).sum())
    assert {key: values.tolist() for key, values in counts.items()} == expected
