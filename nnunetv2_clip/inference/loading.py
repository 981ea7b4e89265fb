"""From a trained model to nnU-Net's predictor of exactly the classes that are needed."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.device import find_device
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import write_json
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.inference.grid import preprocess
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.label_names import write_label_tables
from nnunetv2_clip.inference.outputs import Outputs
from nnunetv2_clip.inference.restricted import restrict, restricted_dataset_json
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON, TrainedModel, weights_file, weights_only

if TYPE_CHECKING:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

# What nnU-Net and PyTorch raise on plans, label tables and checkpoints that are damaged or of another network.
_UNLOADABLE = (
    *(RuntimeError, LookupError, ArithmeticError, EOFError, OSError, ValueError, TypeError, AttributeError),
    *(AssertionError, ImportError, pickle.UnpicklingError, zipfile.BadZipFile),
)
MAX_PATCH_VOXELS = 1 << 30
_SMALL = InputImage(Volume(np.zeros((8, 8, 8), np.int16), np.eye(4)), None)


def load_predictor(
    model: TrainedModel,
    classes: Sequence[str] | None = None,
    label_values: Mapping[str, int] | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = CHECKPOINT,
    device: torch.device | str | None = None,
    use_mirroring: bool = True,
    tile_step_size: float = 0.5,
) -> nnUNetPredictor:
    """A stock predictor whose network, accumulation and export hold only the wanted classes.

    Args:
        classes: names in painting order, later ones on top; None: all classes of the model.
        label_values: value that each class gets in the predicted label map; None: its universal index.
        folds: None: every fold that has this checkpoint.
        device: as in `find_device`.

    Raises:
        UserError: the model is not universal, no such fold, a class that the model does not know, or weights that are
            damaged or not those of the plans.
    """
    names = list(model.classes if classes is None else classes)
    for name in names:
        if name not in model.classes:
            unknown = f"the model does not know the class {name!r}.{suggestion(name, model.classes)}"
            raise UserError(model.where, unknown, f"one of {', '.join(model.classes)}")
    folds = model.folds(checkpoint, folds)
    try:
        predictor = _stock_predictor(model, folds, checkpoint, find_device(device), use_mirroring, tile_step_size)
        shapes = [{key: value.shape for key, value in weights.items()} for weights in predictor.list_of_parameters]
        for fold, weights, own in zip(folds, predictor.list_of_parameters, shapes, strict=True):
            where = model.label(weights_file(fold, checkpoint))
            if own != shapes[0]:  # nnU-Net has tried the weights of the first fold alone
                raise UserError(where, f"holds other tensors than fold {folds[0]}", "folds of one training")
            model.check_weights(where, weights)
        _require_usable(predictor)
        if names != list(model.classes) or label_values is not None:
            restrict(predictor, names, label_values or model.painted_values)
    except UserError:
        raise
    except _UNLOADABLE as error:
        text = " ".join(line.strip() for line in str(error).strip("'").split("\n")[:2])
        found = f"cannot be loaded ({type(error).__name__}: {text})"
        raise UserError(model.where, found, "a finished training", "copy or fetch the model again") from None
    return predictor


def _require_usable(predictor: nnUNetPredictor) -> None:
    """Damaged plans show here, and are not taken for the fault of a CT.

    Raises:
        ValueError: and what else of `_UNLOADABLE` they lead to.
    """
    from nnunetv2_clip.inference.sliding import Window

    Window.of_plans(predictor.plans_manager.plans)
    forward, backward = predictor.plans_manager.transpose_forward, predictor.plans_manager.transpose_backward
    if [forward[axis] for axis in backward] != [0, 1, 2]:
        raise ValueError(f"transpose_backward {backward} does not undo transpose_forward {forward}")
    patch, settings = predictor.configuration_manager.patch_size, predictor.configuration_manager
    strides = settings.network_arch_init_kwargs.get("strides", [[1] * len(settings.spacing)])
    steps = np.prod(strides, axis=0).tolist()
    if len(patch) != len(steps) or any(size < 1 or size % step for size, step in zip(patch, steps, strict=True)):
        raise ValueError(f"patch size {patch}, expected multiples of {steps}")
    if math.prod(patch) > MAX_PATCH_VOXELS:
        raise ValueError(f"patch size {patch}")
    if not np.isfinite(preprocess(_SMALL, predictor).data).all():
        raise ValueError("the normalisation gives NaN or infinite values")


def _stock_predictor(model: TrainedModel, folds, checkpoint, device, use_mirroring, tile_step_size) -> nnUNetPredictor:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    assert model.configuration  # refuses a model that is not universal before its weights are read
    # nnU-Net prints which folders and modules it searches for the trainer
    with redirect_stdout(StringIO()), model.on_disk(folds, checkpoint) as folder, weights_only(model.where):
        predictor = nnUNetPredictor(tile_step_size=tile_step_size, use_mirroring=use_mirroring, device=device)
        predictor.initialize_from_trained_model_folder(str(folder), folds, checkpoint)
    return predictor


def model_tables(model: TrainedModel, classes: Sequence[str]) -> dict[str, dict]:
    """dataset.json and plans.json of predictions, as nnU-Net leaves them, with the predicted classes."""
    dataset_json = restricted_dataset_json(model.dataset_json, classes, model.painted_values)
    return {DATASET_JSON: dataset_json, PLANS_JSON: model.plans}


def write_tables_beside(model: TrainedModel, outputs: Outputs) -> None:
    """What lies beside the predictions of a folder: the model's tables, and for label maps the names of values."""
    for name, content in model_tables(model, outputs.classes).items():
        write_json(outputs.folder / name, content)
    if "labels" in outputs.kinds:
        write_label_tables(outputs.folder, outputs.taxonomy.subset(outputs.classes))
