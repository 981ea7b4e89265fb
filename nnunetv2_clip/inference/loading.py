"""From a trained model and what a user asks for to a predictor of exactly the classes that are needed; and, for Python,
to what it says about one CT."""

# Shapes: X Y Z voxels in the scan's own axis order.

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.classes import ClassRow, Taxonomy
from nnunetv2_clip.device import find_device
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import write_json
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.grid import preprocess
from nnunetv2_clip.inference.inputs import InputImage, Scan, read_scan
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.organs import organ_warnings
from nnunetv2_clip.inference.outputs import paint_masks
from nnunetv2_clip.inference.postprocessing import Rule, needed_classes, postprocess, rules_of_plans
from nnunetv2_clip.inference.restricted import learnt_classes, restrict, restricted_dataset_json
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


class Masks(Mapping[str, np.ndarray]):
    """Class -> (X, Y, Z) bool, in painting order. Kept as bits: an array is made whenever it is asked for."""

    def __init__(self, packed: Mapping[str, Mask]):
        self._packed = packed

    def __getitem__(self, name: str) -> np.ndarray:
        return self._packed[name].full(bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The classes of one CT, on its grid.

    Attributes:
        packed: class -> mask, kept small.
        rows: of these classes, in painting order.
        affine: 4 x 4, voxel index -> RAS+ position in mm.
        probabilities: class -> (X, Y, Z) uint16 in steps of 1/65535, of the classes for which it was asked.
        warnings: what looks wrong in the CT or in its masks, and what was left out beside it.
    """

    packed: Mapping[str, Mask]
    rows: Sequence[ClassRow]
    affine: np.ndarray
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def masks(self) -> Masks:
        """Class -> (X, Y, Z) bool; masks of different classes may overlap."""
        return Masks(self.packed)

    @cached_property
    def label_map(self) -> np.ndarray:
        """(X, Y, Z) universal indices, sub-structures on top of their organ."""
        return paint_masks(self.packed, self.rows)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to predict, and what it is used for.

    Attributes:
        predictor: nnU-Net's, restricted to `classes`, `probabilities` and what the rules look at.
        classes: to predict, in painting order.
        probabilities: classes whose probabilities are wanted as well.
        never_learnt: classes that are left out of both, because no training case has shown them to the model.
        rules: post-processing of the predictor's classes; empty: none.
        folds: that are averaged.
    """

    predictor: nnUNetPredictor
    classes: tuple[str, ...]
    probabilities: tuple[str, ...]
    taxonomy: Taxonomy
    rules: Mapping[str, Rule]
    folds: tuple[str, ...]
    never_learnt: tuple[str, ...] = ()

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: rule.threshold for name, rule in self.rules.items()}

    def predict(self, scan: Scan, series: str = "") -> Segmentation:
        """The masks of one CT; those of `nnunetv2_clip predict`, voxel by voxel.

        Args:
            scan: a file (NIfTI, NRRD, MetaImage, a zip of one or of a DICOM series), the folder of a DICOM series, or
                a pair: (X, Y, Z) array in Hounsfield units, and 4 x 4 affine from voxel index to RAS+ position in mm
                (nibabel's).
            series: of a folder of several: number, beginning of the identifier or part of the description.

        Raises:
            UserError: no CT, or a damaged one.
        """
        image, where = read_scan(scan, series, self._predictor.modality)
        predicted = self._predictor.predict(self._predictor.preprocess(image), where)
        masks = postprocess(predicted.masks, self.rules) if self.rules else predicted.masks
        wanted = {name: masks[name] for name in self.classes}
        rows = self.taxonomy.subset(self.classes)
        affine = image.volume.affine
        warnings = (*image.warnings, *image.notes, *organ_warnings(wanted, affine, self.taxonomy))
        return Segmentation(wanted, rows, affine, predicted.probabilities, warnings)

    @cached_property
    def _predictor(self) -> CasePredictor:
        return CasePredictor(self.predictor, self.thresholds, self.probabilities)


def load_model(
    model: TrainedModel | Path | str,
    device: str | None = None,
    folds: Sequence[int | str] | int | str | None = None,
    checkpoint: str = CHECKPOINT,
    classes: Sequence[str] | str | None = None,
    probabilities: Sequence[str] | str = (),
    postprocess: bool = False,
    use_mirroring: bool = True,
    step_size: float = 0.5,
) -> LoadedModel:
    """Load a trained model for some of its classes.

    Args:
        model: folder (TRAINER__PLANS__CONFIGURATION), or zip of nnUNetv2_export_model_to_zip.
        device: as in `find_device`; None: the fastest that is there.
        folds: None: all that have the checkpoint, as an ensemble.
        classes, probabilities: names or aliases; None: all classes of the model.
        postprocess: apply the rules that the model has learned.
        use_mirroring: average over mirrored copies, along the axes that the checkpoint allows.
        step_size: of the sliding window, in patches.

    Raises:
        UserError: no model, no such fold, only classes that it does not know or never learnt, no rules, or damaged
            weights.
    """
    model = model if isinstance(model, TrainedModel) else TrainedModel.open(model)
    if not 0 < step_size <= 1:
        raise UserError("-step_size", f"{step_size}", "above 0, at most 1")
    wanted = _names(model.classes if classes is None else classes, model, "--classes")
    likely = _names(probabilities, model, "--probabilities")
    if not wanted and not likely:
        raise UserError("--classes", "no class is asked for", "at least one, or None for all")
    rules = rules_of_plans(model.plans, model.label(PLANS_JSON)) if postprocess else {}
    if postprocess and not rules:
        remedy = "run 'nnunetv2_clip learn-postprocessing', or leave out --postprocess"
        raise UserError(model.where, "has no post-processing rules", "rules learned on the validation cases", remedy)
    needed = _in_order(needed_classes({*wanted, *likely}, rules), model)
    folds = model.folds(checkpoint, folds)
    predictor = load_predictor(model, needed, None, folds, checkpoint, device, use_mirroring, step_size)
    own_rules = {name: rule for name, rule in rules.items() if name in needed}
    learnt = learnt_classes(predictor)
    never = tuple(name for name in _in_order((*wanted, *likely), model) if name not in learnt)
    wanted, likely = (tuple(name for name in names if name in learnt) for names in (wanted, likely))
    if not wanted and not likely:
        found, remedy = f"the model has never learnt {', '.join(never)}", "see 'nnunetv2_clip info', and ask for others"
        raise UserError("--classes", found, "classes of its training", remedy)
    return LoadedModel(predictor, wanted, likely, model.taxonomy, own_rules, folds, never)


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


def write_model_tables(model: TrainedModel, classes: Sequence[str], output: Path) -> None:
    """plans.json and dataset.json beside the predictions, as nnU-Net leaves them, with the predicted classes."""
    write_json(output / DATASET_JSON, restricted_dataset_json(model.dataset_json, classes, model.painted_values))
    write_json(output / PLANS_JSON, model.plans)


def _names(given: Sequence[str] | str, model: TrainedModel, where: str) -> tuple[str, ...]:
    given = [given] if isinstance(given, str) else given
    names = [model.taxonomy.find(name, where).name for name in given]
    foreign = [name for name in names if name not in model.classes]
    if foreign:
        known = f"classes out of {', '.join(model.classes)}"
        raise UserError(where, f"the model does not know {', '.join(foreign)}", known)
    return _in_order(names, model)


def _in_order(names, model: TrainedModel) -> tuple[str, ...]:
    """In the model's order: an organ before what lies on it."""
    return tuple(name for name in model.classes if name in set(names))
