"""The controller and the whole text-driven head against plain loops written from the paper (section 3.2).

theta_k = MLP(w_k concatenated with f); P_k = three 1x1x1 convolutions, 8 -> 8 -> 8 -> 1, whose weights are theta_k,
with ReLU between them. f is the global image feature of the case, w_k the text embedding of the class.
"""

import math

import pytest
import torch

from nnunetv2_clip.networks.controller import BACKGROUND_PRIOR, Controller, ImageFeature
from nnunetv2_clip.networks.head import text_driven_head
from nnunetv2_clip.networks.pairs import Pairs
from tests.networks.test_universal import make_network

PAIRS = Pairs.of(torch.tensor([[0, 1], [0, 2], [1, 0], [1, 1], [2, 2]]))


def dense(layer, x):
    """A fully connected layer on a list of numbers, one product at a time."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [b + sum(w * value for w, value in zip(row, x, strict=True)) for row, b in zip(weight, bias, strict=True)]


def relu(x):
    return [max(value, 0.0) for value in x]


def plain_theta(controller, w, f):
    """The 153 parameters of a class with embedding `w` in a case with image feature `f`.

    The embedding of unit length is scaled to entries of size 1, projected, and then concatenated with f.
    """
    text = relu(dense(controller.text_projection, [math.sqrt(len(w)) * value for value in w]))
    return dense(controller.dynamic_parameters, relu(dense(controller.hidden, text + list(f))))


def plain_logit(theta, x):
    """One voxel with 8 channels through the three convolutions: W1 (8, 8), b1, W2 (8, 8), b2, w3 (8), b3."""
    theta = list(theta)
    take = lambda count: [theta.pop(0) for _ in range(count)]  # noqa: E731
    w1, b1, w2, b2, w3, (b3,) = take(64), take(8), take(64), take(8), take(8), take(1)
    assert not theta
    for weight, bias in ((w1, b1), (w2, b2)):
        x = [max(bias[i] + sum(weight[8 * i + j] * x[j] for j in range(8)), 0.0) for i in range(8)]
    return b3 + sum(w3[j] * x[j] for j in range(8))


def plain_image_feature(module, bottleneck):
    """f of one case, (C, *spatial): group normalisation, ReLU, the mean over all voxels, a projection."""
    groups, features = module.norm.num_groups, []
    for group, part in enumerate(bottleneck.reshape(groups, -1)):
        mean, spread = part.mean(), (part.var(unbiased=False) + module.norm.eps).sqrt()
        for channel, values in enumerate(((part - mean) / spread).reshape(len(bottleneck) // groups, -1)):
            k = group * (len(bottleneck) // groups) + channel
            values = relu((values * module.norm.weight[k] + module.norm.bias[k]).tolist())
            features.append(sum(values) / len(values))
    return dense(module.projection, features)


@pytest.fixture
def controller():
    torch.manual_seed(0)
    return Controller(text_width=6, image_width=4, hidden_width=16).double()


@pytest.fixture
def inputs():
    """Embeddings of three classes, image features of three cases."""
    torch.manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(3, 6, dtype=torch.float64), dim=1)
    return vectors, torch.randn(3, 4, dtype=torch.float64)


def test_the_parameters_of_each_pair_are_the_mlp_of_its_class_and_its_case(controller, inputs):
    vectors, features = inputs
    theta = controller(vectors, features, PAIRS)
    assert theta.shape == (5, 153)
    for p, (case, k) in enumerate(zip(PAIRS.cases, PAIRS.classes, strict=True)):
        plain = plain_theta(controller, vectors[k].tolist(), features[case].tolist())
        assert theta[p].tolist() == pytest.approx(plain, abs=1e-12)


def test_text_and_image_both_reach_the_parameters(controller, inputs):
    """So that the loop above tells cases and classes apart."""
    vectors, features = inputs
    first, second, third, fourth, _ = controller(vectors, features, PAIRS)
    assert (first - second).abs().max() > 0.01  # another class of the same case
    assert (first - fourth).abs().max() > 0.01  # the same class in another case
    assert (third - fourth).abs().max() > 0.01


@pytest.mark.parametrize(("num_channels", "num_groups"), [(32, 16), (24, 8), (6, 2)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_image_feature_is_the_mean_over_all_voxels_of_its_case(num_channels, num_groups, dimensions):
    torch.manual_seed(0)
    module = ImageFeature(num_channels, 5).double()
    for parameter in module.norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    bottleneck = torch.randn(2, num_channels, *(3, 2, 4)[:dimensions], dtype=torch.float64) + 1
    assert module.norm.num_groups == num_groups
    for case, feature in enumerate(module(bottleneck)):
        assert feature.tolist() == pytest.approx(plain_image_feature(module, bottleneck[case]), abs=1e-12)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_whole_head_is_the_papers_loop_at_every_voxel_and_scale(deep_supervision):
    network = make_network(deep_supervision=deep_supervision).double().eval()
    image = torch.randn(3, 1, 8, 8, 8, dtype=torch.float64)
    skips = network.encoder(image)
    stages = network.decoder(skips)
    layers = list(network.feature_layers)[::-1]  # the decoder builds the coarsest first
    maps = [layer(x) for layer, x in zip(layers, stages if deep_supervision else [stages], strict=False)]
    thetas = {}
    for case, k in zip(PAIRS.cases.tolist(), PAIRS.classes.tolist(), strict=True):
        f = plain_image_feature(network.image_feature, skips[-1][case])
        thetas[case, k] = plain_theta(network.controller, network.class_embedding.vectors[k].tolist(), f)
    result = network(image, PAIRS)
    result = result if deep_supervision else [result]
    assert len(result) == (2 if deep_supervision else 1)
    everything = network(image) if deep_supervision else [network(image)]
    for logits, full, features in zip(result, everything, maps, strict=True):
        for p, (case, k) in enumerate(thetas):
            for voxel in ((0, 0, 0), (1, 3, 2), (3, 0, 1)):
                plain = plain_logit(thetas[case, k], features[(case, slice(None), *voxel)].tolist())
                assert logits[(p, *voxel)].item() == pytest.approx(plain, abs=1e-10)
                assert full[(case, k, *voxel)].item() == pytest.approx(plain, abs=1e-10)


def test_a_new_controller_generates_a_he_initialisation_and_the_prior_of_a_rare_class():
    """Weights of variance 2 / 8 before a ReLU, 1 / 8 before the logit, no bias, but the last: a class is rare."""
    torch.manual_seed(0)
    shared = torch.stack([Controller(6, 4, 16).dynamic_parameters.bias.detach() for _ in range(400)])
    w1, b1, w2, b2, w3, b3 = shared.split((64, 8, 64, 8, 8, 1), dim=1)
    for weights, variance in ((w1, 2 / 8), (w2, 2 / 8), (w3, 1 / 8)):
        # The variance of n draws is known to sqrt(2 / n): five of these, and no wrong scale is that near.
        assert weights.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / weights.numel()))
        assert abs(weights.mean().item()) < 5 * math.sqrt(variance / weights.numel())
    assert not b1.any() and not b2.any()
    assert (b3 == BACKGROUND_PRIOR).all()
    assert 1 / (1 + math.exp(-BACKGROUND_PRIOR)) == pytest.approx(0.05, abs=0.005)


def test_the_part_that_depends_on_text_and_image_starts_small():
    """Of a tenth or so of the shared weights, so that the generated layers are still those of He."""
    torch.manual_seed(0)
    controller = Controller(6, 4)
    assert controller.dynamic_parameters.weight.std().item() == pytest.approx(0.05, rel=0.02)
    vectors = torch.nn.functional.normalize(torch.randn(3, 6), dim=1)
    theta = controller(vectors, torch.randn(3, 4), PAIRS)
    own = theta - controller.dynamic_parameters.bias
    assert 0 < own.std() < 0.5 * math.sqrt(2 / 8)


def test_at_the_start_almost_every_voxel_is_background():
    """Through features of unit variance the logits keep a spread of about 1 around the prior: no layer vanishes or
    explodes."""
    torch.manual_seed(0)
    features, thetas = torch.randn(1, 8, 4000), []
    for _ in range(50):
        controller = Controller(6, 4)
        vectors = torch.nn.functional.normalize(torch.randn(1, 6), dim=1)
        thetas.append(controller(vectors, torch.randn(1, 4), Pairs.of(torch.tensor([[0, 0]]))).detach())
    logits = text_driven_head(features, torch.cat(thetas), torch.zeros(50, dtype=torch.long))
    assert logits.mean().item() == pytest.approx(BACKGROUND_PRIOR, abs=1)
    assert 0.5 < (logits - logits.mean(1, keepdim=True)).std() < 3
