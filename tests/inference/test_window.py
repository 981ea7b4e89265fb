"""Where patches lie and how they are blended: nnU-Net's way, or that of the published weights."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.sliding import REFERENCE, SlidingWindow, Window

PATCH = (8, 6, 4)


def window(entry, size, step=0.5):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.tile_step_size = step
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH)
    predictor.plans_manager = SimpleNamespace(plans={"nnunetv2_clip": {"window": entry}} if entry else {})
    predictor.allowed_mirroring_axes = None
    torch.manual_seed(0)
    network = lambda x: torch.cat((x.cumsum(2), x.cumsum(3)), dim=1)  # noqa: E731 another answer in each position
    return SlidingWindow(predictor, [network], torch.rand(1, *size)), network


def result(sliding):
    rows = []
    sliding.run(2, lambda part: rows.append(part.clone()), torch.device("cpu"))
    return torch.cat(rows, dim=1)


def starts_of_the_authors(size, patch, step):
    """Steps until a patch reaches the end; what stands out is pushed back."""
    found, start = [], 0
    while True:
        found.append(min(start, size - patch))
        if start + patch >= size:
            return found
        start += step


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((21, 6, 11), [[0, 4, 8, 12, 13], [0], [0, 2, 4, 6, 7]]),
        ((20, 9, 4), [[0, 4, 8, 12], [0, 3], [0]]),  # whole steps: no patch twice
    ],
)
def test_the_reference_is_a_plain_loop_over_all_patches(size, expected):
    sliding, network = window({"floor": 1e-3, "positions": "steps"}, size)
    distances = [(np.arange(edge) - edge // 2) / (edge / 8) for edge in PATCH]
    gauss = [np.exp(-0.5 * distance**2) for distance in distances]
    weight = torch.tensor(np.maximum(np.einsum("i,j,k->ijk", *gauss), 1e-3), dtype=torch.float32)
    sums, weights = torch.zeros(2, *size), torch.zeros(size)
    starts = [starts_of_the_authors(*each) for each in zip(size, PATCH, (4, 3, 2), strict=True)]
    assert starts == expected
    for corner in product(*starts):
        cut = tuple(slice(start, start + edge) for start, edge in zip(corner, PATCH, strict=True))
        sums[(slice(None), *cut)] += network(sliding._data[(slice(None), *cut)][None])[0] * weight
        weights[cut] += weight
    assert torch.allclose(result(sliding), sums / weights, atol=2e-3)  # the host's Gaussian has half precision


def test_without_an_entry_patches_lie_where_nnunet_places_them():
    ours, _ = window(None, (21, 6, 11))
    plain, _ = window({"floor": 0.0, "positions": "spread"}, (21, 6, 11))
    assert sorted({cut[1].start for cut in ours._slicers}) == [0, 3, 6, 10, 13]
    assert torch.equal(result(ours), result(plain))
    reference, _ = window({"floor": 1e-3, "positions": "steps"}, (21, 6, 11))
    assert not torch.allclose(result(ours), result(reference))


def test_the_entry_is_checked():
    assert Window.of_plans({}) == Window() != REFERENCE
    for wrong in ({"floor": 2.0}, {"positions": "random"}, {"flor": 0.1}, [1]):
        with pytest.raises(UserError, match="window"):
            Window.of_plans({"nnunetv2_clip": {"window": wrong}})
