"""A small partly labelled dataset for the benchmarks of training, and the three trainers that are compared on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Planning:
    """One size of network and data.

    Attributes:
        planner: of `nnunetv2_clip plan`.
        plans: what it writes.
        spacing_mm: of the phantoms.
        patch: instead of the planned one.
    """

    planner: str
    plans: str
    memory_gb: float
    spacing_mm: float = 4
    patch: tuple[int, int, int] | None = None

    @property
    def dataset_id(self) -> int:
        """Phantoms of another spacing are another dataset."""
        return 960 + (self.spacing_mm != 4)

    @property
    def dataset(self) -> str:
        return f"Dataset{self.dataset_id}_Benchmark"


PLANNERS = {
    "small": Planning("small", "CLIPSmallPlans", 0.15),
    "default": Planning("unet", "nnUNetPlans_torchres", 1.5),
    "resenc": Planning("resenc_l", "nnUNetResEncUNetLPlans_torchres", 24, spacing_mm=2, patch=(160, 128, 160)),
}
# Source -> classes it annotates: a typical mixture of 1 to 15 classes a case.
SOURCES = {"msd_spleen": 1, "msd_liver": 2, "btcv": 13, "amos22": 15}
CASES_PER_SOURCE = 2
REGIONS_OF_TWO = ("liver", "spleen")


def prepare(work: Path, planner: str = "small") -> None:
    """Phantoms, converted, planned and preprocessed below `work`, once; sets nnU-Net's variables."""
    work = work.resolve()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(work / name)
    planning = PLANNERS[planner]
    folder = work / "nnUNet_preprocessed" / planning.dataset
    if not (folder / "dataset_fingerprint.json").is_file():
        _convert(work, planning)
    # Of its own: the folder of a preprocessing that was stopped lacks cases.
    marker = work / f"prepared_{planning.dataset_id}_{planning.plans}"
    if not marker.is_file():
        number = planning.dataset_id
        _call("nnunetv2_clip", "plan", "-d", number, "-pl", planning.planner, "-gpu_memory_target", planning.memory_gb)
        _call("nnUNetv2_preprocess", "-d", number, "-plans_name", planning.plans, "-c", "3d_fullres", "-np", 1)
        marker.touch()


def _convert(work: Path, planning: Planning) -> None:
    from nnunetv2_clip.phantom.layouts.base import SourceTruth

    number, phantoms = planning.dataset_id, work / f"phantoms_{planning.spacing_mm:g}mm"
    _call("nnunetv2_clip", "phantom", "-o", phantoms, "--cases", CASES_PER_SOURCE, "--test-cases", 0, "--spacing",
          *[planning.spacing_mm] * 3, "--layouts", *SOURCES)  # fmt: skip
    named = [text for name in SOURCES for text in ("--source", f"{name}={SourceTruth.load(phantoms / name).root}")]
    _call("nnunetv2_clip", "convert", "-d", number, "--name", "Benchmark", "-np", 1, *named)
    _call("nnunetv2_clip", "embed", "-d", number, "--encoder", "minilm")
    _call("nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)


def _call(*command) -> None:
    script = Path(sys.executable).parent / command[0]
    subprocess.run([script, *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)


def make_trainer(variant: str, device: str, planner: str = "small"):
    """An initialised trainer on the prepared data.

    `ours` is CLIPUniversalTrainer; `regions32` is nnU-Net's own trainer with all 32 classes as regions; `regions2` is
    the same with two of them, `labels` without regions: the label values are its classes. Plans and data are the same;
    stock mirrors along left-right too, at next to no cost.
    """
    import numpy as np
    import torch
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clip.training.trainer import CLIPUniversalTrainer

    planning = PLANNERS[planner]
    folder = Path(os.environ["nnUNet_preprocessed"]) / planning.dataset
    plans, dataset_json = (load_json(str(folder / f"{name}.json")) for name in (planning.plans, "dataset"))
    plans["continue_training"] = False
    if planning.patch:
        plans["configurations"]["3d_fullres"]["patch_size"] = list(planning.patch)
    if variant == "regions2":
        labels = {"background": 0, **{name: dataset_json["labels"][name] for name in REGIONS_OF_TWO}}
        dataset_json = {**dataset_json, "labels": labels, "regions_class_order": [1, 2]}
    if variant == "labels":
        values = {value for region in dataset_json["labels"].values() if region for value in np.atleast_1d(region)}
        labels = {"background": 0, **{f"value {value}": int(value) for value in sorted(values)}}
        dataset_json = {key: value for key, value in dataset_json.items() if key != "regions_class_order"}
        dataset_json["labels"] = labels
    trainer_class = CLIPUniversalTrainer if variant == "ours" else nnUNetTrainer
    trainer = trainer_class(plans, "3d_fullres", "all", dataset_json, torch.device(device))
    trainer.print_to_log_file = lambda *args, **kwargs: None
    trainer.initialize()
    return trainer


def describe(trainer) -> str:
    """What all three have in common."""
    configuration = trainer.configuration_manager
    base_features = configuration.network_arch_init_kwargs["features_per_stage"][0]
    patch = "x".join(map(str, configuration.patch_size))
    return (
        f"{CASES_PER_SOURCE} phantom cases of each of {', '.join(f'{s} ({n} classes)' for s, n in SOURCES.items())}; "
        f"plans {trainer.plans_manager.plans_name}: patch {patch}, batch {configuration.batch_size}, "
        f"{base_features} base features, {len(trainer._get_deep_supervision_scales())} deep supervision scales."
    )
