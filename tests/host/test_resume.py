"""Runs that end before their time: checkpoints are whole, and --c goes on from the same state."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.host.conftest import DATASET, PLANS


def test_a_run_that_is_killed_while_it_writes_keeps_the_checkpoint_before(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()

    def die(checkpoint, filename):
        Path(filename).write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before


def test_continuing_restores_weights_optimizer_epoch_and_counts(make_trainer):
    first = make_trainer()
    first.run_training()
    path = Path(first.output_folder) / "checkpoint_final.pth"
    assert [file.name for file in path.parent.iterdir() if file.name.endswith(".part")] == []
    second = make_trainer(continue_training=True)
    second.load_checkpoint(str(path))
    assert second.current_epoch == 1
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    expected, found = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for index, state in expected["state"].items():
        assert torch.equal(found["state"][index]["momentum_buffer"], state["momentum_buffer"])
    counts = [trainer.logger.get_value("supervised_patches", step=None) for trainer in (first, second)]
    assert counts[0] == counts[1]
    assert np.sum(counts[1]) > 0
    assert (path.parent / "progress_classes.png").is_file()


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_with_c(tiny, tmp_path):
    fold = tmp_path / DATASET / f"CLIPUniversalTrainerDemo__{PLANS}__3d_fullres" / "fold_0"
    command = [Path(sys.executable).parent / "nnUNetv2_train", "901", "3d_fullres", "0"]
    command += ["-tr", "CLIPUniversalTrainerDemo", "-p", PLANS, "-device", "cpu"]
    environment = {
        **os.environ,
        "nnUNet_results": str(tmp_path),
        "nnUNet_clip_demo_epochs": "3",
        "nnUNet_clip_demo_iterations": "10",
        "nnUNet_n_proc_DA": "0",
    }
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (fold / "progress_classes.png").is_file():  # the end of the first epoch
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (fold / "checkpoint_final.pth").exists()
    continued = subprocess.run([*command, "--c"], env=environment, capture_output=True, text=True)
    assert continued.returncode == 0, continued.stdout[-3000:] + continued.stderr[-3000:]
    assert re.findall(r"Epoch (\d+) *$", continued.stdout, re.MULTILINE)[-1] == "2"
    assert "Epoch 0" not in continued.stdout
    assert (fold / "checkpoint_final.pth").is_file()
