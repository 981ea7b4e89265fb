"""`info` tells what is in the model, from its folder or its zip, and unpacks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.evaluation.summary import masked_summary
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import NETWORK, ModelTables

CLASSES = ["liver", "spleen", "liver_tumor"]  # in painting order
NAME = "CLIPUniversalTrainer__nnUNetPlans__3d_fullres"
BACKBONE = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
PLANS = {
    "dataset_name": "Dataset900_Universal",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "3d_fullres": {
            "patch_size": [32, 48, 48],
            "spacing": [2.0, 1.5, 1.5],
            "batch_size": 2,
            "architecture": {
                "network_class_name": NETWORK,
                "arch_kwargs": {
                    "backbone_class": BACKBONE,
                    "class_names": CLASSES,
                },
            },
        }
    },
}


@pytest.fixture
def model(tmp_path):
    """A model of three classes; fold 0 has validated two cases with Dice 1 and 0.5 for the liver."""
    folder = tmp_path / "results" / "Dataset900_Universal" / NAME
    cases = {"a": CasePresence("msd_liver", ("liver", "liver_tumor")), "b": CasePresence("chaos", ("liver",))}
    manifest = Manifest(UNIVERSAL, cases)
    text = TextTable.of(CLASSES, [[f"A CT of {name}."] for name in CLASSES], "onehot", "numpy 2", np.eye(3))
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, CLASSES, ignore=False)
    dataset_json = {"labels": labels, "regions_class_order": order, "file_ending": ".nii.gz"}
    rows = [row for row in UNIVERSAL.to_json() if row["name"] in CLASSES]
    ours = {"version": "0.1", "classes": rows, "text": text.provenance, "datasets": manifest.count_cases()}
    (folder / "fold_0" / "validation").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps({**PLANS, "nnunetv2_clip": ours}))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    for case_id, predicted in (("a", [6, 6, 0]), ("b", [6, 0, 0])):
        for name, values in (("truth", [6, 6, 0] if case_id == "a" else [6, 6, 6]), ("predicted", predicted)):
            (tmp_path / name).mkdir(exist_ok=True)
            array = np.array(values, np.uint8).reshape(3, 1, 1)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / f"{case_id}.nii.gz")
    target = folder / "fold_0" / "validation" / "summary.json"
    masked_summary(tmp_path / "truth", tmp_path / "predicted", dataset_json, manifest, target, 1)
    return folder


def as_zip(model, path, *more) -> str:
    """The layout of nnUNetv2_export_model_to_zip: paths below nnUNet_results."""
    root = model.parents[1]
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(model.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
        for name in more:
            archive.writestr(name, "{}")
    return str(path)


def info(capsys, *arguments) -> list[dict]:
    assert main(["info", "-m", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_folder_tells_classes_prompts_encoder_cases_and_validation(model, capsys):
    [found] = info(capsys, model)
    assert (found["trainer"], found["plans"], found["configuration"]) == tuple(NAME.split("__"))
    assert found["text"]["encoder"] == "onehot"
    assert len(found["text"]["sha256"]) == 64
    assert found["network"]["backbone"] == "PlainConvUNet"
    assert found["datasets"]["chaos"] == {"cases": 1, "supervised": {"liver": 1}}
    assert found["folds"] == {"0": {"checkpoints": ["checkpoint_final.pth"], "validated": True, "dead": []}}
    rows = {row["name"]: row for row in found["classes"]}
    assert list(rows) == CLASSES
    assert rows["liver"]["index"] == 6
    assert rows["liver"]["prompts"] == ["A CT of liver."]
    assert rows["liver"]["cases"] == {"chaos": 1, "msd_liver": 1}
    # case a: 2 of 2 voxels, Dice 1; case b: 1 of 3, Dice 2 / 4
    assert rows["liver"]["validation_dice"] == pytest.approx(0.75)
    assert rows["liver"]["validation_cases"] == 2
    assert (rows["spleen"]["cases"], rows["spleen"]["validation_dice"]) == ({}, None)


def test_a_renamed_folder_tells_its_configuration(model, capsys):
    [found] = info(capsys, model.rename(model.parent / "my_model"))
    assert (found["configuration"], found["network"]["backbone"]) == ("3d_fullres", "PlainConvUNet")


def test_a_class_that_died_in_training_is_named(model, capsys):
    log = {"classes": CLASSES, "predicted_share": [[1.0, 0.5, 0.2], [1.0, 0.5, 0.001]]}
    (model / "fold_0" / "training_curves.json").write_text(json.dumps(log))
    assert info(capsys, model)[0]["folds"]["0"]["dead"] == ["liver_tumor"]
    assert main(["info", "-m", str(model)]) == 0
    assert "DEAD (empty in training): liver_tumor" in capsys.readouterr().out
    (model / "fold_0" / "training_curves.json").write_text("{}")
    assert main(["info", "-m", str(model)]) == 2
    assert "training_curves.json" in capsys.readouterr().err


def test_the_zip_tells_the_same_as_the_folder(model, capsys, tmp_path):
    [from_folder], [from_zip] = info(capsys, model), info(capsys, as_zip(model, tmp_path / "model.zip"))
    assert {**from_folder, "model": ""} == {**from_zip, "model": ""}


def test_a_zip_of_nnunet_itself_is_read(model, capsys, tmp_path):
    """nnU-Net packs more than we need; what it packs is enough."""
    for name in ("progress.png", "debug.json"):
        (model / "fold_0" / name).write_text("{}")
    (model / "dataset_fingerprint.json").write_text("{}")
    script = (
        "from nnunetv2.model_sharing.model_export import export_pretrained_model as export\n"
        f"export(900, {str(tmp_path / 'm.zip')!r}, ('3d_fullres',), 'CLIPUniversalTrainer', folds=(0,))"
    )
    folders = {name: str(model.parents[1]) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **folders}, check=True, capture_output=True)
    [found] = info(capsys, tmp_path / "m.zip")
    assert found["name"] == NAME
    assert found["classes"][0]["validation_dice"] == pytest.approx(0.75)


def test_the_text_form_names_every_class(model, capsys):
    assert main(["info", "-m", str(model)]) == 0
    text = capsys.readouterr().out
    assert "  6 liver                           2      0.750     2  A CT of liver." in text
    assert "msd_liver                    1  liver, liver_tumor" in text


@pytest.mark.parametrize("evil", ["../../.bashrc", "/etc/cron.d/x", "C:\\x", "a\\..\\..\\x"])
def test_a_zip_with_evil_paths_is_refused_and_nothing_unpacked(model, capsys, tmp_path, evil):
    path = as_zip(model, tmp_path / "model.zip", evil)
    before = sorted(tmp_path.rglob("*"))
    assert main(["info", "-m", path]) == 2
    assert "leave the folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_of_another_trainer_is_refused(model, capsys):
    (model / "plans.json").write_text(json.dumps(PLANS))
    assert main(["info", "-m", str(model)]) == 2
    assert "trained with CLIPUniversalTrainer" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "\xff", '{"nnunetv2_clip": {}, "configurations": []}'])
def test_damaged_plans_are_named(model, capsys, content):
    (model / "plans.json").write_text(content, encoding="latin-1")
    assert main(["info", "-m", str(model)]) == 2
    assert "plans.json" in capsys.readouterr().err


def test_a_folder_without_plans_and_a_file_that_is_no_zip_are_refused(tmp_path, capsys):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    for path in (tmp_path, tmp_path / "x.zip", tmp_path / "nothing"):
        assert main(["info", "-m", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_a_users_class_is_found_beside_predictions(tmp_path):
    row = {"index": 33, "name": "renal_vein", "parents": []}
    (tmp_path / "plans.json").write_text(json.dumps({"nnunetv2_clip": {"classes": [row]}}))
    assert ModelTables.beside(tmp_path).taxonomy.find("renal_vein").index == 33
    assert ModelTables.beside(tmp_path / "elsewhere").taxonomy is UNIVERSAL


def test_incomplete_classes_are_counted_apart(model, capsys):
    plans = json.loads((model / "plans.json").read_text())
    plans["nnunetv2_clip"]["datasets"]["chaos"]["incomplete"] = {"liver": 1}
    (model / "plans.json").write_text(json.dumps(plans))
    assert main(["info", "-m", str(model)]) == 0
    assert "Incomplete, drawn in part, in so many of these cases: liver 1" in capsys.readouterr().out
