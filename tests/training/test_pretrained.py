"""Networks around nnU-Net's own as a start: what fits is taken, what does not is listed."""

import json
import re

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.text.table import FILE_NAME, TextTable
from tests.plans.conftest import merge, write  # noqa: F401 a fixture

STAGES = dict(
    n_stages=3, features_per_stage=[4, 8, 16], kernel_sizes=[[3, 3, 3]] * 3, strides=[[1] * 3] + [[2] * 3] * 2
)
BLOCKS = dict(n_blocks_per_stage=[1, 1, 2], n_conv_per_stage_decoder=[1, 1], conv_bias=True)
NORM = dict(norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True})
NONLIN = dict(nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True})


def residual_unet(channels=1, classes=9, **changed):
    """nnU-Net's residual encoder U-Net, small."""
    torch.manual_seed(1)
    arguments = {**STAGES, **BLOCKS, "conv_op": nn.Conv3d, **NORM, **NONLIN, **changed}
    return ResidualEncoderUNet(channels, num_classes=classes, deep_supervision=True, **arguments).state_dict()


def around_voxtell(weights, extra=2):
    """As VoxTell: channels of text beside those of the lower decoder stages, and parts of its own."""
    wider = weights["decoder.transpconvs.1.weight"]
    return weights | {
        "decoder.transpconvs.1.weight": torch.cat((wider, wider[:extra])),
        "transformer_decoder.layers.0.linear1.weight": torch.zeros(2, 2),
        "project_text_embed.0.bias": torch.zeros(2),
        "pos_embed": torch.zeros(3),
    }


def with_stems(weights, *stems):
    """As MultiTalent for several kinds of images."""
    found = {}
    for key, value in weights.items():
        before, stem, after = key.partition("encoder.stem.")
        for number, name in enumerate(stems if stem else [""]):
            found[f"{before}{stem}{name}.{after}" if stem else key] = value + number
    return found


@pytest.fixture
def prepare(merge, tmp_path, capsys):  # noqa: F811
    """Prepare a file for plans with that network; returns the tensors written, and what was said."""
    assert main(["plan", "-d", "903", "-pl", "small"]) == 0
    plans = json.loads((merge / "CLIPSmallPlans.json").read_text())
    names = {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}
    plans["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            **STAGES,
            **BLOCKS,
            **names,
            "norm_op_kwargs": NORM["norm_op_kwargs"],
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": NONLIN["nonlin_kwargs"],
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    write(merge / "small.json", plans)
    TextTable.of(UNIVERSAL.names, [()] * 32, "onehot", "numpy", np.eye(32)).save(merge / FILE_NAME)

    def run(weights, *options, code=0):
        torch.save({"network_weights": weights}, tmp_path / "file.pth")
        words = ["-i", str(tmp_path / "file.pth"), "-o", str(tmp_path / "ready.pth"), "-d", "903", "-p", "small"]
        assert main(["prepare-weights", *words, *options]) == code
        said = capsys.readouterr()
        if code:
            assert not (tmp_path / "ready.pth").exists()
            return {}, said.err
        return torch.load(tmp_path / "ready.pth")["network_weights"], said.out

    return run


def not_taken(ready, weights):
    """Tensors of the backbone that are not those of the file."""
    backbone = [key for key in ready if key.startswith(("encoder.", "decoder."))]
    assert len(backbone) > 40
    return {key for key in backbone if key not in weights or not torch.equal(ready[key], weights[key])}


def test_a_stock_network_with_other_heads_fills_the_backbone(prepare):
    weights = residual_unet(classes=47)
    ready, said = prepare(weights)
    assert not_taken(ready, weights) == set() and "stays fresh" not in said
    assert "not used: decoder.seg_layers (4)" in said


def test_another_number_of_image_channels_leaves_the_first_convolution_fresh(prepare):
    weights = residual_unet(channels=3)
    ready, said = prepare(weights)
    fresh = not_taken(ready, weights)
    assert len(fresh) == 4 and all("encoder.stem.convs.0" in key and key.endswith("weight") for key in fresh)
    assert said.count("stays fresh: ") == 4 and "(found (4, 3, 3, 3, 3), expected (4, 1, 3, 3, 3))" in said


def test_voxtells_encoder_is_taken_and_of_its_decoder_what_fits(prepare, merge):  # noqa: F811
    weights = around_voxtell(residual_unet())
    ready, said = prepare(weights)
    assert not_taken(ready, weights) == {"decoder.transpconvs.1.weight"}
    assert "stays fresh: decoder.transpconvs.1.weight (found (10, 4, 2, 2, 2), expected (8, 4, 2, 2, 2))" in said
    assert "pos_embed (1), project_text_embed (1), transformer_decoder.layers (1)" in said
    assert "that of file.pth" in json.loads((merge / "small.json").read_text())["nnunetv2_clip"]["licence"]


def test_of_several_stems_one_is_chosen(prepare):
    weights = residual_unet()
    ready, _ = prepare(with_stems(weights, "035", "351_5"), "--stem", "351_5")
    stem = {key: value + 1 if "encoder.stem." in key else value for key, value in weights.items()}
    assert not_taken(ready, stem) == set()


@pytest.mark.parametrize(
    ("stems", "options", "answer"),
    [
        (("035", "351_5"), (), "has the stems 035, 351_5"),
        (("035", "351_5"), ("--stem", "9"), "has the stems 035, 351_5"),
        ((), ("--stem", "9"), "has no stems to choose from"),
    ],
)
def test_a_stem_that_is_not_there_or_not_named_is_answered_with_those_that_are(prepare, stems, options, answer):
    weights = residual_unet()
    _, said = prepare(with_stems(weights, *stems) if stems else weights, *options, code=2)
    assert answer in said


@pytest.mark.parametrize("weights", [[torch.zeros(2)], {"encoder.stem": 3}])
def test_a_file_without_tensors_by_name_is_refused(prepare, weights):
    assert "holds no tensors by name" in prepare(weights, code=2)[1]


def test_tensors_without_the_names_of_a_network_are_refused(prepare):
    assert "backbone tensors do not fit" in prepare({7: torch.zeros(2)}, code=2)[1]


@pytest.mark.parametrize("changed", [{"features_per_stage": [4, 8, 12]}, {"n_blocks_per_stage": [1, 1, 1]}])
def test_another_encoder_is_refused(prepare, changed):
    _, said = prepare(residual_unet(**changed), code=2)
    assert re.search(r"of \d+ backbone tensors do not fit: decoder.encoder.stages.2", said)
