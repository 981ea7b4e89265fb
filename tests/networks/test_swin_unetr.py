"""Swin UNETR with the face of nnU-Net's U-Nets."""

import pytest
import torch

from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.networks.swin_unetr import SwinUNETR

pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
STRIDES = [[1, 1, 1], [32, 32, 32]]


def test_encoder_and_decoder_together_are_monais_network():
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    torch.manual_seed(0)
    expected = MonaiSwinUNETR(1, 8, feature_size=12)
    torch.manual_seed(0)
    ours = SwinUNETR(1, 8, feature_size=12, strides=STRIDES, deep_supervision=False)
    image = torch.randn(1, 1, 64, 32, 32)
    assert torch.equal(ours(image), expected(image))


def test_as_a_backbone_it_gives_one_scale_and_trains_every_parameter():
    from nnunetv2_clip.networks.universal import CLIPUniversalNet

    network = CLIPUniversalNet(
        1, 2, "nnunetv2_clip.networks.swin_unetr.SwinUNETR", ("liver", "spleen"), 5, feature_size=12, strides=STRIDES
    )
    network.set_classes(torch.eye(2, 5), torch.ones(2, dtype=torch.bool))
    image = torch.randn(2, 1, 64, 32, 32)
    (logits,) = network(image, Pairs.of(torch.tensor([[0, 1], [1, 0], [1, 1]])))
    assert logits.shape == (3, 64, 32, 32)
    logits.sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    network.decoder.deep_supervision = False
    with torch.no_grad():
        assert network(image).shape == (2, 2, 64, 32, 32)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="32"):
        SwinUNETR(1, 8, feature_size=12, strides=[[1, 1, 1], [2, 2, 2]])


@pytest.mark.parametrize(("merging", "order"), [("monai_0.9", "04215217"), ("monai_1.5", "04216537")])
def test_a_merging_joins_the_corners_of_a_cube_in_its_order(merging, order):
    network = SwinUNETR(1, 8, feature_size=12, strides=STRIDES, merging=merging)
    module = next(module for module in network.modules() if hasattr(module, "starts"))
    module.norm = module.reduction = torch.nn.Identity()
    cube = torch.arange(8.0).view(1, 2, 2, 2, 1)  # 4 d + 2 h + w
    found = module(cube)
    assert "".join(str(int(value)) for value in found.flatten()) == order


def test_an_unknown_merging_is_refused():
    with pytest.raises(ValueError, match="monai_0.9, monai_1.5"):
        SwinUNETR(1, 8, feature_size=12, strides=STRIDES, merging="merging")
