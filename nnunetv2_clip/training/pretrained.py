"""Weights of a stock nnU-Net made loadable with nnU-Net's -pretrained_weights.

nnU-Net's loader demands every key of the new network, save those with `.seg_layers.` in them, in equal shape. A
universal checkpoint fulfils that for any class list. A stock checkpoint lacks controller and feature layers: they are
added here from a fresh initialisation.
"""

from pathlib import Path

import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json, replacing
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.text.table import FILE_NAME as TEXT_FILE
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import weights_only
from nnunetv2_clip.training.universal_plans import universal_plans


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
    weights = read_checkpoint(source)["network_weights"]
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
            "transfer the plans with nnUNetv2_move_plans_between_datasets and preprocess with them",
        )
    taken = {key: weights[key] for key in fresh if key in weights and weights[key].shape == fresh[key].shape}
    with replacing(target) as beside:
        torch.save({"network_weights": {**fresh, **taken}}, beside)
    return (
        f"{target}: {len(taken)} tensors from {source}, {len(fresh) - len(taken)} fresh.\n"
        f"Next: nnUNetv2_train {dataset} {configuration} 0 -tr CLIPUniversalTrainer -p {plans_name} "
        f"-pretrained_weights {target}"
    )


def read_checkpoint(path: Path | str) -> dict:
    """A checkpoint of nnU-Net, on the CPU. Raises UserError: it is none."""
    try:
        with weights_only(path):
            checkpoint = torch.load(path, map_location="cpu")
    except UserError:
        raise
    except Exception as error:
        raise UserError(path, f"is no checkpoint ({error})", "a checkpoint of nnU-Net") from None
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UserError(path, "holds no 'network_weights'", "a checkpoint of nnU-Net")
    return checkpoint
