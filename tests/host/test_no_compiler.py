"""Training and prediction on a machine without a C compiler, as in containers that only run programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.host.conftest import DATASET, PLANS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRAINER = "CLIPUniversalTrainerDemo"


@pytest.fixture
def call(tmp_path):
    """A command that finds nothing on its PATH, and nothing that a compiler has left in a cache; what it printed."""
    (tmp_path / "empty").mkdir()

    def call(command, *arguments, **environment):
        hidden = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CUDA_HOME")}
        result = subprocess.run(
            [Path(sys.executable).parent / command, *map(str, arguments)],
            env={
                **hidden,
                "PATH": str(tmp_path / "empty"),
                "TRITON_CACHE_DIR": str(tmp_path / "triton"),
                "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
                **environment,
            },
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return call


@pytest.mark.slow
def test_training_and_prediction_need_no_compiler(tiny, tmp_path, call):
    results = {"nnUNet_results": str(tmp_path / "results")}
    short = {"nnUNet_clip_demo_epochs": "1", "nnUNet_clip_demo_iterations": "2", **results}
    own = "-tr", TRAINER, "-p", PLANS
    printed = call("nnUNetv2_train", 901, "3d_fullres", 0, *own, "-device", DEVICE, nnUNet_compile="t", **short)
    assert "Mean Validation Dice" in printed and printed.count("Note: torch.compile is left out") == 1
    images = tiny / "nnUNet_raw" / DATASET / "imagesTr"
    image = sorted(images.glob("*.nii.gz"))[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / image.name).symlink_to(image)
    chosen = "-d", 901, "-c", "3d_fullres", "-f", 0, *own, "-device", DEVICE
    call("nnUNetv2_predict", "-i", tmp_path / "in", "-o", tmp_path / "stock", *chosen, "-npp", 1, "-nps", 1, **results)
    model = tmp_path / "results" / DATASET / f"{TRAINER}__{PLANS}__3d_fullres"
    ours = "predict", "-m", model, "-i", image, "-o", tmp_path / "ours", "-device", DEVICE
    printed = call("nnunetv2_clip", *ours, nnUNet_compile="t")
    assert printed.count("Note: torch.compile is left out") == 1
    assert printed.count("without its fused kernel") == (DEVICE == "cuda")
    case = image.name.replace("_0000", "")
    assert (tmp_path / "stock" / case).is_file() and list((tmp_path / "ours").rglob("*.nii.gz"))
