"""Pairs keep their columns together."""

import torch

from nnunetv2_clip.networks.pairs import Pairs

PAIRS = Pairs(torch.tensor([0, 0, 1]), torch.tensor([4, 5, 4]), torch.tensor([1, 0.5, 1]), torch.tensor([1, 0, 1]) > 0)


def test_rows_of_pairs_have_all_columns():
    picked = PAIRS[torch.tensor([True, False, True])]
    assert len(PAIRS) == 3 and len(picked) == 2
    assert [column.tolist() for column in (picked.cases, picked.classes)] == [[0, 1], [4, 4]]
    assert picked.weights.tolist() == [1, 1] and picked.annotated.tolist() == [True, True]
    assert PAIRS[1:].weights.tolist() == [0.5, 1]


def test_a_table_of_case_and_class_has_neither_weights_nor_unannotated_pairs():
    pairs = Pairs.of(torch.tensor([[0, 4], [1, 5]]))
    assert (pairs.cases.tolist(), pairs.classes.tolist()) == ([0, 1], [4, 5])
    assert pairs.weights is None and pairs.annotated is None
    assert pairs[:1].weights is None
    assert len(Pairs.of(torch.zeros(0, 2, dtype=torch.long))) == 0
