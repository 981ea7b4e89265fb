"""The data and the models of bench_proof.py: four partly labelled phantom datasets, and one training for each arm.

Every arm of every seed leaves one JSON file of scores in the work folder; what is there is not trained again, so that
experiments share arms and a run that was stopped goes on.
"""

# Shapes: X Y Z voxels of a patient, RAS; nnU-Net's arrays are Z Y X.

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.components import connected_components
from nnunetv2_clip.manifest import read_json, write_json
from nnunetv2_clip.painting import unpaint
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, Phantom, make_phantom

# What each dataset annotates; no class is annotated twice.
SOURCES: dict[str, tuple[str, ...]] = {
    "hepatic": ("liver", "liver_tumor"),
    "renal": ("right_kidney", "left_kidney", "kidney_tumor"),
    "gastric": ("spleen", "stomach"),
    "vascular": ("aorta", "postcava"),
}
CLASSES = tuple(row.name for row in UNIVERSAL.subset(name for names in SOURCES.values() for name in names))
TUMOURS = ("liver_tumor", "kidney_tumor")
ORGANS = tuple(name for name in CLASSES if name not in TUMOURS)
PARTIAL, FULL, PLANS = ("970", "Dataset970_Partial"), ("971", "Dataset971_Full"), "CLIPSmallPlans"
MEMORY_GB = 0.045  # planned for: a batch of about four patients
NUM_EPOCHS = 20  # the learning rate falls once in each
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
TUMOUR_SHARE = 0.6  # of the patients have a tumour, each kind by its own lot
MAY_BE_MISSING, MISSING_SHARE = ("spleen", "gallbladder", "right_kidney", "left_kidney"), 0.15
BODY_RANGE = (0.85, 1.15)  # of the body's size, each axis by its own lot
# The scan goes from above the pelvis to the dome of the liver: shares of the body's height, with a lot of +- 0.02.
SCAN_FROM, SCAN_TO, SCAN_JITTER = 0.40, 0.86, 0.02
MIN_LESION_ML = 3.0  # a suspicion is at least this large: two to three voxels


