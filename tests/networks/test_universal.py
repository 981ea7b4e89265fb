"""The universal network: keys of nnU-Net, requested pairs only, classes that were never trained stay silent."""

import pytest
import torch

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.losses.masked import MaskedLoss
from nnunetv2_clip.losses.pair_sums import membership_table
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.networks.universal import UNTRAINED_LOGIT, CLIPUniversalNet

CLASSES = ("liver", "spleen", "liver_tumor")
LABELS = {"background": 0, "liver": [1, 3], "spleen": [2], "liver_tumor": [3]}


def small_backbone(name, dimensions=3):
    conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dimensions]
    norm = {2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}[dimensions]
    blocks = "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "backbone_class": f"dynamic_network_architectures.architectures.unet.{name}",
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": conv,
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        blocks: [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"affine": True},
        "nonlin": torch.nn.LeakyReLU,
    }


def make_network(name="PlainConvUNet", dimensions=3, classes=CLASSES, **changes):
    torch.manual_seed(0)
    arguments = {**small_backbone(name, dimensions), "class_names": classes, "text_width": 6, **changes}
    network = CLIPUniversalNet(input_channels=1, num_classes=len(classes), **arguments)
    vectors = torch.nn.functional.normalize(torch.randn(len(classes), 6), dim=1)
    network.set_classes(vectors, torch.ones(len(classes), dtype=torch.bool))
    return network


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_logits_at_every_scale(name, dimensions):
    network = make_network(name, dimensions)
    logits = network(torch.randn(2, 1, *[8] * dimensions))
    assert [tuple(scale.shape) for scale in logits] == [(2, 3, *[8] * dimensions), (2, 3, *[4] * dimensions)]
    network.decoder.deep_supervision = False
    assert network(torch.randn(1, 1, *[8] * dimensions)).shape == (1, 3, *[8] * dimensions)


def test_requested_pairs_equal_the_rows_of_the_full_result():
    network = make_network().double()
    image = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    pairs = Pairs.of(torch.tensor([[0, 2], [1, 0], [1, 1]]))
    for full, some in zip(network(image), network(image, pairs), strict=True):
        assert torch.allclose(full[pairs.cases, pairs.classes], some, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_backbone_keys_are_those_of_nnunet(name):
    import pydoc

    arguments = small_backbone(name)
    stock = pydoc.locate(arguments.pop("backbone_class"))(input_channels=1, num_classes=3, **arguments).state_dict()
    ours = make_network(name).state_dict()
    expected = {key: value.shape for key, value in stock.items() if ".seg_layers." not in key}
    found = {key: value.shape for key, value in ours.items() if key.startswith(("encoder.", "decoder."))}
    assert found == expected


def test_only_keys_with_seg_layers_depend_on_the_number_of_classes():
    three, two = make_network().state_dict(), make_network(classes=CLASSES[:2]).state_dict()
    differing = {key for key in three if three[key].shape != two[key].shape}
    assert differing == {"class_embedding.seg_layers.text_embedding", "class_embedding.seg_layers.trained"}


def test_a_class_that_was_never_trained_is_never_predicted():
    network = make_network()
    network.class_embedding.trained[1] = False
    network.decoder.deep_supervision = False
    logits = network(torch.randn(1, 1, 8, 8, 8))
    assert (logits[:, 1] == UNTRAINED_LOGIT).all()
    assert (logits[:, 0] != UNTRAINED_LOGIT).all()


def test_the_logit_of_a_class_that_was_never_trained_is_below_any_threshold():
    assert torch.tensor(UNTRAINED_LOGIT).sigmoid() < 1e-8


def test_a_network_counts_as_trained_for_all_classes_until_told_otherwise():
    network = CLIPUniversalNet(1, len(CLASSES), class_names=CLASSES, text_width=6, **small_backbone("PlainConvUNet"))
    assert network.class_embedding.trained.all()


def test_the_backbone_starts_with_its_own_initialisation():
    """nnU-Net's: He's weights and no bias, where torch alone would draw one."""
    network = make_network()
    biases = [module.bias for module in network.encoder.modules() if isinstance(module, torch.nn.Conv3d)]
    assert biases and not any(bias.any() for bias in biases)


def test_keep_classes_gives_the_same_logits_in_the_new_order():
    network = make_network()
    network.decoder.deep_supervision = False
    image = torch.randn(1, 1, 8, 8, 8)
    full = network(image)
    network.keep_classes(("liver_tumor", "liver"))
    assert torch.allclose(network(image), full[:, [2, 0]], atol=1e-6)


def test_every_class_gets_other_weights_from_its_text():
    network = make_network()
    network.decoder.deep_supervision = False
    logits = network(torch.randn(1, 1, 8, 8, 8))
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 1e-3


def keep(outputs):
    """A hook that collects a module's outputs with their gradients."""

    def hook(module, inputs, output):
        output.retain_grad()
        outputs.append(output)

    return hook


def test_unannotated_pairs_get_exactly_zero_gradient_at_the_head():
    network = make_network().double()
    image = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    features, thetas = [], []
    for layer in network.feature_layers:
        layer.register_forward_hook(keep(features))

    network.controller.register_forward_hook(keep(thetas))
    label_maps = [torch.randint(0, 4, (2, 1, size, size, size), dtype=torch.int16) for size in (8, 4)]
    loss = MaskedLoss(membership_table(LABELS), None, (0.5, 0.5))
    presence = torch.tensor([[True, False, True], [False, False, False]])
    # All pairs go through the head, the loss takes the annotated ones: the others' inputs must get exactly nothing.
    everything = Pairs.of(torch.cartesian_prod(torch.arange(2), torch.arange(3)))
    annotated = presence[everything.cases, everything.classes]
    logits = network(image, everything)
    loss([scale[annotated] for scale in logits], label_maps, everything[annotated]).backward()
    (theta,) = thetas
    assert theta.grad[~annotated].abs().max() == 0
    assert theta.grad[annotated].abs().max() > 0
    for feature in features:
        assert feature.grad[1].abs().max() == 0  # the second case annotates nothing
        assert feature.grad[0].abs().max() > 0


def test_without_annotated_pair_every_gradient_is_exactly_zero():
    network = make_network()
    pairs = Pairs.of(torch.zeros(0, 2, dtype=torch.long))
    label_maps = [torch.zeros(2, 1, size, size, size, dtype=torch.int16) for size in (8, 4)]
    loss = MaskedLoss(membership_table(LABELS), None, (0.5, 0.5))
    loss(network(torch.randn(2, 1, 8, 8, 8), pairs), label_maps, pairs).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.abs().max() == 0 for gradient in gradients)


