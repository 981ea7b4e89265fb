"""FLOPs by the counter against formulas, and the command's table."""

import json

import pytest
import torch
from torch import nn

from nnunetv2_clip.cli import main
from nnunetv2_clip.evaluation.paper.efficiency import (
    SWIN,
    TASKS,
    Candidate,
    Cost,
    candidates,
    check_head,
    cost_table,
    count_flops,
    head_flops,
    matrix_head_flops,
    measure_all,
    measure_network,
    misfit,
    six_networks,
)
from nnunetv2_clip.evaluation.results import Evaluation, PairScore
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
    (tmp_path / "dataset.json").write_text("{}")
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
    every, single = (measure_network(network, patch, torch.device("cpu"), 1) for network in networks[:2])
    voxels = 16 * 16 * 8
    controller = 2 * 31 * (512 * 256 + 512 * 256 + 256 * 153)
    assert every.flops - single.flops == matrix_head_flops(31, voxels) + controller
    assert every.parameters == single.parameters


def test_stock_network_differs_by_its_last_layer(plans):
    networks, patch = candidates(plans, "3d_fullres")
    every, single = (measure_network(network, patch, torch.device("cpu"), 1) for network in networks[2:4])
    assert every.flops - single.flops == 2 * 4 * 30 * 16 * 16 * 8
    assert every.parameters - single.parameters == 30 * (4 + 1)


def test_six_networks_cost_six_times_one_and_are_not_measured(plans):
    networks, patch = candidates(plans, "3d_fullres")
    cost = measure_network(networks[3], patch, torch.device("cpu"), 1)
    many = six_networks(cost)
    assert (many.flops, many.parameters, many.num_classes) == (6 * cost.flops, 6 * cost.parameters, 12)
    row = cost_table([many], patch, "cpu").rows[0]
    assert row[-4:] == ("-",) * 4


def test_figures_per_class_are_those_of_all_divided_by_their_number():
    table = cost_table([Cost("universal", "net", 4, 8_000_000, 2_000_000_000, 1.0, 2**20)], (8, 8, 8), "cpu")
    assert table.rows == (("net", "4", "8.00", "2.00", "2.00", "0.50", "1.000", "0.250", "1.0", "0.2"),)


def test_peak_memory_on_the_cpu_is_that_of_all_tensors_at_once():
    """Image, weights, and the maps of two layers, since the second reads the first."""
    network = nn.Sequential(nn.Conv3d(1, 8, 1, bias=False), nn.Conv3d(8, 4, 1, bias=False), nn.Conv3d(4, 1, 1))
    cost = measure_network(Candidate("x", "x", lambda: network, 1), (16, 16, 16), torch.device("cpu"), 1)
    assert cost.peak_bytes == 4 * ((1 + 8 + 4) * 16**3 + (8 + 32 + 4 + 1))


def test_head_is_checked_against_its_formula_at_the_size_of_the_input():
    assert "0.000544288 GFLOPs of it, counted, as the formula says" in check_head(2, (10, 10, 10))
    assert head_flops(2, 1000) == 2 * 136 * 2 * 1000 == 544_000  # and 2 * 2 * 8 * 9 for the biases that are moved


def test_networks_that_cannot_take_a_size_are_left_out_with_a_reason(plans, monkeypatch):
    monkeypatch.setattr("nnunetv2_clip.evaluation.paper.efficiency.has_monai", lambda: False)
    costs, left_out = measure_all(candidates(plans, "3d_fullres")[0], (16, 16, 8), torch.device("cpu"), 1)
    assert [cost.key for cost in costs] == ["universal", "universal-1-class", "nnunet", "nnunet-1-task", TASKS]
    assert left_out == ["Swin UNETR left out: monai is not installed."]
    swin = Candidate(SWIN, "Swin UNETR", lambda: nn.Identity(), 32)
    costs, left_out = measure_all([swin], (48, 64, 64), torch.device("cpu"), 1)
    assert costs == [] and "Swin UNETR left out at this size: every side must be a multiple of 32" in left_out[-1]
    assert misfit(swin, (32, 32, 32)) and not misfit(swin, (32, 32, 64))


def test_command_writes_tables_and_pictures(plans, tmp_path, capsys):
    size = "--size", "16", "16", "8"
    pair = PairScore("a", "d", "liver", "annotated", {"Dice": 0.5})
    Evaluation((pair,), ("liver",)).save(tmp_path / "evaluation.json")
    evaluations = "-i", f"universal={tmp_path}", f"nnunet-per-task={tmp_path}"
    command = ["paper", "efficiency", "-m", str(plans.parent), "--repeats", "1", "-o", str(tmp_path / "out")]
    assert main([*command, *size, *evaluations]) == 0
    text = (tmp_path / "out" / "efficiency.md").read_text()
    assert "universal, 32 classes" in text and "16 x 16 x 8" in text and "left out" in text
    for name in ("efficiency.png", "efficiency_dice.png", "efficiency.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000, name
    assert main([*command, *size, "-i", f"univresal={tmp_path}"]) == 2
    assert "Did you mean 'universal'?" in capsys.readouterr().err
    assert main([*command, "-c", "2d"]) == 2
    assert "3d_fullres" in capsys.readouterr().err
    assert main([*command, "--size", "16"]) == 2
    assert main([*command, "--size", "16", "0", "8"]) == 2


def test_size_that_no_network_can_take_is_refused(plans, tmp_path, capsys):
    arguments = ["paper", "efficiency", "-m", str(plans.parent), "--size", "15", "16", "8", "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "-size: (15, 16, 8)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_with_classes_added_later_is_measured_with_their_parts(plans):
    content = json.loads(plans.read_text())
    kwargs = content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs.update(
        backbone_class="dynamic_network_architectures.architectures.unet.PlainConvUNet",
        class_names=["liver", "sacrum"],
        text_width=6,
        extensions=[["sacrum"]],
    )
    content["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = (
        "nnunetv2_clip.networks.universal.CLIPUniversalNet"
    )
    plans.write_text(json.dumps(content))
    both, first = (each.build() for each in candidates(plans, "3d_fullres")[0][:2])
    assert len(both.extensions) == 1
    assert len(first.extensions) == 0  # the first class alone needs no later part
