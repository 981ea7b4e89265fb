"""A published checkpoint as a model folder, with which nnU-Net and our commands predict.

What nnU-Net's plans cannot say about the authors' prediction stands in our entry of the plans (inference/sliding.py).
"""

# Shapes: K classes, E text embedding.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nnunetv2_clip.choices import CHECKPOINT, CONFIGURATION
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing_folder, write_json
from nnunetv2_clip.imaging.nifti import FILE_ENDING, REORIENTING_READER, checksum
from nnunetv2_clip.inference.postprocessing import Rule
from nnunetv2_clip.inference.sliding import REFERENCE, WINDOW_ENTRY
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.published.checkpoint import CLASS_VECTORS, PublishedWeights
from nnunetv2_clip.published.recipe import (
    INTENSITIES,
    LICENCE,
    NUM_CLASSES,
    PATCH,
    SPACING_MM,
    TRANSPOSE,
    architecture,
)
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.text.tensor_file import read_class_order
from nnunetv2_clip.trained_model import (
    DATASET_JSON,
    LICENCE_ENTRY,
    PLANS_JSON,
    PLANS_KEY,
    REDISTRIBUTION_ENTRY,
    RULES_ENTRY,
    weights_file,
)
from nnunetv2_clip.training.universal_plans import universal_plans

NAME = "CLIPDrivenUniversalModel"
FOLD = "all"
# The authors keep the largest component of these universal indices. Their further rules are not copied: one empties
# lungs that touch, another cuts the portal vein below the pancreas.
ONE_COMPONENT = {*range(1, 10), *range(11, 15), *range(18, 26)}


@dataclass(frozen=True, eq=False)
class Imported:
    """What was written, for the message to the user.

    Attributes:
        classes: in the order of the file.
        unused: tensors of the file that the network does not have.
    """

    variant: str
    num_tensors: int
    classes: tuple[str, ...]
    unused: tuple[str, ...]


def import_weights(path: Path, folder: Path, class_order: Path | None = None) -> Imported:
    """Write the model folder.

    Args:
        path: the authors' checkpoint.
        folder: must not exist, or be empty.
        class_order: the class of each of its text vectors, one name per line; None: the 32 universal classes.

    Raises:
        UserError: the folder is there, or the file is not what it should be; nothing is written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(folder, "is there already", "a new folder", "choose another with -o")
    weights = PublishedWeights.read(path)
    classes = classes_of(weights, class_order)
    text = text_of(weights, classes)
    plans = plans_of(weights.variant, text)
    network = network_of(plans)
    unused = weights.fill(network, torch.from_numpy(text.vectors))
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, classes, ignore=False)
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": order,
        "numTraining": 0,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": REORIENTING_READER,
        "name": NAME,
        "description": f"Published weights: {text.weights}",
    }
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": FOLD, "dataset_json": dataset_json},
        "inference_allowed_mirroring_axes": None,
    }
    with replacing_folder(folder) as beside:
        write_json(beside / PLANS_JSON, plans)
        write_json(beside / DATASET_JSON, dataset_json)
        (beside / weights_file(FOLD, CHECKPOINT)).parent.mkdir()
        torch.save(checkpoint, beside / weights_file(FOLD, CHECKPOINT))
    return Imported(weights.variant, len(weights.tensors), classes, tuple(unused))


def classes_of(weights: PublishedWeights, class_order: Path | None) -> tuple[str, ...]:
    """Of the rows of text vectors. Raises UserError: there are none, or it is not known what they are."""
    vectors = weights.tensors.get(CLASS_VECTORS)
    if vectors is None or vectors.ndim != 2:
        remedy = "as a start of training 'nnunetv2_clip prepare-weights' takes any such network"
        raise UserError(weights.where, f"has no text vectors ({CLASS_VECTORS})", "the whole published network", remedy)
    if class_order is None and len(vectors) != NUM_CLASSES:
        remedy = "name the class of each row, one per line, in a file given with --class-order"
        raise UserError(weights.where, f"has {len(vectors)} classes", f"the {NUM_CLASSES} of the paper", remedy)
    if class_order is None:
        return UNIVERSAL.names
    names = tuple(UNIVERSAL.find(name, class_order).name for name in read_class_order(class_order, ()))
    if len(names) != len(vectors):
        found = f"names {len(names)} classes"
        raise UserError(class_order, found, f"{len(vectors)}, one for each text vector of {weights.where}")
    return names


def text_of(weights: PublishedWeights, classes: Sequence[str]) -> TextTable:
    """The text vectors in painting order, divided by the root of their width, which our controller multiplies by."""
    painted = tuple(row.name for row in UNIVERSAL.subset(classes))
    vectors = weights.tensors[CLASS_VECTORS].float().numpy()[[classes.index(name) for name in painted]]
    source = f"{weights.where.name} sha256:{checksum(weights.where)}"
    scaled = vectors / np.float32(vectors.shape[1] ** 0.5)
    return TextTable(painted, ((),) * len(painted), "of the published weights", CLASS_VECTORS, scaled, source)


def network_of(plans: dict) -> nn.Module:
    """As nnU-Net will build it from the plans."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    settings = manager.get_configuration(CONFIGURATION)
    num_classes = len(settings.network_arch_init_kwargs["class_names"])
    return nnUNetTrainer.build_network_architecture(manager, settings, 1, num_classes, False)


def plans_of(variant: str, text: TextTable) -> dict:
    """Plans of the published network with these classes."""
    return universal_plans(_stock_plans(variant), CONFIGURATION, text, UNIVERSAL)


def _stock_plans(variant: str) -> dict:
    """As planners write them; of a dataset that nobody here has seen, its statistics left out."""
    size, spacing = [PATCH] * 3, [SPACING_MM] * 3
    network = architecture(variant)
    network["arch_kwargs"] |= {"final_norm": True, "hidden_controller_layer": False}
    resampling = {"resampling_fn_seg": True, "resampling_fn_data": False, "resampling_fn_probabilities": False}
    options = {"force_separate_z": False, "memefficient_seg_resampling": False}
    settings = {
        "data_identifier": f"{NAME}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": size,
        "median_image_size_in_voxels": size,
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **dict.fromkeys(resampling, "resample_torch_fornnunet"),
        **{f"{name}_kwargs": {"is_seg": is_seg, **options} for name, is_seg in resampling.items()},
        "architecture": network,
        "batch_dice": False,
    }
    rules = {row.name: Rule(largest_components=1).to_json() for row in UNIVERSAL if row.index in ONE_COMPONENT}
    return {
        "dataset_name": NAME,
        "plans_name": NAME,
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": size,
        "image_reader_writer": REORIENTING_READER,
        "transpose_forward": TRANSPOSE,
        "transpose_backward": TRANSPOSE,
        "configurations": {CONFIGURATION: settings},
        "experiment_planner_used": "import-weights",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
        PLANS_KEY: {
            LICENCE_ENTRY: LICENCE,
            REDISTRIBUTION_ENTRY: False,
            WINDOW_ENTRY: asdict(REFERENCE),
            RULES_ENTRY: {"rules": rules},
        },
    }
