"""A compiled network: the number of pairs changes with every batch and neither recompiles it nor changes a value."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.networks.universal import CLIPUniversalNet

CLASSES = tuple(f"class_{k}" for k in range(8))


@pytest.fixture
def make_network():
    def make(extensions=()):
        torch.manual_seed(0)
        network = CLIPUniversalNet(
            input_channels=1,
            num_classes=len(CLASSES),
            backbone_class="dynamic_network_architectures.architectures.unet.PlainConvUNet",
            class_names=CLASSES,
            text_width=6,
            extensions=extensions,
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

    return make


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def loss_and_gradient(network, original, image, pairs):
    original.zero_grad()
    loss = sum(scale.square().sum() for scale in network(image, pairs)) / image.numel()
    loss.backward()
    return [
        loss.detach(),
        *(parameter.grad.clone() for parameter in original.parameters() if parameter.grad is not None),
    ]


NUMBERS_OF_PAIRS = (3, 1, 0, 5, 1, 0, 7, 6, 2, 8)


@pytest.mark.parametrize("extensions", [(), (("class_1",), ("class_2", "class_3"))], ids=["plain", "extended"])
def test_a_whole_training_compiles_three_graphs_and_changes_no_value(extensions, make_network, fresh_compiler):
    """As stock nnU-Net: the training, its validation, and the final validation without deep supervision. No number of
    pairs compiles anything, 0 and 1 included, which compilers treat apart, nor does a choice of classes."""
    network = make_network(extensions)
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, backend=backend)
    image = torch.randn(2, 1, 8, 8, 8)
    graphs = []
    for num_pairs in NUMBERS_OF_PAIRS:
        table = torch.cartesian_prod(torch.arange(2), torch.arange(8))[:num_pairs]
        pairs = Pairs.of(table)
        compiled.train()
        for ours, plain in zip(
            loss_and_gradient(compiled, network, image, pairs),
            loss_and_gradient(network, network, image, pairs),
            strict=True,
        ):
            assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-6)
        compiled.eval()
        with torch.no_grad():
            compiled(image, pairs)
        graphs.append(backend.frame_count)
    assert graphs == [2] * len(graphs)
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        for names in (CLASSES, CLASSES[:3]):
            network.keep_classes(names)
            assert compiled(image[:1]).shape == (1, len(names), 8, 8, 8)
    assert backend.frame_count == 3
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_network_under_autocast_stays_near_single_precision(make_network):
    network = make_network()
    image, pairs = torch.randn(2, 1, 8, 8, 8), Pairs.of(torch.tensor([[0, 1], [1, 0], [1, 3]]))
    exact = network(image, pairs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(image, pairs)[0]
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
    rough.float().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.controller.parameters())
