"""One tiny merge of two partly labelled phantom datasets, planned and preprocessed by nnU-Net, for all host tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DATASET = "Dataset901_Tiny"
PLANS = "CLIPSmallPlans"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def call(*command):
    """A command of nnU-Net or ours as a user calls it."""
    script = Path(sys.executable).parent / command[0]
    result = subprocess.run([script, *map(str, command[1:])], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder with the phantoms; nnU-Net's variables point below it for the whole session of these tests."""
    root = tmp_path_factory.mktemp("tiny")
    before = {name: os.environ.get(name) for name in (*FOLDERS, "nnUNet_n_proc_DA", "nnUNet_def_n_proc")}
    for name in FOLDERS:
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1")
    sources = ("msd_liver", "msd_spleen")
    call("nnunetv2_clip", "phantom", "-o", root / "msd", "--cases", 5, "--spacing", 10, 10, 12, "--layouts", *sources)
    tasks = {"msd_liver": "Task03_Liver", "msd_spleen": "Task09_Spleen"}
    folders = {name: root / "msd" / name / task for name, task in tasks.items()}
    named = [text for name, folder in folders.items() for text in ("--source", f"{name}={folder}")]
    call("nnunetv2_clip", "convert", "-d", 901, "--name", "Tiny", "-np", 1, *named)
    call("nnunetv2_clip", "embed", "-d", 901, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", 901, "-np", 1)
    call("nnunetv2_clip", "plan", "-d", 901, "-pl", "small", "-gpu_memory_target", 0.01)
    call("nnUNetv2_preprocess", "-d", 901, "-plans_name", PLANS, "-c", "3d_fullres", "2d", "-np", 1, 1)
    yield root
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def make_trainer(tiny, tmp_path, monkeypatch):
    """A trainer on the tiny merge that takes two steps an epoch; results go to this test's own folder."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # no worker processes: faster, and errors keep their traceback

    def make(
        configuration="3d_fullres",
        trainer_class=None,
        continue_training=False,
        change_plans=lambda plans: None,
        device="cpu",
    ):
        import torch
        from batchgenerators.utilities.file_and_folder_operations import load_json

        from nnunetv2_clip.training.trainer import CLIPUniversalTrainer

        folder = tiny / "nnUNet_preprocessed" / DATASET
        plans = load_json(str(folder / f"{PLANS}.json"))
        plans["continue_training"] = continue_training
        change_plans(plans)
        dataset_json = load_json(str(folder / "dataset.json"))
        trainer = (trainer_class or CLIPUniversalTrainer)(plans, configuration, 0, dataset_json, torch.device(device))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        return trainer

    return make
