"""`nnunetv2_clip plan`: what each planner writes."""

import json

import numpy as np
import pytest

from nnunetv2_clip.cli import main
from tests.plans.conftest import NAME, write


def plan(merge, *arguments):
    assert main(["plan", "-d", "903", *arguments]) == 0
    newest = max(merge.glob("*Plans*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


@pytest.mark.parametrize("preset", ["paper", "paper_swin"])
def test_the_papers_patch_batch_and_voxel_size(merge, preset):
    plans = plan(merge, "-pl", preset)
    assert list(plans["configurations"]) == ["3d_fullres"]
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [96, 96, 96]
    assert configuration["batch_size"] == 6
    assert configuration["spacing"] == [1.5, 1.5, 1.5]
    assert configuration["median_image_size_in_voxels"] == [200, 267, 267]
    assert configuration["resampling_fn_probabilities"] == "resample_torch_fornnunet"


def test_the_papers_window_becomes_zero_to_one(merge):
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    plans = plan(merge, "-pl", "paper")
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization"]
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    hounsfield = np.array([-1000, -175, 37.5, 250, 3000], dtype=np.float32)
    assert CTNormalization(False, properties).run(hounsfield).tolist() == [0, 0, 0.5, 1, 1]


def test_the_papers_unet_has_five_levels_of_pooling_at_most_and_a_bottom_of_four_voxels_or_more(merge):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    configuration = PlansManager(plan(merge, "-pl", "paper")).get_configuration("3d_fullres")
    shrunk = np.prod(configuration.pool_op_kernel_sizes, axis=0)
    assert (96 % shrunk == 0).all()
    assert (96 // shrunk >= 4).all()
    assert configuration.network_arch_class_name.endswith("PlainConvUNet")


def test_the_swin_preset_names_our_wrapper_and_one_scale_of_targets(merge):
    configuration = plan(merge, "-pl", "paper_swin")["configurations"]["3d_fullres"]
    assert configuration["architecture"]["network_class_name"] == "nnunetv2_clip.networks.swin_unetr.SwinUNETR"
    strides = np.array(configuration["architecture"]["arch_kwargs"]["strides"])
    targets = (1 / np.cumprod(strides, axis=0))[:-1]  # as nnU-Net's trainer computes the scales
    assert targets.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("preset", "network", "merging"),
    [
        ("paper_swin", "swin_unetr.SwinUNETR", "monai_1.5"),
        ("published_swin", "swin_unetr.SwinUNETR", "monai_0.9"),
        ("published_unet", "published_unet.PublishedUNet", None),
    ],
)
def test_the_plans_name_the_merging_and_published_networks_see_x_y_z(merge, preset, network, merging):
    plans = plan(merge, "-pl", preset)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == f"nnunetv2_clip.networks.{network}"
    assert architecture["arch_kwargs"].get("merging") == merging
    axes = [0, 1, 2] if preset == "paper_swin" else [2, 1, 0]
    assert plans["transpose_forward"] == plans["transpose_backward"] == axes
    assert plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] == (
        [200, 267, 267] if preset == "paper_swin" else [267, 267, 200]
    )


def test_a_preset_with_a_fixed_patch_refuses_a_memory_target(merge, capsys):
    assert main(["plan", "-d", "903", "-pl", "paper", "-gpu_memory_target", "8"]) == 2
    assert "patch and batch" in capsys.readouterr().err


def test_the_paper_window_needs_ct(merge, capsys):
    path = merge.parents[1] / "nnUNet_raw" / NAME / "dataset.json"
    dataset = json.loads(path.read_text())
    write(path, {**dataset, "channel_names": {"0": "MRI"}})
    assert main(["plan", "-d", "903", "-pl", "paper"]) == 2
    assert "Hounsfield" in capsys.readouterr().err


def test_memory_counts_the_annotated_classes_of_one_case_not_all_classes(merge):
    from nnunetv2_clip.plans.planners import TorchPlanner

    planner = TorchPlanner(NAME)
    assert planner.most_annotated == 4
    voxels = 32**3
    kwargs = {
        "n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.Conv3d", "kernel_sizes": [[3] * 3] * 2,
        "strides": [[1] * 3, [2] * 3], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
    }  # fmt: skip
    arguments = ("dynamic_network_architectures.architectures.unet.PlainConvUNet", kwargs, ("conv_op",))
    estimate = planner.static_estimate_VRAM_usage((32,) * 3, 1, 33, *arguments)
    assert estimate == planner.static_estimate_VRAM_usage((32,) * 3, 1, 3, *arguments)
    stock = super(TorchPlanner, planner).static_estimate_VRAM_usage
    assert estimate - stock((32,) * 3, 1, 1, *arguments) == (8 + 4 - 1) * voxels


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("ResEncMPlanner", 8), ("ResEncLPlanner", 24), ("ResEncXLPlanner", 40)]
)
def test_residual_encoders_keep_their_size_and_export_with_torch(merge, name, gigabytes):
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    from nnunetv2_clip.plans import planners

    planner = getattr(planners, name)(NAME)
    assert planner.UNet_class is ResidualEncoderUNet
    assert planner.UNet_vram_target_GB == planner.UNet_reference_val_corresp_GB == gigabytes
    assert planner.determine_segmentation_softmax_export_fn()[0].__name__ == "resample_torch_fornnunet"
    assert planner.generate_data_identifier("3d_fullres") == f"{planner.default_plans_name}_3d_fullres"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["unet", "resenc_m", "resenc_l", "resenc_xl"])
def test_every_planner_plans_all_configurations(merge, preset):
    plans = plan(merge, "-pl", preset)
    assert {"2d", "3d_fullres"} <= set(plans["configurations"])
