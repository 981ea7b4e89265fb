"""Two processes of one case each train as one process with both cases, whatever the cases annotate.

DDP averages the gradients of the processes; so does this test.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from nnunetv2_clip.losses.masked import MaskedLoss
from nnunetv2_clip.networks.pairs import Pairs

TABLE = torch.tensor([[False, False, False], [True, False, True], [False, True, False]])
WEIGHTS = (0.75, 0.25)
PAIR_WEIGHTS = torch.tensor([[1, 0.25, 0.5], [0.5, 1, 0.125]])  # of each case and class
# (case, class, label value): which voxels are known. The first case alone has a class that is incomplete.
KNOWN = torch.ones(2, 3, 3, dtype=torch.bool)
KNOWN[0, 1, 0] = KNOWN[0, 2, 2] = False
# Annotated classes of the two cases.
ANNOTATIONS = {
    "unequal": ([0, 1, 2], [1]),
    "one rank without any pair": ([], [0, 2]),
    "disjoint": ([0], [1, 2]),
    "one pair": ([1], []),
}


def loss_and_gradient(cases, annotations, batch_dice, weighted=False, incomplete=False):
    """Loss and gradient of a linear network of the given cases, as one process sees them."""
    torch.manual_seed(0)
    images = torch.randn(2, 4, 30, dtype=torch.float64)[cases]
    label_map = torch.randint(0, 3, (2, 1, 30), dtype=torch.int16)[cases]
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    pairs = [[row, k] for row, case in enumerate(cases) for k in annotations[case]]
    pairs = Pairs.of(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2))
    logits = torch.einsum("pc,pcn->pn", weight[pairs.classes], images[pairs.cases])
    scales, label_maps = [logits, logits[:, ::2]], [label_map, label_map[:, :, ::2]]
    if weighted:
        pairs = replace(pairs, weights=PAIR_WEIGHTS[cases][pairs.cases, pairs.classes])
    if incomplete and 0 in cases:  # as in training: a rank without incomplete class goes the other way
        pairs = replace(pairs, known=KNOWN[cases][pairs.cases, pairs.classes])
    loss = MaskedLoss(TABLE, None, WEIGHTS, batch_dice)(scales, label_maps, pairs)
    loss.backward()
    return loss.detach(), weight.grad


def rank(number, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    for name, annotations in ANNOTATIONS.items():
        for settings in product((False, True), repeat=3):
            loss, gradient = loss_and_gradient([number], annotations, *settings)
            for value in (loss, gradient):
                dist.all_reduce(value)
            if number == 0:
                queue.put((name, *settings, (loss / 2).item(), (gradient / 2).tolist()))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    context = multiprocessing.get_context("spawn")  # a fork fails where another test has used autograd on a device
    queue, store = context.Queue(), tmp_path_factory.mktemp("ranks") / "store"
    processes = [context.Process(target=rank, args=(number, store, queue)) for number in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in range(8 * len(ANNOTATIONS))]
    for process in processes:
        process.join(timeout=60)
    return {result[:4]: result[4:] for result in results}


@pytest.mark.parametrize("incomplete", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_two_ranks_of_one_case_equal_one_rank_of_two(name, batch_dice, weighted, incomplete, two_ranks):
    loss, gradient = loss_and_gradient([0, 1], ANNOTATIONS[name], batch_dice, weighted, incomplete)
    loss_of_ranks, gradient_of_ranks = two_ranks[name, batch_dice, weighted, incomplete]
    assert loss_of_ranks == pytest.approx(loss.item(), abs=1e-10)
    assert (torch.tensor(gradient_of_ranks, dtype=torch.float64) - gradient).abs().max() < 1e-10


def test_the_case_of_unequal_annotation_tells_means_over_ranks_from_means_over_pairs():
    alone = [loss_and_gradient([case], ANNOTATIONS["unequal"], False)[0] for case in (0, 1)]
    together = loss_and_gradient([0, 1], ANNOTATIONS["unequal"], False)[0]
    assert abs(sum(alone) / 2 - together) > 1e-3
