"""A compiled network: the number of pairs changes with every batch and neither recompiles it nor changes a value."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.networks.universal import CLIPUniversalNet

CLASSES = tuple(f"class_{k}" for k in range(8))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = CLIPUniversalNet(
        input_channels=1,
        num_classes=len(CLASSES),
        backbone_class="dynamic_network_architectures.architectures.unet.PlainConvUNet",
        class_names=CLASSES,
        text_width=6,
        n_stages=2,
        features_per_stage=[4, 8],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 2,
        strides=[[1, 1, 1], [2, 2, 2]],
        n_conv_per_stage=[1, 1],
        n_conv_per_stage_decoder=[1],
        conv_bias=True,
        nonlin=torch.nn.LeakyReLU,
    )
    network.set_classes(torch.randn(len(CLASSES), 6), torch.ones(len(CLASSES), dtype=torch.bool))
    return network


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_and_gradient(network, original, image, pairs):
    original.zero_grad()
    loss = sum(scale.square().mean() for scale in network(image, pairs))
    loss.backward()
    return [
        loss.detach(),
        *(parameter.grad.clone() for parameter in original.parameters() if parameter.grad is not None),
    ]


def test_varying_numbers_of_pairs_do_not_recompile(network, fresh_compiler):
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, backend=backend)
    image = torch.randn(2, 1, 8, 8, 8)
    graphs = []
    for num_pairs in (3, 5, 4, 7, 6, 2, 8):
        pairs = Pairs.of(torch.tensor([[b, k] for b in range(2) for k in range(8)])[:num_pairs])
        for ours, plain in zip(
            loss_and_gradient(compiled, network, image, pairs),
            loss_and_gradient(network, network, image, pairs),
            strict=True,
        ):
            assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-6)
        graphs.append(backend.frame_count)
    assert graphs[0] > 0  # something was compiled
    assert graphs[1:] == [graphs[1]] * (len(graphs) - 1)  # the second number makes the size dynamic, the rest are free


def test_a_network_under_autocast_stays_near_single_precision(network):
    image, pairs = torch.randn(2, 1, 8, 8, 8), Pairs.of(torch.tensor([[0, 1], [1, 0], [1, 3]]))
    exact = network(image, pairs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(image, pairs)[0]
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
    rough.float().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.controller.parameters())
