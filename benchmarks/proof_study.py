"""One study of bench_proof.py and bench_extension.py: its datasets, its trainings, and the scores of its test patients.

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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from proof_patients import ONE_SCANNER, SOURCES, Scanner, Sources, make_patient, write_hospital

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.imaging.components import connected_components
from nnunetv2_clip.painting import unpaint
from nnunetv2_clip.phantom.anatomy import Phantom

Dataset = tuple[int, str]  # id, name
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PARTIAL, FULL, PLANS = (970, "Partial"), (971, "Full"), "CLIPSmallPlans"
MEMORY_GB = 0.045  # planned for: a batch of about four patients
NUM_EPOCHS = 20  # the learning rate falls once in each
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5


@dataclass(frozen=True)
class Size:
    """How large the study is."""

    cases: int
    test_cases: int
    steps: int
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Study:
    """The study with one seed: patients, datasets, trainings and test patients all follow from it.

    Attributes:
        scanners: of each hospital; None: every patient by lot in any of `all_scanners`.
        all_scanners: the test patients are scanned in them in turn.
    """

    folder: Path
    seed: int
    size: Size
    device: str = "cpu"
    sources: Sources = field(default_factory=lambda: SOURCES)
    all_scanners: tuple[Scanner, ...] = (ONE_SCANNER,)
    scanners: dict[str, Scanner] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        names = [name for annotated in self.sources.values() for name in annotated]
        return tuple(row.name for row in UNIVERSAL.subset(names))

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
        is_prepared = (self.folder / "prepared").is_file()
        if not is_prepared:  # what a run left that was stopped here would pass for other patients
            for name in ("patients", *NNUNET_FOLDERS):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        self.use_folders()
        if not is_prepared:
            self._prepare()
            (self.folder / "prepared").touch()

    def use_folders(self) -> None:
        """nnU-Net's folders are those of this study, and batches are made in this process: the seed decides them."""
        for name in NNUNET_FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(self.folder / name)
        os.environ.update(nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1")

    def _prepare(self) -> None:
        tables = self.write_patients()
        for number, dataset in enumerate((PARTIAL, FULL)):
            convert(dataset, [pair[number] for pair in tables.values()])
        call("nnunetv2_clip", "plan", "-d", PARTIAL[0], "-pl", "small", "-gpu_memory_target", MEMORY_GB)
        call("nnUNetv2_move_plans_between_datasets", "-s", PARTIAL[0], "-t", FULL[0], "-sp", PLANS, "-tp", PLANS)
        raw = Path(os.environ["nnUNet_raw"]) / preprocessed(FULL).name
        shutil.copy(raw / "dataset.json", preprocessed(FULL))  # nnU-Net copies it when it plans
        for dataset in (PARTIAL, FULL):
            preprocess(dataset, PLANS)

    def write_patients(self) -> dict[str, list[Path]]:
        """Hospital -> the tables of its partial and of its full labels."""
        tables = {}
        for number, (source, annotated) in enumerate(self.sources.items()):
            folder = self.folder / "patients" / source
            first = 10_000 * (number + 1)
            patients = (self._training_patient(source, first + case) for case in range(self.size.cases))
            tables[source] = write_hospital(folder, source, annotated, self.classes, patients)
        return tables

    def _training_patient(self, source: str, number: int) -> Phantom:
        if self.scanners:
            scanner = self.scanners[source]
        else:
            scanner = self.all_scanners[np.random.default_rng([self.seed, number, 1]).integers(len(self.all_scanners))]
        return scanner.scan(make_patient(self.seed, number, self.size.spacing_mm))

    def test_patient(self, number: int) -> Phantom:
        scanner = self.all_scanners[number % len(self.all_scanners)]
        return scanner.scan(make_patient(self.seed, number, self.size.spacing_mm))

    def batch_size(self) -> int:
        """As planned."""
        plans = read_json(preprocessed(PARTIAL) / f"{PLANS}.json", "prepare")
        return plans["configurations"]["3d_fullres"]["batch_size"]

    # ---------------------------------------------------------------- trainings

    def train_universal(
        self,
        trainer_class: type,
        dataset: Dataset = PARTIAL,
        text: Callable | None = None,
        share_of_steps: float = 1,
    ) -> list[dict]:
        """One network for all classes.

        Args:
            text: classes -> TextTable, instead of the dataset's.
        """
        if text is not None:
            trainer_class = type(trainer_class.__name__, (trainer_class,), {"_text_table": lambda own, path: text(own)})
        trainer = begin(self, trainer_class, dataset)
        train(trainer, round(self.size.steps * share_of_steps))
        return self._score(trainer, self.classes)

    def train_specific(self, trainer_class: type, source: str) -> list[dict]:
        """A stock nnU-Net for the classes of one dataset, with its cases only.

        In half as many steps as the universal network it sees each of them twice as often.
        """
        names = self.sources[source]
        labels = read_json(preprocessed(PARTIAL) / "dataset.json", "prepare")["labels"]
        own = {row.name: labels[row.name] for row in UNIVERSAL.subset(names)}
        if all(len(values) == 1 for values in own.values()):  # nnU-Net knows regions by one of several values
            own[names[0]] = 2 * own[names[0]]
        order = [UNIVERSAL.find(name).index for name in own]
        change = {"labels": {"background": 0, **own}, "regions_class_order": order}
        trainer = begin(self, trainer_class, PARTIAL, change=change)
        trainer.source = source
        train(trainer, self.size.steps // 2)
        return self._score(trainer, names)

    def _score(self, trainer, names: Sequence[str]) -> list[dict]:
        """For every test patient and class: Dice, volume, and the largest lesion predicted (ml)."""
        predictor = make_predictor(trainer)
        patients = map(self.test_patient, range(self.size.test_cases))
        return [score_patient(predictor, patient, names) for patient in patients]


# ---------------------------------------------------------------- nnU-Net's commands and objects


def call(*command: object) -> None:
    """Run a command as a user types it; it prints only if it fails."""
    script = Path(sys.executable).parent / str(command[0])
    environment = {**os.environ, "nnUNet_n_proc_DA": "1"}  # 0 breaks nnU-Net's planning
    done = subprocess.run([script, *map(str, command[1:])], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def convert(dataset: Dataset, tables: Sequence[Path], *more: object) -> None:
    """Merge the sources; text embeddings and nnU-Net's fingerprint."""
    number, name = dataset
    named = [text for path in tables for text in ("--source", f"custom={path}")]
    call("nnunetv2_clip", "convert", "-d", number, "--name", name, "-np", 1, *more, *named)
    call("nnunetv2_clip", "embed", "-d", number, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)


def preprocess(dataset: Dataset, plans: str) -> None:
    call("nnUNetv2_preprocess", "-d", dataset[0], "-plans_name", plans, "-c", "3d_fullres", "-np", 1)


def preprocessed(dataset: Dataset) -> Path:
    return Path(os.environ["nnUNet_preprocessed"]) / f"Dataset{dataset[0]}_{dataset[1]}"


def begin(study: Study, trainer_class: type, dataset: Dataset, plans_name: str = PLANS, change: dict | None = None):
    """A trainer that has not begun; every arm of a seed starts from the same random state.

    Args:
        change: of dataset.json.
    """
    random.seed(study.seed), np.random.seed(study.seed), torch.manual_seed(study.seed)
    folder = preprocessed(dataset)
    plans = {**read_json(folder / f"{plans_name}.json", "plan"), "continue_training": False}
    dataset_json = {**read_json(folder / "dataset.json", "plan"), **(change or {})}
    trainer = trainer_class(plans, "3d_fullres", "all", dataset_json, torch.device(study.device))
    trainer.num_epochs, trainer.initial_lr, trainer.weight_decay = NUM_EPOCHS, LEARNING_RATE, WEIGHT_DECAY
    trainer.print_to_log_file = lambda *arguments, **options: None
    trainer.plot_network_architecture = lambda: None
    return trainer


def train(trainer, steps: int) -> None:
    """The training steps of nnU-Net's loop; no validation, checkpoint or picture in between."""
    trainer.on_train_start()
    for epoch in range(NUM_EPOCHS):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for _ in range(steps * epoch // NUM_EPOCHS, steps * (epoch + 1) // NUM_EPOCHS):
            trainer.train_step(next(trainer.dataloader_train))
    trainer.set_deep_supervision_enabled(False)


def make_predictor(trainer):
    """nnU-Net's predictor with the trainer's network, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=trainer.device, allow_tqdm=False
    )
    network = getattr(trainer.network, "_orig_mod", trainer.network)  # nnU-Net compiles it on a GPU
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    managers = trainer.plans_manager, trainer.configuration_manager
    predictor.manual_initialization(network, *managers, [weights], trainer.dataset_json, "", None)
    return predictor


def as_input(patient: Phantom) -> tuple[np.ndarray, dict]:
    """Image and properties as nnU-Net's readers give them: (1, Z, Y, X) float32."""
    return patient.image.transpose(2, 1, 0)[None].astype(np.float32), {"spacing": list(patient.spacing_mm[::-1])}


# ---------------------------------------------------------------- scores


def score_patient(predictor, patient: Phantom, names: Sequence[str]) -> dict:
    """Class -> Dice, volume of the reference, and the largest connected part that was predicted (ml)."""
    painted = predictor.predict_single_npy_array(*as_input(patient)).transpose(2, 1, 0)
    found = unpaint(painted, UNIVERSAL, names, patient.spacing_mm)
    ml = float(np.prod(patient.spacing_mm)) / 1000
    return {
        name: {
            "dice": dice(patient.masks[name], found.mask(name)),
            "reference_ml": float(patient.masks[name].sum()) * ml,
            "lesion_ml": largest_component(found.mask(name)) * ml,
        }
        for name in names
    }


def dice(reference: np.ndarray, found: np.ndarray) -> float | None:
    """None where the reference is empty: that is a matter of false positives."""
    if not reference.any():
        return None
    return float(2 * np.count_nonzero(reference & found) / (np.count_nonzero(reference) + np.count_nonzero(found)))


def largest_component(mask: np.ndarray) -> int:
    """Number of voxels."""
    return int(connected_components(mask)[1].max())


def class_dice(runs: Sequence[Sequence[dict]], name: str) -> np.ndarray:
    """(seeds,) mean Dice over the test patients who have the structure; NaN where none does."""
    means = []
    for patients in runs:
        values = [patient[name]["dice"] for patient in patients if name in patient]
        known = [value for value in values if value is not None]
        means.append(np.mean(known) if known else np.nan)
    return np.array(means)


def spread(values: np.ndarray, scale: float = 100) -> str:
    """Mean and sample standard deviation over the seeds."""
    values = scale * values[np.isfinite(values)]
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}" if len(values) else "-"
