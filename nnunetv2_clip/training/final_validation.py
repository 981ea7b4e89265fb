"""The final validation of a training: nnU-Net's files of every validation case, made row by row.

nnU-Net hands the logits of all classes to worker processes that resample them whole. Here rows of logits go through the
export of `predict` as soon as they are final; of the probabilities, if they are asked for, one class at a time exists.
"""

# Shapes: K classes; X Y Z voxels, the axes of the image reader's array read backwards; n rows of the network's grid.

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from nnunetv2_clip.files import replacing
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.grid import Preprocessed, from_training
from nnunetv2_clip.inference.outputs import paint_values
from nnunetv2_clip.inference.streaming import PROBABILITY_STEPS, FanOut, Probability, StreamingExport
from nnunetv2_clip.networks.universal import CLIPUniversalNet


class FinalValidation:
    """Predicts validation cases with the network of a training, and writes them to a folder.

    Args:
        trainer: nnU-Net's, with its plans and dataset.json.
        network: of the trainer, without any wrapper, and without deep supervision; it is copied.
        saves_probabilities: CASE.npz and CASE.pkl as well, for `nnUNetv2_ensemble`.
    """

    def __init__(self, trainer, network: CLIPUniversalNet, folder: Path, saves_probabilities: bool):
        self._plans, self._dataset_json = trainer.plans_manager, trainer.dataset_json
        self._names = tuple(network.class_names)
        self._folder, self._saves_probabilities = folder, saves_probabilities
        self._nnunet = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
        self._nnunet.manual_initialization(
            deepcopy(network),  # classes that were never trained are taken out of it
            trainer.plans_manager,
            trainer.configuration_manager,
            [network.state_dict()],
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        self._predictor = CasePredictor(self._nnunet)
        folder.mkdir(parents=True, exist_ok=True)

    def predict(self, case_id: str, data, properties: dict) -> None:
        """One case.

        Args:
            data, properties: as nnU-Net's dataset loads them: (1, Z, Y, X) of the network's grid, not yet read.
        """
        case = from_training(np.asarray(data[:], np.float32), properties, self._nnunet)
        if not self._saves_probabilities:
            self._write_labels(case_id, self._predictor.predict(case, case_id).masks, properties)
            return
        make = lambda names: FanOut([StreamingExport(names, case.maps), LogitsOnDisk(names, self._folder)])  # noqa: E731
        passes, _ = self._predictor.run(case, case_id, make)
        masks, logits = {}, []
        for one in passes:
            export, on_disk = one.takers
            masks |= export.finish(case.placement)
            logits.append(on_disk)
        self._write_labels(case_id, masks, properties)
        self._write_probabilities(case_id, case, logits)
        with replacing(self._folder / f"{case_id}.pkl") as beside:
            save_pickle(properties, str(beside))

    def _write_labels(self, case_id: str, masks: Mapping, properties: dict) -> None:
        values = dict(zip(self._names, self._dataset_json["regions_class_order"], strict=True))
        painted = paint_values(masks, {name: value for name, value in values.items() if name in masks})
        path = self._folder / f"{case_id}{self._dataset_json['file_ending']}"
        self._plans.image_reader_writer_class().write_seg(painted.transpose(2, 1, 0), str(path), properties)

    def _write_probabilities(self, case_id: str, case: Preprocessed, logits: Sequence[LogitsOnDisk]) -> None:
        """(K, Z, Y, X) float32 as `numpy.savez_compressed` stores them; 0 for classes that were never trained."""
        shape = case.placement.file_shape
        found = {name: on_disk for on_disk in logits for name in on_disk.names}
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._names), *shape[::-1])}
        with (
            replacing(self._folder / f"{case_id}.npz") as beside,
            zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("probabilities.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            for name in self._names:
                one = found[name].probability(name, case) if name in found else Probability()
                steps = one.full(shape).transpose(2, 1, 0)
                for plane in steps:
                    member.write((plane.astype("<f4") / PROBABILITY_STEPS).tobytes())


class LogitsOnDisk:
    """Rows of logits in a file without a name, to be read again class by class.

    Args:
        names: the K classes.
        folder: on a disk with room for the logits of the network's grid in single precision.
    """

    def __init__(self, names: Sequence[str], folder: Path):
        self.names = tuple(names)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 it lives as long as the logits
        self._slabs: list[tuple[int, ...]] = []

    def push(self, rows: Tensor) -> None:
        """The next (K, n, Y, X) float32 rows."""
        self._slabs.append(tuple(rows.shape))
        self._file.write(rows.cpu().contiguous().numpy().data)

    def probability(self, name: str, case: Preprocessed) -> Probability:
        """Of one class, on the grid of the image."""
        export = StreamingExport([name], case.maps, probabilities=[name], makes_masks=False)
        for rows in self._rows(self.names.index(name)):
            export.push(rows)
        return export.finish_probabilities(case.placement)[name]

    def _rows(self, k: int) -> Iterator[Tensor]:
        """(1, n, Y, X) of class k, slab by slab."""
        self._file.seek(0)
        for classes, *shape in self._slabs:
            begin, size = self._file.tell(), 4 * int(np.prod(shape))
            self._file.seek(begin + k * size)
            yield torch.frombuffer(bytearray(self._file.read(size)), dtype=torch.float32).view(1, *shape)
            self._file.seek(begin + classes * size)
