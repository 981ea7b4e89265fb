"""docs/extend.md and docs/transfer.md: every command of the two tutorials, one after the other, as a reader types them.

Beside the texts there is only what the reader brings: a trained model 900, CTs with drawings, TotalSegmentator.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunetv2_clip.choices import PLANS
from nnunetv2_clip.dataset_conversion.totalsegmentator_groups import GROUPS
from nnunetv2_clip.trained_model import TrainedModel
from tests.host.conftest import FOLDERS, call

DOCS = Path(__file__).resolve().parents[2] / "docs"
TRAINER = "CLIPUniversalTrainerDemo"
SIZE = ("--cases", 5, "--test-cases", 1, "--spacing", 10, 10, 12)


def blocks(page, kind):
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def commands(page):
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


def as_run_here(command):
    """On the CPU, with a trainer that takes seconds and the encoder whose table ships with the package."""
    command = re.sub(r"CLIPUniversalTrainer(_\d+epochs)?(?![A-Za-z])", TRAINER, command)
    on_cpu = command.startswith(("nnUNetv2_train ", "nnUNetv2_predict ", "nnunetv2_clip pseudo-label "))
    few_workers = command.startswith("nnUNetv2_predict ")
    embeds = command.startswith("nnunetv2_clip embed ")
    return command + " --encoder minilm" * embeds + " -device cpu" * on_cpu + " -npp 1 -nps 1" * few_workers


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with the model and the data that the tutorials speak of; nnU-Net's variables point below it."""
    root = tmp_path_factory.mktemp("reader")
    before = dict(os.environ)
    for name in FOLDERS:
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1")
    os.environ.update(nnUNet_clip_demo_epochs="1", nnUNet_clip_demo_iterations="2")
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    call("nnunetv2_clip", "phantom", "-o", root / "msd", *SIZE, "--layouts", "msd_liver", "msd_spleen")
    tasks = [f"msd_liver={root}/msd/msd_liver/Task03_Liver", f"msd_spleen={root}/msd/msd_spleen/Task09_Spleen"]
    call("nnunetv2_clip", "convert", "-d", 900, "-np", 1, *(word for task in tasks for word in ("--source", task)))
    call("nnunetv2_clip", "embed", "-d", 900, "--encoder", "minilm")
    call("nnUNetv2_extract_fingerprint", "-d", 900, "-np", 1)
    small = ("-pl", "small", "-gpu_memory_target", 0.01, "-overwrite_plans_name", PLANS)
    call("nnunetv2_clip", "plan", "-d", 900, *small)
    call("nnUNetv2_preprocess", "-d", 900, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1)
    call("nnUNetv2_train", 900, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    write_drawings(root)
    yield root
    os.environ.clear()
    os.environ.update(before)


def write_drawings(root):
    """Own cases with one value, CTs to predict, and TotalSegmentator with vertebrae (drawn as the aorta)."""
    call(
        "nnunetv2_clip", "phantom", "-o", root / "own", *SIZE, "--seed", 9, "--layouts", "custom", "totalsegmentator_v1"
    )
    folder = next((root / "own" / "custom").rglob("labels")).parent
    for kind in ("images", "labels"):
        shutil.copytree(folder / kind, root / kind)
    for path in (root / "labels").glob("*.nii.gz"):
        image = nibabel.load(path)
        drawn = (np.asarray(image.dataobj) == 5).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(drawn, image.affine), path)
    (root / "CTS").mkdir()
    shutil.copy(next((root / "images").glob("*.nii.gz")), root / "CTS" / "case_0000.nii.gz")
    cases = next((root / "own" / "totalsegmentator_v1").rglob("s[0-9]*[0-9]/ct.nii.gz")).parents[1]
    shutil.copytree(cases, root / "Totalsegmentator_dataset")
    for case in (root / "Totalsegmentator_dataset").glob("s*"):
        for structure in GROUPS["vertebrae"]:
            shutil.copy(case / "segmentations" / "aorta.nii.gz", case / "segmentations" / f"{structure}.nii.gz")


def run(page, root):
    for command in map(as_run_here, commands(page)):
        result = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"


def model(root, dataset, plans):
    return root / "nnUNet_results" / dataset / f"{TRAINER}__{plans}__3d_fullres"


@pytest.mark.slow
def test_a_class_is_added_by_the_commands_of_the_page(reader):
    classes, source = blocks("extend.md", "yaml")
    (reader / "my_classes.yaml").write_text(classes)
    (reader / "my_dataset.yaml").write_text(source)
    run("extend.md", reader)
    known = {"liver", "liver_tumor", "spleen", "sacrum"}
    assert set(TrainedModel.open(model(reader, "Dataset901_Sacrum", f"{PLANS}_extended")).known) == known
    assert set(TrainedModel.open(model(reader, "Dataset911_Completed", f"{PLANS}_finetuned")).known) == known
    assert (reader / "PREDICTIONS" / "case.nii.gz").is_file()


@pytest.mark.slow
def test_another_list_of_classes_is_learnt_by_the_commands_of_the_page(reader):
    fold = model(reader, "Dataset900_Universal", PLANS) / "fold_0"
    shutil.copy(fold / "checkpoint_final.pth", reader / "universal.pth")
    run("transfer.md", reader)
    for plans in (f"{PLANS}_transferred", f"{PLANS}_from900"):
        assert set(TrainedModel.open(model(reader, "Dataset903_Vertebrae", plans)).known) == {
            name.lower() for name in GROUPS["vertebrae"]
        }