def extended(old, classes=("liver", "kidney", "spleen", "liver_tumor", "cyst"), extensions=(("kidney",), ("cyst",))):
    """A network with two later parts that holds all weights of `old`; the new classes lie between the old ones."""
    network = make_network(classes=classes, extensions=extensions)
    weights = {key: value for key, value in old.state_dict().items() if ".seg_layers." not in key}
    assert not network.load_state_dict(weights, strict=False).unexpected_keys
    with torch.no_grad():
        for name, row in zip(old.class_names, old.class_embedding.vectors, strict=True):
            network.class_embedding.vectors[classes.index(name)] = row
        for part in network.extensions:  # as if trained
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) / 10)
    return network


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_old_classes_are_identical_to_the_bit_with_later_parts(batch, deep_supervision):
    old = make_network()
    new = extended(old)
    image = torch.randn(batch, 1, 16, 16, 16)
    for network in (old, new):
        network.decoder.deep_supervision = deep_supervision
    with torch.inference_mode():
        before, after = old(image), new(image)
    for a, b in zip(before, after, strict=True) if deep_supervision else [(before, after)]:
        assert torch.equal(a, b[:, [0, 2, 3]])
        assert len(torch.unique(b[0].flatten(1), dim=0)) == 5  # every class has its own


def test_a_class_that_was_declared_but_never_trained_can_get_a_part_later():
    old = make_network()
    old.class_embedding.trained[1] = False
    new = extended(old, CLASSES, (("spleen",),))
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        for before, after in zip(old(image), new(image), strict=True):
            assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
            assert (before[:, 1] == UNTRAINED_LOGIT).all()
            assert (after[:, 1] != UNTRAINED_LOGIT).all()


def test_requested_pairs_and_kept_classes_with_later_parts():
    network = extended(make_network()).double()
    image = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    pairs = Pairs.of(torch.tensor([[0, 4], [1, 0], [1, 1]]))
    full = network(image)
    for all_classes, some in zip(full, network(image, pairs), strict=True):
        assert torch.allclose(all_classes[pairs.cases, pairs.classes], some, rtol=0, atol=1e-12)
    network.keep_classes(("cyst", "liver"))
    with torch.inference_mode():
        for all_classes, two in zip(full, network(image), strict=True):
            assert torch.allclose(all_classes[:, [4, 0]], two, rtol=0, atol=1e-12)


def test_pairs_of_one_part_give_no_other_part_a_gradient_and_leave_none_without():
    network = extended(make_network())
    pairs = Pairs.of(torch.tensor([[0, 4]]))
    sum(scale.sum() for scale in network(torch.randn(1, 1, 8, 8, 8), pairs)).backward()
    first, second = network.extensions
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in first.parameters())
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in network.controller.parameters())
    assert any(p.grad.abs().max() > 0 for p in second.parameters())


def test_without_extension_no_key_is_added_and_a_new_part_starts_as_the_network():
    assert not [key for key in make_network().state_dict() if key.startswith("extensions")]
    network = make_network(extensions=(("spleen",),))
    state = network.state_dict()
    own = [key for key in state if key.startswith("extensions.0.")]
    assert {key.split(".")[2] for key in own} == {"feature_layers", "controller"}
    assert all(torch.equal(state[key], state[key.removeprefix("extensions.0.")]) for key in own)


def test_other_class_count_than_names_is_refused():
    with pytest.raises(ValueError, match="name 3 classes"):
        CLIPUniversalNet(
            input_channels=1, num_classes=4, class_names=CLASSES, text_width=6, **small_backbone("PlainConvUNet")
        )


def test_unknown_backbone_is_named():
    with pytest.raises(UserError, match="no.such.Net"):
        make_network(backbone_class="no.such.Net")
