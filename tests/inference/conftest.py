"""A universal model with random weights, as nnU-Net leaves trained models, and CTs for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch._dynamo.testing import CompileCounterWithBackend

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.networks.universal import CLIPUniversalNet

CLASSES = ("liver", "spleen", "right_kidney", "kidney_tumor", "liver_tumor")  # in painting order
SPACING_ZYX = (4.0, 3.0, 3.0)
PATCH = (16, 24, 24)
TORCH_RESAMPLING = "resample_torch_fornnunet"


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TorchWithoutHalf:
    """torch for the host's module alone, which sums patches in torch.half: whatever is first imported while torch
    itself is patched would keep the wrong type for good."""

    half = torch.float32

    def __getattr__(self, name: str):
        return getattr(torch, name)


def architecture(dimensions: int, classes) -> dict:
    conv, norm = f"torch.nn.modules.conv.Conv{dimensions}d", f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"
    return {
        "network_class_name": "nnunetv2_clip.networks.universal.CLIPUniversalNet",
        "arch_kwargs": {
            "backbone_class": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "class_names": list(classes),
            "text_width": 6,
            "n_stages": 3,
            "features_per_stage": [4, 8, 16],
            "conv_op": conv,
            "kernel_sizes": [[3] * dimensions] * 3,
            "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": norm,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_plans(classes, dimensions=3, transpose=(0, 1, 2), extensions=(), network=(), patch=PATCH) -> dict:
    """`network`: arguments of the backbone that differ."""
    spacing = [SPACING_ZYX[axis] for axis in transpose]
    resampling = {"is_seg": False, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch[-dimensions:]),
        "median_image_size_in_voxels": [32, 32, 32],
        "spacing": spacing[-dimensions:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": TORCH_RESAMPLING,
        "resampling_fn_seg": TORCH_RESAMPLING,
        "resampling_fn_probabilities": TORCH_RESAMPLING,
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": architecture(dimensions, classes),
        "batch_dice": False,
    }
    configuration["architecture"]["arch_kwargs"] |= dict(network)
    if extensions:
        configuration["architecture"]["arch_kwargs"]["extensions"] = [list(added) for added in extensions]
    return {
        "dataset_name": "Dataset900_Universal",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "configurations": {f"{dimensions}d" if dimensions == 2 else "3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 100.0, "percentile_00_5": -900.0, "percentile_99_5": 300.0}
        },
        "nnunetv2_clip": {"classes": [row for row in UNIVERSAL.to_json() if row["name"] in classes]},
    }


def make_model(folder: Path, classes=CLASSES, dimensions=3, untrained=(), folds=(0,), **plans_options) -> Path:
    """A model folder; the weights of a fold depend on its number only. Classes in any order."""
    classes = tuple(row.name for row in UNIVERSAL.subset(classes))
    plans = make_plans(classes, dimensions, **plans_options)
    [(configuration, entry)] = plans["configurations"].items()
    folder = folder / f"CLIPUniversalTrainer__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, classes, ignore=False)
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": order,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    for fold in folds:
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": random_network(entry["architecture"], classes, untrained, seed=4 * fold).state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": configuration},
            "inference_allowed_mirroring_axes": (0,),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def random_network(entry: dict, classes, untrained, seed: int, text_width: int = 6) -> CLIPUniversalNet:
    from pydoc import locate

    kwargs = {key: value for key, value in entry["arch_kwargs"].items()}
    for key in entry["_kw_requires_import"]:
        kwargs[key] = locate(kwargs[key]) if kwargs[key] else None
    torch.manual_seed(seed)
    network = CLIPUniversalNet(input_channels=1, num_classes=len(classes), deep_supervision=False, **kwargs)
    with torch.no_grad():  # classes that differ: every one is found somewhere with the seeds 0 and 4
        for part in (network, *network.extensions):
            part.controller.dynamic_parameters.weight *= 4
    vectors = torch.nn.functional.normalize(torch.randn(len(classes), text_width), dim=1)
    network.set_classes(vectors, torch.tensor([name not in untrained for name in classes]))
    return network


def make_ct(shape=(28, 30, 20), seed=0) -> np.ndarray:
    """(X, Y, Z) int16: smooth blobs in air."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    return (np.clip(field / field.std() * 150, -700, 800) - np.where(field < 0, 300, 0)).astype(np.int16)


AFFINE = np.array([[2.0, 0, 0, -20], [0, 2.5, 0, -30], [0, 0, 5, -40], [0, 0, 0, 1]])


def save_ct(path: Path, data=None, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(make_ct() if data is None else data, affine), path)
    return path


def reoriented(path: Path, source: Path, codes: str) -> Path:
    """A copy of a NIfTI file whose voxels are stored in another order."""
    image = nib.load(source)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    nib.save(image.as_reoriented(turn), path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), untrained=("kidney_tumor",))


@pytest.fixture
def ct(tmp_path) -> Path:
    return save_ct(tmp_path / "images" / "case_0000.nii.gz")


@pytest.fixture
def compiled(monkeypatch) -> Iterator[CompileCounterWithBackend]:
    """nnU-Net is told to compile networks; by a compiler that takes no time and counts its graphs."""
    from nnunetv2_clip.device import compiles_on

    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    monkeypatch.setenv("nnUNet_compile", "t")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiles_on.cache_clear()
    assert compiles_on(torch.device("cpu"))
    backend.clear()
    yield backend
    compiles_on.cache_clear()
    torch._dynamo.reset()
