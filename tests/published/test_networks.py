"""Imported weights give what the published networks give: a plain restatement with the same random weights."""

from pathlib import Path

import pytest
import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.swin_unetr import MERGINGS, MONAI_0_9, MONAI_1_5
from nnunetv2_clip.published.checkpoint import PublishedWeights
from nnunetv2_clip.published.model_folder import classes_of, network_of, plans_of, text_of
from tests.published import reference

FILE = Path(__file__)  # whose checksum is noted; its content is given
PAINTED = [row.index - 1 for row in UNIVERSAL.painting_order()]


def imported(state, network=None):
    """The network, and the names of tensors that it does not have."""
    weights = PublishedWeights.of(FILE, reference.checkpoint(state))
    text = text_of(weights, classes_of(weights, None))
    network = network or network_of(plans_of(weights.variant, text)).eval()
    return network, weights.fill(network, torch.from_numpy(text.vectors))


class Case:
    """Random weights, what the restatement makes of an image with them, and a network that took them once."""

    def __init__(self, state, *shape):
        torch.manual_seed(1)
        self.state, self.image = state, torch.rand(1, 1, *shape)
        self.expected = reference.logits(state, self.image)[PAINTED]
        assert self.expected.std() > 0.1 and self.expected.std(0).mean() > 0.01
        self.network, _ = imported(state)

    @torch.no_grad()
    def difference(self):
        """The largest, relative to the largest logit."""
        return ((self.network(self.image)[0] - self.expected).abs().max() / self.expected.abs().max()).item()

    @torch.no_grad()
    def taken_from(self, state):
        """Tensors that are left out when the weights come from this file."""
        for value in self.network.state_dict().values():
            value.zero_()
        self.network.class_embedding.trained.fill_(True)
        return imported(state, self.network)[1]


@pytest.fixture(scope="module")
def unet():
    return Case(reference.random_unet(), 32, 24, 40)


@pytest.fixture(scope="module")
def swin():
    pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
    return Case(reference.random_swin(), 64, 32, 32)


@pytest.mark.parametrize("module", [False, True], ids=["", "module."])
@pytest.mark.parametrize("backbone", [False, True], ids=["", "backbone."])
def test_the_unet_in_all_four_layouts(unet, module, backbone):
    assert len(unet.state) == 117
    unused = unet.taken_from(reference.in_layout(unet.state, module, backbone))
    assert len(unused) == 42 and all("running" in name or "num_batches" in name for name in unused)
    assert unet.difference() < 1e-5


@pytest.mark.parametrize("module", [False, True], ids=["", "module."])
@pytest.mark.parametrize("backbone", [False, True], ids=["", "backbone."])
def test_swin_unetr_in_all_four_layouts(swin, module, backbone):
    assert len(swin.state) == 170
    surplus = {"encoder2.layer.conv3.conv.weight": torch.zeros(48, 48, 1, 1, 1)}  # of MONAI 0.8
    unused = swin.taken_from(reference.in_layout({**swin.state, **surplus}, module, backbone))
    assert unused == list(surplus)
    assert swin.difference() < 1e-5


@pytest.mark.parametrize("name", ["unet", "swin"])
def test_in_training_there_is_one_scale(name, request):
    case = request.getfixturevalue(name)
    case.taken_from(case.state)
    case.network.decoder.deep_supervision = True
    try:
        with torch.no_grad():
            [logits] = case.network(case.image)
        assert torch.allclose(logits[0], case.expected, atol=1e-5 * case.expected.abs().max())
    finally:
        case.network.decoder.deep_supervision = False


def test_parameters_are_taken_as_tensors_are(unet):
    names = [name for name, value in unet.state.items() if value.is_floating_point()]
    unet.taken_from({**unet.state, **{name: torch.nn.Parameter(unet.state[name]) for name in names}})
    assert unet.difference() < 1e-5


def test_the_merging_of_todays_monai_would_give_something_else(swin):
    mergings = [module for module in swin.network.modules() if hasattr(module, "starts")]
    for module in mergings:
        module.starts = [tuple(map(int, corner)) for corner in MERGINGS[MONAI_1_5]]
    try:
        assert len(mergings) == 4
        assert swin.difference() > 1e-2
    finally:
        for module in mergings:
            module.starts = [tuple(map(int, corner)) for corner in MERGINGS[MONAI_0_9]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("up_tr128.ops.1.bn1.bias"), "tensors missing: up_tr128.ops.1.bn1.bias"),
        (lambda state: state.pop("controller.bias"), "tensors missing: controller.bias"),
        (lambda state: state.update({"out_tr.weight": torch.zeros(3)}), "tensors left over: out_tr.weight"),
        (lambda state: state.update({"GAP.0.bias": torch.zeros(3)}), r"of another shape: GAP.0.bias \(3,\)"),
        (lambda state: state["GAP.0.bias"].fill_(float("nan")), "NaN or infinite: GAP.0.bias"),
    ],
)
def test_every_tensor_is_accounted_for(unet, change, message):
    state = {name: value.clone() for name, value in unet.state.items()}
    change(state)
    with pytest.raises(UserError, match=message):
        imported(state, unet.network)
