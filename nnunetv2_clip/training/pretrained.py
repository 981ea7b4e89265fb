"""Weights of a stock nnU-Net, or of the published networks, made loadable with nnU-Net's -pretrained_weights.

nnU-Net's loader demands every key of the new network, save those with `.seg_layers.` in them, in equal shape. A
universal checkpoint fulfils that for any class list. Other checkpoints lack controller and feature layers: they are
added here from a fresh initialisation.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json, replacing
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.networks.swin_unetr import MONAI_0_9, MONAI_1_5
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.published.checkpoint import PublishedWeights
from nnunetv2_clip.published.recipe import SWIN, UNET
from nnunetv2_clip.text.table import FILE_NAME as TEXT_FILE
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import load_checkpoint
from nnunetv2_clip.training.universal_plans import universal_plans

PUBLISHED_PLANNERS = {UNET: "published_unet", SWIN: "published_swin"}


def prepare_weights(source: str, target: str, dataset: str, configuration: str, plans_name: str) -> str:
    """Write `target`; returns one line that says what was taken over.

    Raises:
        UserError: no checkpoint, or backbones that do not match (names the first keys).
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = dataset_folder("nnUNet_preprocessed", dataset)
    dataset_json = read_json(folder / "dataset.json", "plan the dataset first")
    plans = read_json(folder / f"{plans_name}.json", "plan the dataset first, or give the right -p")
    classes = class_names(dataset_json["labels"])
    plans = universal_plans(plans, configuration, TextTable.load(folder / TEXT_FILE).restricted(classes), UNIVERSAL)
    manager = PlansManager(plans)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(configuration), len(dataset_json["channel_names"]), len(classes), True
    )
    fresh = network.state_dict()
    weights, remedy, note = _weights(Path(source), manager.plans, configuration)
    backbone = {key for key in fresh if key.startswith(("encoder.", "decoder."))}
    found = {key: tuple(weights[key].shape) if key in weights else "nothing" for key in sorted(backbone)}
    wrong = [
        f"{key} (found {shape}, expected {tuple(fresh[key].shape)})"
        for key, shape in found.items()
        if shape != tuple(fresh[key].shape)
    ]
    if wrong:
        raise UserError(
            source,
            f"{len(wrong)} of {len(backbone)} backbone tensors do not fit: {', '.join(wrong[:3])}",
            f"a checkpoint trained with the plans {plans_name!r}, configuration {configuration!r}",
            remedy,
        )
    taken = {key: weights[key] for key in fresh if key in weights and weights[key].shape == fresh[key].shape}
    with replacing(target) as beside:
        torch.save({"network_weights": {**fresh, **taken}}, beside)
    return (
        f"{target}: {len(taken)} tensors from {source}, {len(fresh) - len(taken)} fresh.{note}\n"
        f"Next: nnUNetv2_train {dataset} {configuration} 0 -tr CLIPUniversalTrainer -p {plans_name} "
        f"-pretrained_weights {target}"
    )


def _weights(source: Path, plans: Mapping, configuration: str) -> tuple[dict[str, Tensor], str, str]:
    """The tensors of a checkpoint under our names, what helps if they do not fit, and what is to be known if they do.

    Raises:
        UserError: no checkpoint, or one of Swin UNETR whose merging is another than that of the plans.
    """
    content = load_checkpoint(source, "a checkpoint of nnU-Net, or one with 'net' or 'state_dict'")
    if isinstance(content, dict) and "network_weights" in content:
        remedy = "transfer the plans with nnUNetv2_move_plans_between_datasets and preprocess with them"
        return content["network_weights"], remedy, ""
    published = PublishedWeights.of(source, content)
    planner = PUBLISHED_PLANNERS[published.variant]
    remedy = f"plan with 'nnunetv2_clip plan -pl {planner}', preprocess with these plans, and name them with -p"
    weights = published.backbone()
    note = f" Of the file {len(published.tensors) - len(weights)} tensors belong to no backbone."
    if published.variant == SWIN:
        note += _check_merging(published, plans["configurations"][configuration]["architecture"], remedy)
    return weights, remedy, note


def _check_merging(weights: PublishedWeights, architecture: Mapping, remedy: str) -> str:
    """What to say of a file that may hold either. Raises UserError: it holds another than the plans name."""
    merging = architecture["arch_kwargs"].get("merging", MONAI_1_5)
    if not weights.is_universal:
        return f" The plans have the merging {merging!r}; use them for weights of MONAI with this merging alone."
    if merging != MONAI_0_9:
        found = f"was trained with the merging {MONAI_0_9!r} of Swin UNETR; the plans have {merging!r}"
        raise UserError(weights.where, found, "plans with the merging of the weights", remedy)
    return ""


def read_checkpoint(path: Path | str) -> dict:
    """A checkpoint of nnU-Net, on the CPU. Raises UserError: it is none."""
    checkpoint = load_checkpoint(Path(path), "a checkpoint of nnU-Net")
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UserError(path, "holds no 'network_weights'", "a checkpoint of nnU-Net")
    return checkpoint
