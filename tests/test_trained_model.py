"""A trained model: the same from its folder and its zip, read without torch, and refused where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import checksum
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.trained_model import NETWORK, ModelTables, TrainedModel, find_models

NAME = "CLIPUniversalTrainer__nnUNetPlans__3d_fullres"
CLASSES = ("liver", "spleen", "liver_tumor")  # in painting order
UNIVERSAL_CONFIGURATION = {"architecture": {"network_class_name": NETWORK, "arch_kwargs": {"class_names": CLASSES}}}
STOCK_NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
STOCK_CONFIGURATION = {
    "architecture": {
        "network_class_name": STOCK_NETWORK,
        "arch_kwargs": {},
    }
}


def write_model(folder: Path, entry: dict | None = None, name: str = NAME, checkpoints=("0/checkpoint_final.pth",)):
    configurations = {"2d": STOCK_CONFIGURATION, "3d_fullres": UNIVERSAL_CONFIGURATION}
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, CLASSES, ignore=False)
    plans = {"dataset_name": "Dataset900_Universal", "configurations": configurations, "nnunetv2_clip": entry or {}}
    folder = folder / "Dataset900_Universal" / name
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": order}))
    for place in checkpoints:
        (folder / f"fold_{place}").parent.mkdir(exist_ok=True)
        (folder / f"fold_{place}").write_bytes(place.encode())
    return folder


def zipped(path: Path, *folders: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()):
            archive.write(file, file.relative_to(folders[0].parents[1]))
    return path


@pytest.fixture(params=["folder", "zip"])
def opened(tmp_path, request):
    """A function that writes a model and opens it, from its folder or from its zip."""

    def open_model(**content) -> TrainedModel:
        folder = write_model(tmp_path, **content)
        return TrainedModel.open(folder if request.param == "folder" else zipped(tmp_path / "model.zip", folder))

    return open_model


def test_names_classes_and_the_trained_configuration(opened):
    model = opened()
    assert (model.name, model.configuration) == (NAME, "3d_fullres")
    assert model.title == f"Dataset900_Universal/{NAME}"
    assert model.classes == CLASSES == tuple(model.arguments["class_names"])
    assert model.painted_values == {name: UNIVERSAL.find(name).index for name in CLASSES}


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ({}, CLASSES),
        ({"datasets": {"a": {"supervised": {"spleen": 2}}, "b": {"supervised": {"liver": 1}}}}, ("liver", "spleen")),
        (
            {
                "datasets": {"a": {"supervised": {"spleen": 2, "liver_tumor": 1}}},
                "extension": {"mode": "frozen", "parts": [["liver_tumor"]], "known": ["liver"]},
            },
            ("liver", "liver_tumor"),
        ),
    ],
)
def test_known_are_the_classes_of_the_training_and_of_the_model_before(opened, entry, known):
    assert opened(entry=entry).known == known


def test_a_class_of_the_user_is_in_the_taxonomy(opened):
    row = {"index": 33, "name": "renal_vein", "parents": []}
    assert opened(entry={"classes": [row]}).taxonomy.find("renal_vein").index == 33


@pytest.mark.parametrize(
    ("entry", "ask"),
    [
        ({"classes": [7]}, "taxonomy"),
        ({"datasets": {"a": {}}}, "known"),
        ({"datasets": [1]}, "known"),
        ({"datasets": {"a": {"supervised": {}}}, "extension": {"mode": "frozen", "parts": []}}, "known"),
    ],
)
def test_a_damaged_entry_is_named(opened, entry, ask):
    with pytest.raises(UserError, match=r"plans.json: the entry 'nnunetv2_clip' has damaged"):
        getattr(opened(entry=entry), ask)


FINAL, BEST = CHECKPOINT, "checkpoint_best.pth"
TWO_FOLDS = (f"0/{FINAL}", f"1/{FINAL}", f"2/{BEST}", "3/progress.png", f"all/{FINAL}")


def test_folds_are_those_with_the_checkpoint(opened):
    model = opened(checkpoints=TWO_FOLDS)
    assert model.checkpoints == {"0": (FINAL,), "1": (FINAL,), "2": (BEST,), "3": (), "all": (FINAL,)}
    assert model.folds() == ("0", "1", "all")
    assert model.folds(BEST) == ("2",)
    assert model.folds(wanted=[1, "all"]) == ("1", "all")


@pytest.mark.parametrize(
    ("checkpoints", "asked", "message"),
    [
        (TWO_FOLDS, ["4"], f"has no {FINAL} in fold 4. Expected: folds out of ['0', '1', 'all']. Remedy: name other"),
        (TWO_FOLDS, ["0", 2], "in fold 2. Expected: folds out of ['0', '1', 'all']. Remedy: take another checkpoint"),
        ((f"0/{BEST}",), None, f"in any fold. Expected: one of ['fold_0/{BEST}']"),
        ((f"0/{BEST}",), None, f"-chk {BEST}"),
        ((), None, "Expected: a finished training"),
    ],
)
def test_missing_folds_and_checkpoints_are_refused_with_those_that_are_there(opened, checkpoints, asked, message):
    with pytest.raises(UserError) as error:
        opened(checkpoints=checkpoints).folds(wanted=asked)
    assert message in str(error.value)


def test_weights_can_be_read_and_nothing_else_is_unpacked(opened):
    model = opened(checkpoints=TWO_FOLDS)
    with model.on_disk(["1"], FINAL) as folder:
        weights = folder / "fold_1" / FINAL
        assert weights.read_bytes() == f"1/{FINAL}".encode()
        assert model.checksums(["1"], FINAL) == {f"fold_1/{FINAL}": checksum(weights)}
        if model.prefix:
            files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert files == {"plans.json", "dataset.json", f"fold_1/{FINAL}"}
    assert folder.exists() == (not model.prefix)


def test_a_damaged_zip_is_named(tmp_path):
    path = zipped(tmp_path / "model.zip", write_model(tmp_path))
    with zipfile.ZipFile(path) as archive:
        entry = next(info for info in archive.infolist() if info.filename.endswith(FINAL))
    start = entry.header_offset + 30 + len(entry.filename)  # of its content, after the local header
    content = path.read_bytes()
    path.write_bytes(content[:start] + b"\xff\xff\xff" + content[start + 3 :])
    with pytest.raises(UserError, match="cannot be read"), TrainedModel.open(path).on_disk(["0"], FINAL):
        pass


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_model_without_one_of_its_tables_is_refused(tmp_path, name):
    folder = write_model(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: is missing"):
        TrainedModel.open(folder)


def test_a_zip_of_several_models_is_opened_by_configuration(tmp_path):
    names = [f"CLIPUniversalTrainer__nnUNetPlans__{configuration}" for configuration in ("3d_fullres", "2d")]
    path = zipped(tmp_path / "model.zip", *(write_model(tmp_path, name=name) for name in names))
    assert [model.name for model in find_models(path)] == names
    assert TrainedModel.open(path, "2d").name == names[1]
    for configuration in (None, "3d_lowres"):
        with pytest.raises(UserError, match="-c"):
            TrainedModel.open(path, configuration)


@pytest.mark.parametrize("configurations", [[], {"3d_fullres": STOCK_CONFIGURATION}, {"3d_fullres": 7}, None])
def test_a_model_that_is_not_universal_is_refused(tmp_path, configurations):
    folder = write_model(tmp_path)
    (folder / "plans.json").write_text(json.dumps({"configurations": configurations, "nnunetv2_clip": {}}))
    with pytest.raises(UserError, match="was not trained with CLIPUniversalTrainer"):
        _ = TrainedModel.open(folder).configuration


def test_tables_are_read_beside_predictions(tmp_path):
    assert ModelTables.beside(write_model(tmp_path, checkpoints=())).classes == CLASSES


def test_tables_that_are_not_beside_predictions_say_nothing(tmp_path):
    tables = ModelTables.beside(tmp_path)
    assert (tables.plans, tables.known, tables.rules, tables.taxonomy) == ({}, None, None, UNIVERSAL)


def test_a_model_is_looked_at_without_torch(tmp_path):
    code = (
        "import sys; from nnunetv2_clip.trained_model import TrainedModel\n"
        "assert TrainedModel.open(sys.argv[1]).known\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(write_model(tmp_path))], check=True)