@dataclass(frozen=True)
class Size:
    """How large the study is."""

    cases: int
    test_cases: int
    steps: int
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Study:
    """The study with one seed: patients, datasets, trainings and test patients all follow from it."""

    folder: Path
    seed: int
    size: Size
    device: str

    def scores(self, arm: str, train: Callable[[Study], list[dict]]) -> list[dict]:
        """The scores of an arm in every test patient; trained if they are not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{arm}.json"
        if not path.is_file():
            start = time.perf_counter()
            scores = train(self)
            write_json(path, {"minutes": (time.perf_counter() - start) / 60, "cases": scores})
        return json.loads(path.read_text())["cases"]

    # ---------------------------------------------------------------- data

    def prepare(self) -> None:
        """Both datasets (partial and full labels of the same patients), planned and preprocessed; once."""
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(self.folder / name)
        os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1")
        if not (self.folder / "prepared").is_file():
            self._prepare()
            (self.folder / "prepared").touch()
        os.environ["nnUNet_n_proc_DA"] = "0"  # batches in this process: the seed decides them

    def _prepare(self) -> None:
        tables = self._write_patients()
        for (number, folder), own in zip((PARTIAL, FULL), tables, strict=True):
            named = [text for path in own for text in ("--source", f"custom={path}")]
            call("nnunetv2_clip", "convert", "-d", number, "--name", folder.split("_")[1], "-np", 1, *named)
            call("nnunetv2_clip", "embed", "-d", number, "--encoder", "minilm")
            call("nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)
        call("nnunetv2_clip", "plan", "-d", PARTIAL[0], "-pl", "small", "-gpu_memory_target", MEMORY_GB)
        call("nnUNetv2_move_plans_between_datasets", "-s", PARTIAL[0], "-t", FULL[0], "-sp", PLANS, "-tp", PLANS)
        full = self.folder / "nnUNet_raw" / FULL[1] / "dataset.json"
        shutil.copy(full, self._preprocessed(FULL))  # nnU-Net copies it when it plans
        for number, _ in (PARTIAL, FULL):
            call("nnUNetv2_preprocess", "-d", number, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1)

    def _write_patients(self) -> tuple[list[Path], list[Path]]:
        """Images and label maps as four hospitals would keep them; the tables of the partial and the full labels."""
        partial, full = [], []
        values = {index: [name] for index, name in enumerate(ORGANS, start=1)}
        values |= {101: ["liver", "liver_tumor"], 102: ["right_kidney", "kidney_tumor"]}
        values |= {103: ["left_kidney", "kidney_tumor"]}
        for number, (source, annotated) in enumerate(SOURCES.items()):
            folder = self.folder / "patients" / source
            for case in range(self.size.cases):
                phantom = self.patient(10_000 * (number + 1) + case)
                for kind, names in (("partial", annotated), ("full", CLASSES)):
                    label_map = np.zeros(phantom.image.shape, np.uint8)
                    for value, classes in values.items():
                        if set(classes) <= set(names):
                            label_map[np.all([phantom.masks[name] for name in classes], axis=0)] = value
                    save(folder / kind / f"{case:03d}.nii.gz", label_map, phantom.affine)
                save(folder / "images" / f"{case:03d}.nii.gz", phantom.image, phantom.affine)
            for kind, names, tables in (("partial", annotated, partial), ("full", CLASSES, full)):
                own = {value: classes for value, classes in values.items() if set(classes) <= set(names)}
                table = {
                    "name": source,
                    "images": "images/{case}.nii.gz",
                    "labels": f"{kind}/{{case}}.nii.gz",
                    "values": own,
                }
                tables.append(folder / f"{kind}.yaml")
                tables[-1].write_text(yaml.safe_dump(table))
        return partial, full

    def patient(self, number: int) -> Phantom:
        """A phantom whose body, organs and tumours follow from the study's seed and the number."""
        rng = np.random.default_rng([self.seed, number])
        body = tuple(np.array(DEFAULT_BODY_MM) * rng.uniform(*BODY_RANGE, 3))
        tumours = {name for name in TUMOURS if rng.random() < TUMOUR_SHARE}
        missing = {str(rng.choice(MAY_BE_MISSING))} if rng.random() < MISSING_SHARE else set()
        phantom = make_phantom(int(rng.integers(2**31)), self.size.spacing_mm, body, tumours, missing)
        return abdomen(phantom, *(share + rng.uniform(-SCAN_JITTER, SCAN_JITTER) for share in (SCAN_FROM, SCAN_TO)))

    # ---------------------------------------------------------------- trainings

    def train_universal(
        self,
        trainer_class: type,
        dataset: tuple[str, str] = PARTIAL,
        text: Callable | None = None,
        share_of_steps: float = 1,
    ) -> list[dict]:
        """One network for all classes.

        Args:
            text: classes -> TextTable, instead of the dataset's.
        """
        if text is not None:
            trainer_class = type(trainer_class.__name__, (trainer_class,), {"_text_table": lambda own, path: text(own)})
        trainer = self._begin(trainer_class, dataset, {})
        self._train(trainer, round(self.size.steps * share_of_steps))
        return self._score(trainer, trainer.dataset_json, CLASSES)

    def train_specific(self, trainer_class: type, source: str) -> list[dict]:
        """A stock nnU-Net for the classes of one dataset, with its cases only.

        In half as many steps as the universal network it sees each of them twice as often.
        """
        names = SOURCES[source]
        labels = read_json(self._preprocessed(PARTIAL) / "dataset.json", "prepare")["labels"]
        own = {row.name: labels[row.name] for row in UNIVERSAL.subset(names)}
        if all(len(values) == 1 for values in own.values()):  # nnU-Net knows regions by one of several values
            own[names[0]] = 2 * own[names[0]]
        order = [UNIVERSAL.find(name).index for name in own]
        trainer = self._begin(
            trainer_class, PARTIAL, {"labels": {"background": 0, **own}, "regions_class_order": order}
        )
        trainer.source = source
        self._train(trainer, self.size.steps // 2)
        return self._score(trainer, trainer.dataset_json, names)

    def batch_size(self) -> int:
        """As planned."""
        plans = read_json(self._preprocessed(PARTIAL) / f"{PLANS}.json", "prepare")
        return plans["configurations"]["3d_fullres"]["batch_size"]

    def _preprocessed(self, dataset: tuple[str, str]) -> Path:
        return self.folder / "nnUNet_preprocessed" / dataset[1]

    def _begin(self, trainer_class: type, dataset: tuple[str, str], change: dict):
        random.seed(self.seed), np.random.seed(self.seed), torch.manual_seed(self.seed)
        folder = self._preprocessed(dataset)
        plans = {**read_json(folder / f"{PLANS}.json", "prepare"), "continue_training": False}
        dataset_json = {**read_json(folder / "dataset.json", "prepare"), **change}
        trainer = trainer_class(plans, "3d_fullres", "all", dataset_json, torch.device(self.device))
        trainer.num_epochs, trainer.initial_lr, trainer.weight_decay = NUM_EPOCHS, LEARNING_RATE, WEIGHT_DECAY
        trainer.print_to_log_file = lambda *arguments, **options: None
        trainer.plot_network_architecture = lambda: None
        return trainer

    def _train(self, trainer, steps: int) -> None:
        """The training steps of nnU-Net's loop; no validation, checkpoint or picture in between."""
        trainer.on_train_start()
        for epoch in range(NUM_EPOCHS):
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            for _ in range(steps * epoch // NUM_EPOCHS, steps * (epoch + 1) // NUM_EPOCHS):
                trainer.train_step(next(trainer.dataloader_train))
        trainer.set_deep_supervision_enabled(False)

    def _score(self, trainer, dataset_json: dict, names: Sequence[str]) -> list[dict]:
        """For every test patient and class: Dice, volume, and the largest lesion predicted (ml)."""
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=trainer.device, allow_tqdm=False
        )
        weights = {key: value.clone() for key, value in trainer.network.state_dict().items()}
        predictor.manual_initialization(
            trainer.network, trainer.plans_manager, trainer.configuration_manager, [weights], dataset_json, "", None
        )
        return [self._score_patient(predictor, self.patient(number), names) for number in range(self.size.test_cases)]

    def _score_patient(self, predictor, patient: Phantom, names: Sequence[str]) -> dict:
        spacing = patient.spacing_mm
        image = patient.image.transpose(2, 1, 0)[None].astype(np.float32)
        painted = predictor.predict_single_npy_array(image, {"spacing": list(spacing[::-1])}).transpose(2, 1, 0)
        found = unpaint(painted, UNIVERSAL, names, spacing)
        ml = float(np.prod(spacing)) / 1000
        return {
            name: {
                "dice": dice(patient.masks[name], found[name]),
                "reference_ml": float(patient.masks[name].sum()) * ml,
                "lesion_ml": largest_component(found[name]) * ml,
            }
            for name in names
        }


def abdomen(phantom: Phantom, begin: float, end: float) -> Phantom:
    """The slices between two shares of the height."""
    num_slices = phantom.image.shape[2]
    first, last = round(begin * num_slices), round(end * num_slices)
    affine = phantom.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    masks = {name: mask[:, :, first:last] for name, mask in phantom.masks.items()}
    extras = {name: mask[:, :, first:last] for name, mask in phantom.extras.items()}
    return replace(phantom, image=phantom.image[:, :, first:last], masks=masks, extras=extras, affine=affine)


def dice(reference: np.ndarray, found: np.ndarray) -> float | None:
    """None where the reference is empty: that is a matter of false positives."""
    if not reference.any():
        return None
    return float(2 * np.count_nonzero(reference & found) / (np.count_nonzero(reference) + np.count_nonzero(found)))


def largest_component(mask: np.ndarray) -> int:
    """Number of voxels."""
    components, count = connected_components(mask)
    return int(np.bincount(components.ravel())[1:].max()) if count else 0


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def call(*command: object) -> None:
    script = Path(sys.executable).parent / str(command[0])
    done = subprocess.run([script, *map(str, command[1:])], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
