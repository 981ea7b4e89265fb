"""FLOPs by the counter against formulas, and the command's table."""

import json

import pytest
import torch
from torch import nn

from nnunetv2_clip.cli import main
from nnunetv2_clip.evaluation.efficiency import (
    candidates,
    cost_table,
    count_flops,
    head_flops,
    matrix_head_flops,
    measure,
)
from nnunetv2_clip.networks.head import text_driven_head

CONV, NORM = "torch.nn.modules.conv.Conv3d", "torch.nn.modules.instancenorm.InstanceNorm3d"


@pytest.fixture
def plans(tmp_path):
    """Plans of a U-Net with two stages."""
    kwargs = {
        "n_stages": 2, "features_per_stage": [4, 8], "conv_op": CONV, "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
        "conv_bias": True, "norm_op": NORM, "norm_op_kwargs": {"affine": True}, "dropout_op": None,
        "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    path = tmp_path / "plans.json"
    path.write_text(
        json.dumps({"configurations": {"3d_fullres": {"architecture": architecture, "patch_size": [16, 16, 8]}}})
    )
    return path


def test_counter_gives_the_flops_of_a_convolution():
    layer = nn.Conv3d(3, 5, kernel_size=3, padding=1)
    assert count_flops(layer, torch.zeros(1, 3, 4, 6, 8)) == 2 * 3 * 5 * 27 * (4 * 6 * 8)


@pytest.mark.parametrize("num_classes", [1, 7, 32])
def test_head_costs_what_the_formula_says(num_classes):
    class Head(nn.Module):
        def forward(self, features):
            return text_driven_head(features, torch.zeros(num_classes, 153), torch.zeros(num_classes, dtype=torch.long))

    assert count_flops(Head(), torch.zeros(1, 8, 5, 6, 7)) == matrix_head_flops(num_classes, 5 * 6 * 7)


def test_head_formula_is_that_of_the_papers_layers():
    assert head_flops(1, 1) == 2 * (8 * 8 + 8 * 8 + 8 * 1)
    assert matrix_head_flops(1, 1) == head_flops(1, 1) + 2 * (8 * 8 + 8)


def test_more_classes_cost_head_and_controller_only(plans):
    """All classes against one: 31 heads over all voxels, and 31 rows in the controller's three layers."""
    networks, patch = candidates(plans, "3d_fullres")
    every, single = (measure(network, patch, torch.device("cpu"), 1) for network in networks[:2])
    voxels = 16 * 16 * 8
    controller = 2 * 31 * (512 * 256 + 512 * 256 + 256 * 153)
    assert every.flops - single.flops == matrix_head_flops(31, voxels) + controller
    assert every.parameters == single.parameters


def test_stock_network_differs_by_its_last_layer(plans):
    networks, patch = candidates(plans, "3d_fullres")
    every, single = (measure(network, patch, torch.device("cpu"), 1) for network in networks[2:4])
    assert every.flops - single.flops == 2 * 4 * 30 * 16 * 16 * 8
    assert every.parameters - single.parameters == 30 * (4 + 1)


def test_six_networks_cost_six_times_one(plans):
    networks, patch = candidates(plans, "3d_fullres")
    cost = measure(networks[3], patch, torch.device("cpu"), 1)
    table = cost_table([cost], patch, "cpu")
    assert float(table.rows[1][3]) == pytest.approx(6 * cost.flops / 1e9, abs=0.05)
    assert table.rows[1][5] == "-"  # not measured


def test_command_writes_a_table_per_size(plans, tmp_path, capsys):
    size = "-size", "16", "16", "8"
    assert main(["efficiency", "-plans", str(plans), "-repeats", "1", *size, "-o", str(tmp_path)]) == 0
    text = (tmp_path / "efficiency.md").read_text()
    assert "universal, 32 classes" in text and "16 x 16 x 8" in text
    assert main(["efficiency", "-plans", str(plans), "-c", "2d", "-o", str(tmp_path)]) == 2
    assert "3d_fullres" in capsys.readouterr().err
    assert main(["efficiency", "-plans", str(plans), "-size", "16", "-o", str(tmp_path)]) == 2


def test_size_that_the_network_cannot_take_is_refused(plans, tmp_path, capsys):
    arguments = ["efficiency", "-plans", str(plans), "-size", "15", "16", "8", "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "-size: (15, 16, 8)" in capsys.readouterr().err
