"""Decoder features per predicted class, and their map."""

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2_clip.evaluation.paper.features import MIN_VOXELS, FeatureSampler, map_figure, project, spread


class Threshold(nn.Module):
    """A network whose features are the image and its square, and whose classes are bright and dark voxels."""

    class_names = ("bright", "dark", "never")

    def __init__(self):
        super().__init__()
        self.feature_layers = nn.ModuleList([nn.Identity()])

    def forward(self, image):
        self.feature_layers[-1](torch.cat([image, image**2], dim=1))
        return torch.cat([image - 0.5, -0.5 - image, torch.full_like(image, -1)], dim=1)


@pytest.fixture
def sampled():
    sampler = FeatureSampler(Threshold(), per_class=20)
    for seed in range(3):
        torch.manual_seed(seed)
        sampler.add(torch.randn(1, 1, 6, 5, 4))
    return sampler


def test_features_are_those_of_voxels_of_the_class(sampled):
    found = sampled.result(per_class=1000)
    assert (found["bright"][:, 0] > 0.5).all() and (found["dark"][:, 0] < -0.5).all()
    np.testing.assert_allclose(found["bright"][:, 1], found["bright"][:, 0] ** 2, rtol=1e-5)


def test_classes_share_the_number_of_voxels_and_rare_ones_are_left_out(sampled):
    found = sampled.result(per_class=10)
    assert {name: len(rows) for name, rows in found.items()} == {"bright": 10, "dark": 10}


def test_network_is_left_without_hooks(sampled):
    assert not sampled.network.feature_layers[-1]._forward_pre_hooks


def test_map_keeps_classes_apart_that_are_apart():
    rng = np.random.default_rng(0)
    features = {name: rng.normal(centre, 0.1, (30, 4)) for name, centre in (("liver", 0), ("spleen", 5))}
    plane = project(features)
    assert plane["liver"].shape == (30, 2)
    centres = [dots.mean(0) for dots in plane.values()]
    spread = max(np.linalg.norm(dots - dots.mean(0), axis=1).mean() for dots in plane.values())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_figure_names_every_class():
    rng = np.random.default_rng(0)
    figure = map_figure({"liver": rng.normal(size=(MIN_VOXELS, 2)), "liver_tumor": rng.normal(size=(MIN_VOXELS, 2))})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["1  liver", "2  liver tumor"]


def test_numbers_of_classes_do_not_cover_each_other():
    places = spread(np.array([[0, 0], [0, 0], [0.5, 0], [10, 10]]), distance=1)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.98
    np.testing.assert_array_equal(places[3], (10, 10))  # nobody near: not moved
