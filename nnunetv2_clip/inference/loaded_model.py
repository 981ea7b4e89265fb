"""The Python face: `load_model(...)` once, then `predict` for image after image."""

# Shapes: X Y Z voxels in the image's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.device import find_device
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.case_predictor import CasePredictor, Prediction
from nnunetv2_clip.inference.dicom_seg import Algorithm
from nnunetv2_clip.inference.inputs import InputImage, Scan, read_scan
from nnunetv2_clip.inference.loading import load_predictor
from nnunetv2_clip.inference.organs import organ_warnings
from nnunetv2_clip.inference.postprocessing import postprocess as apply_rules
from nnunetv2_clip.inference.restricted import drop_untrained, learnt_classes
from nnunetv2_clip.inference.segmentation import Segmentation
from nnunetv2_clip.inference.wanted import Wanted
from nnunetv2_clip.trained_model import TrainedModel

if TYPE_CHECKING:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


class LoadedModel:
    """A model whose weights stay in memory, ready for one image after another.

    Several threads may call `predict` at once: images are read and prepared side by side, and go through the network of
    a device one after another.

    Attributes:
        trained_model: its folder or zip, and the tables in it.
        predictor: nnU-Net's, with the classes that the model has learnt.
        folds: that are averaged.
        checkpoint: of each fold.
    """

    def __init__(
        self, trained_model: TrainedModel, predictor: nnUNetPredictor, folds: tuple[str, ...], checkpoint: str
    ):
        """Raises UserError: the model has learnt no class."""
        self.trained_model, self.predictor, self.folds = trained_model, predictor, folds
        self.checkpoint = checkpoint
        if not learnt_classes(predictor):
            raise UserError(trained_model.where, "has learnt no class", "a finished training", "take another fold")
        drop_untrained(predictor)
        self._on_devices: dict[torch.device, tuple[CasePredictor, Lock]] = {}
        self._lock = Lock()

    @property
    def classes(self) -> tuple[str, ...]:
        """What it can predict, in the order in which label maps are painted: an organ before what lies on it."""
        return tuple(self.predictor.network.class_names)

    @property
    def never_learnt(self) -> tuple[str, ...]:
        """Classes that the model has a place for, but that no case of its training has shown."""
        return tuple(name for name in self.trained_model.classes if name not in self.classes)

    @property
    def device(self) -> torch.device:
        """Where it predicts unless told otherwise."""
        return self.predictor.device

    @cached_property
    def algorithm(self) -> Algorithm:
        """What draws the masks, for files that say so."""
        return Algorithm(self.trained_model.title, self.trained_model.checksums(self.folds, self.checkpoint))

    def __repr__(self) -> str:
        folds = ", ".join(self.folds)
        return f"<{type(self).__name__} {self.trained_model.title}: {len(self.classes)} classes, fold {folds}>"

    def predict(
        self,
        image: Scan,
        classes: Sequence[str] | str | None = None,
        *,
        device: str | None = None,
        probabilities: Sequence[str] | str = (),
        postprocess: bool = False,
        series: str | int = "",
    ) -> Segmentation:
        """The classes of one CT; voxel for voxel those of `nnunetv2_clip predict` for the same classes.

        Args:
            image: one of
                a path: NIfTI, NRRD, MetaImage, the folder of a DICOM series, or a zip of one of these;
                an image of nibabel;
                an image of SimpleITK;
                a pair (array, affine): (X, Y, Z) numbers in Hounsfield units, of numpy or torch, and the 4 x 4 matrix
                from voxel index to RAS+ position in mm, as nibabel's `affine`.
            classes: names or aliases; None: all that the model has learnt. Fewer classes take less time and memory.
            device: "cpu", "cuda", "cuda:1", "mps" or "auto"; None: that of `load_model`. The weights are kept on every
                device that was used.
            probabilities: classes whose probabilities are kept from the same run of the network.
            postprocess: apply the rules that the model has learned.
            series: of a DICOM folder that holds several: number, beginning of the identifier or part of the
                description.

        Returns:
            A mapping from class name to (X, Y, Z) bool, with the label map, statistics and files on request. What looks
            wrong in the image or in its masks stands in its `warnings`, and is issued as Python warnings as well.

        Raises:
            UserError: no CT, a damaged one, NaN, a wrong number of axes, no affine; an unknown class or device; rules
                of a model that has none.
        """
        asked = Wanted.of(self.trained_model, classes, probabilities, postprocess)
        wanted = asked.learnt(self.classes)
        device_found = self._device(device)
        scan = read_scan(image, str(series), self.trained_model.modality)
        found = self._run(scan, wanted, device_found)
        masks = apply_rules(found.masks, wanted.rules) if wanted.rules else found.masks
        masks = {name: masks[name] for name in wanted.classes}
        said = [*scan.warnings, *organ_warnings(masks, scan.volume.affine, self.trained_model.taxonomy)]
        named = asked.probabilities if classes is None else wanted.never_learnt
        if lacking := [name for name in wanted.never_learnt if name in named]:
            said.append(f"the model has never learnt {', '.join(lacking)}: left out")
        for text in said:
            warnings.warn(f"{scan.where}: {text}", stacklevel=2)
        drawn = [name for name in wanted.needed if name in self.classes]
        likely = partial(self._probabilities, scan, drawn, device_found)
        return Segmentation(
            scan, masks, self.trained_model, found.probabilities, likely, lambda: self.algorithm, tuple(said)
        )

    def _probabilities(
        self, scan: InputImage, classes: Sequence[str], device: torch.device, names: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """Class -> (X, Y, Z) uint16, from one more run of the network; with the classes of the first one, so that
        probabilities and masks agree to the last bit. Raises UserError: a class that the model has never learnt."""
        wanted = Wanted.of(self.trained_model, (*classes, *names), names).require(self.classes)
        return self._run(scan, wanted, device).probabilities

    def _run(self, scan: InputImage, wanted: Wanted, device: torch.device) -> Prediction:
        predictor, lock = self._on(device)
        case = predictor.preprocess(scan)
        with lock:  # the networks of a device take one image at a time
            own = predictor.for_classes(wanted.needed, wanted.thresholds, wanted.probabilities)
            return own.predict(case, scan.where)

    def _on(self, device: torch.device) -> tuple[CasePredictor, Lock]:
        with self._lock:
            if device not in self._on_devices:
                predictor = copy(self.predictor)
                predictor.device = device
                self._on_devices[device] = CasePredictor(predictor), Lock()
            return self._on_devices[device]

    def _device(self, name: str | None) -> torch.device:
        """With its number, so that "cuda" and "cuda:0" share the weights."""
        import torch

        device = self.device if name is None else find_device(name)
        is_any = device.type == "cuda" and device.index is None
        return torch.device("cuda", torch.cuda.current_device()) if is_any else device


def load_model(
    model: TrainedModel | Path | str,
    device: str | None = None,
    folds: Sequence[int | str] | int | str | None = None,
    checkpoint: str = CHECKPOINT,
    use_mirroring: bool = True,
    step_size: float = 0.5,
) -> LoadedModel:
    """Load a trained model, once for many images.

    Args:
        model: folder (TRAINER__PLANS__CONFIGURATION), zip of nnUNetv2_export_model_to_zip, or "hf:ORG/NAME" on the
            Hugging Face hub.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto"; None: the fastest that is there.
        folds: None: all that have the checkpoint, as an ensemble.
        use_mirroring: average over mirrored copies, along the axes that the checkpoint allows; never left and right.
        step_size: of the sliding window, in patches.

    Raises:
        UserError: no model, no such fold or device, or damaged weights.
    """
    model = model if isinstance(model, TrainedModel) else TrainedModel.open(model)
    if not 0 < step_size <= 1:
        raise UserError("-step_size", f"{step_size}", "above 0, at most 1")
    folds = model.folds(checkpoint, folds)
    with _same_plots():
        predictor = load_predictor(model, None, None, folds, checkpoint, device, use_mirroring, step_size)
    return LoadedModel(model, predictor, folds, checkpoint)


@contextmanager
def _same_plots() -> Iterator[None]:
    """nnU-Net's search for trainers imports its logger, which would switch matplotlib to a backend that shows nothing:
    a notebook would lose its pictures, and switching back does not bring them back."""
    import matplotlib

    use, matplotlib.use = matplotlib.use, lambda *_, **__: None
    try:
        yield
    finally:
        matplotlib.use = use
