"""Backbones and configurations beyond the default, inside nnU-Net: an epoch, its validation, a prediction."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_clip.published.recipe import UNET, architecture
from tests.host.test_trainer import predict

TRAINED = {0, 1, 6, 27}  # background, spleen, liver, liver tumour
PATCH = [64, 32, 32]  # two voxels at the bottom: instance normalisation refuses one


def swin(plans):
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = PATCH
    configuration["architecture"] = {
        "network_class_name": "nnunetv2_clip.networks.swin_unetr.SwinUNETR",
        "arch_kwargs": {"feature_size": 12, "strides": [[1, 1, 1], [32, 32, 32]]},
        "_kw_requires_import": [],
    }


def published_unet(plans):
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [16, 16, 16]
    configuration["architecture"] = architecture(UNET)
    plans["transpose_forward"] = plans["transpose_backward"] = [2, 1, 0]


def residual_encoder(plans):
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")


def with_lowres(plans):
    """As nnU-Net plans it: a 3d_lowres that feeds a cascade. Its images are those of 3d_fullres here."""
    configurations = plans["configurations"]
    configurations["3d_lowres"] = {**configurations["3d_fullres"], "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


@pytest.mark.parametrize(
    ("change_plans", "configuration"),
    [
        (residual_encoder, "3d_fullres"),
        pytest.param(swin, "3d_fullres", marks=pytest.mark.slow),
        pytest.param(published_unet, "3d_fullres", marks=pytest.mark.slow),
        (with_lowres, "3d_lowres"),
    ],
    ids=["residual_encoder", "swin", "published_unet", "3d_lowres"],
)
def test_an_epoch_and_a_prediction(change_plans, configuration, make_trainer, tiny, tmp_path):
    if change_plans is swin and importlib.util.find_spec("monai") is None:
        pytest.skip("MONAI is not installed (extra [swin])")
    trainer = make_trainer(configuration, change_plans=change_plans)
    assert trainer.configuration_manager.next_stage_names is None  # no cascade, hence nothing to predict for it
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=-1))
    assert set(np.unique(predict(Path(trainer.output_folder), tiny, tmp_path / "predicted"))) <= TRAINED
