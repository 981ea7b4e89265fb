"""A model folder predicts each CT task with its own classes and values, and goes on where it was interrupted."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.inference import loading
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.msd import predict as msd_predict
from nnunetv2_clip.msd.predict import Setup, predict_tasks
from nnunetv2_clip.msd.tasks import CT_TASKS
from nnunetv2_clip.trained_model import TrainedModel
from tests.msd import tree
from tests.msd.tree import AFFINE, SHAPE


class FakePredictor:
    """Paints the number of its classes everywhere, and can die after some images."""

    def __init__(self, log, classes, values, die_after):
        self.log, self.classes, self.values, self.die_after = log, classes, values, die_after

    def predict_from_files_sequential(self, images, outputs):
        for [image], output in zip(images, outputs, strict=True):
            if len(self.log) == self.die_after:
                Path(output + ".nii.gz").write_bytes(b"half")
                raise KeyboardInterrupt
            self.log.append(os.path.basename(image))
            mask = np.full(SHAPE, self.values[self.classes[-1]], np.uint8)
            nib.save(nib.Nifti1Image(mask, AFFINE), output + ".nii.gz")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "CLIPUniversalTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    (folder / "plans.json").write_text("{}")
    write_classes(folder, UNIVERSAL.names)
    return folder


def write_classes(folder, names):
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, names, ignore=False)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": order}))


@pytest.fixture
def predictors(monkeypatch):
    """Replaces the network: `calls` lists what was asked for, `log` every predicted image."""
    state = {"calls": [], "log": [], "die_after": None}

    def load_predictor(model, classes, label_values, folds, checkpoint, device):
        state["calls"].append((classes, label_values))
        return FakePredictor(state["log"], classes, label_values, state["die_after"])

    monkeypatch.setattr(loading, "load_predictor", load_predictor)
    return state


def export(model, msd, output, *more) -> int:
    return main(["msd", "export", "-m", str(model), "-i", str(msd), "-o", str(output), "--ct-only", "-np", "1", *more])


def test_each_task_is_predicted_with_its_own_classes_and_values(tmp_path, msd, model, predictors):
    assert export(model, msd, tmp_path / "s.zip") == 0
    assert predictors["calls"] == [(tuple(task.classes), dict(task.classes)) for task in CT_TASKS]
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(archive.read("Task07_Pancreas/pancreas_001.nii.gz")))
    assert np.unique(mask.get_fdata()).tolist() == [2]
    assert not (tmp_path / "s_predictions").exists()


def test_an_interrupted_export_goes_on_and_repeats_the_half_written_image(tmp_path, msd, model, predictors):
    predictors["die_after"] = 5
    assert export(model, msd, tmp_path / "s.zip") == 130
    assert not (tmp_path / "s.zip").exists()
    predictors["die_after"] = None
    assert export(model, msd, tmp_path / "s.zip") == 0
    assert sorted(predictors["log"]) == sorted(name for task in CT_TASKS for name in tree.case_names(task))


def test_predictions_of_another_checkpoint_are_not_continued(tmp_path, msd, model, predictors, capsys):
    predictors["die_after"] = 5
    assert export(model, msd, tmp_path / "s.zip") == 130
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"other weights")
    assert export(model, msd, tmp_path / "s.zip") == 2
    assert "holds files of another model" in capsys.readouterr().err


def test_a_foreign_folder_is_not_used_for_predictions(tmp_path, msd, model, predictors, capsys):
    (tmp_path / "s_predictions").mkdir()
    (tmp_path / "s_predictions" / "thesis.tex").write_text("mine")
    assert export(model, msd, tmp_path / "s.zip") == 2
    assert "s_predictions: holds files of another model" in capsys.readouterr().err
    assert (tmp_path / "s_predictions" / "thesis.tex").read_text() == "mine"


def test_a_model_without_a_tasks_class_is_refused_before_predicting(tmp_path, msd, model, predictors, capsys):
    write_classes(model, [name for name in UNIVERSAL.names if name != "colon_tumor"])
    assert export(model, msd, tmp_path / "s.zip") == 2
    assert "does not know colon_tumor (Task10_Colon)" in capsys.readouterr().err
    assert predictors["calls"] == []


@pytest.mark.parametrize(
    ("more", "there"),
    [
        (["-f", "3"], "checkpoint_final.pth in fold 3. Expected: folds out of ['0']"),
        (["-chk", "checkpoint_best.pth"], "fold_0/checkpoint_final.pth"),
    ],
)
def test_a_missing_checkpoint_is_refused_with_those_there(tmp_path, msd, model, predictors, capsys, more, there):
    assert export(model, msd, tmp_path / "s.zip", *more) == 2
    assert there in capsys.readouterr().err


def test_missing_test_images_are_listed_before_predicting(tmp_path, msd, model, predictors, capsys):
    (msd / "Task10_Colon" / "imagesTs" / "colon_014.nii.gz").unlink()
    assert export(model, msd, tmp_path / "s.zip") == 2
    assert "Task10_Colon/colon_014.nii.gz" in capsys.readouterr().err
    assert predictors["log"] == []


def half_turned_phantom(path) -> None:
    """A thorax-like block in LPS voxel order whose header claims RAS: spine in front, liver on the left."""
    hu = np.full((60, 50, 30), -1000, np.int16)
    hu[5:55, 8:42] = 20 - 120  # body of fat
    hu[8:34, 12:40, 4:24] = 100  # liver, patient's right: low x in LPS
    hu[27:33, 35:40] = 400  # spine, patient's back: high y in LPS
    nib.save(nib.Nifti1Image(hu, np.diag([6.0, 6.0, 8.0, 1.0])), path)


def test_an_image_with_a_half_turned_header_is_predicted_upright_and_written_on_its_own_grid(
    tmp_path, msd, model, monkeypatch, capsys
):
    path = msd / "Task09_Spleen" / "imagesTs" / "spleen_001.nii.gz"
    half_turned_phantom(path)
    seen = {}

    class EchoPredictor:
        """Marks the voxel of the image's first corner and remembers the header it was given."""

        def predict_from_files_sequential(self, images, outputs):
            for [image], output in zip(images, outputs, strict=True):
                given = nib.load(image)
                seen[Path(image).name] = given.affine
                mask = np.zeros(given.shape, np.uint8)
                mask[0, 0, 0] = 1
                nib.save(nib.Nifti1Image(mask, given.affine), output + ".nii.gz")

    monkeypatch.setattr(loading, "load_predictor", lambda *_: EchoPredictor())
    assert export(model, msd, tmp_path / "s.zip") == 0
    assert "spleen_001.nii.gz: its header is rotated" in capsys.readouterr().out
    assert np.allclose(np.diag(seen["spleen_001.nii.gz"]), [-6, -6, 8, 1])
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(archive.read("Task09_Spleen/spleen_001.nii.gz")))
    assert np.array_equal(mask.affine, nib.load(path).affine)
    assert np.argwhere(mask.get_fdata()).tolist() == [[0, 0, 0]]
    assert export(model, msd, tmp_path / "t.zip", "--trust-headers") == 0
    assert np.allclose(np.diag(seen["spleen_001.nii.gz"]), [6, 6, 8, 1])


def test_many_images_are_read_and_written_by_workers(tmp_path, msd, model, monkeypatch):
    asked = []

    class WorkerPredictor(FakePredictor):
        def predict_from_files(self, images, outputs, **processes):
            asked.append(processes)
            self.predict_from_files_sequential(images, outputs)

    def load_predictor(model, classes, label_values, *_):
        return WorkerPredictor([], classes, label_values, None)

    monkeypatch.setattr(loading, "load_predictor", load_predictor)
    monkeypatch.setattr(msd_predict, "WORTH_WORKERS", 2)
    predict_tasks(Setup(TrainedModel.open(model), processes=3, trust_headers=True), msd, tmp_path / "predictions")
    assert asked == [{"num_processes_preprocessing": 3, "num_processes_segmentation_export": 3}] * len(CT_TASKS)
