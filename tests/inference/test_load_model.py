"""The Python face: `load_model(...).predict(scan)` says what `nnunetv2_clip predict` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunetv2_clip import UserError, __version__, load_model
from nnunetv2_clip.inference.postprocessing import Rule
from nnunetv2_clip.trained_model import TrainedModel
from tests.inference.conftest import make_ct, make_model, reoriented, save_ct
from tests.inference.test_bad_input import write_series, zipped
from tests.inference.test_predict import LEARNT, predict, voxels


def all_voxels(segmentation) -> list[np.ndarray]:
    return [segmentation.label_map, *(segmentation.masks[name] for name in segmentation.masks)]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(all_voxels(first), all_voxels(second), strict=True))


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL"])
def test_a_file_and_its_array_get_the_voxels_of_the_command(tmp_path, model, ct, codes):
    image = reoriented(tmp_path / "ct.nii.gz", ct, codes)
    assert predict(image, tmp_path / "out", model, "--outputs", "labels", "masks") == 0
    loaded, file = load_model(model, device="cpu"), nib.load(image)
    found = loaded.predict(image)
    assert loaded.classes == LEARNT == tuple(found.masks) and loaded.never_learnt == ("kidney_tumor",)
    assert np.array_equal(found.label_map, voxels(tmp_path / "out" / "ct.nii.gz"))
    assert found.label_map.any() and np.array_equal(found.affine, file.affine)
    for name in LEARNT:
        mask = found.masks[name]
        assert mask.dtype == bool
        assert np.array_equal(mask, voxels(tmp_path / "out" / "ct" / f"{name}.nii.gz").astype(bool))
    for data in (np.asanyarray(file.dataobj), file.get_fdata(), file.get_fdata(dtype=np.float32)):
        assert same(found, loaded.predict((data, file.affine)))


def test_the_example_of_the_page_runs(tmp_path, model, ct, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(model)
    (tmp_path / "ct.nii.gz").symlink_to(ct)
    names = {}
    exec(example.replace("auto", "cpu"), names)
    assert names["liver"].shape == names["painted"].shape == make_ct().shape


def test_a_dicom_series_and_its_array_get_the_same_voxels(tmp_path, model):
    data = make_ct((20, 22, 12))
    loaded = load_model(str(model), "cpu")
    found = loaded.predict(str(write_series(tmp_path / "series", data)))
    assert same(found, loaded.predict((data, np.diag([-2.0, -2, 5, 1]))))


def test_a_zip_and_a_choice_of_classes(tmp_path, model, ct):
    everything = load_model(model, "cpu").predict(ct)
    chosen = load_model(zipped(model, tmp_path / "m.zip"), "cpu", folds=[0], classes=["Liver Tumour", "liver"])
    found = chosen.predict(ct)
    assert chosen.classes == tuple(found.masks) == ("liver", "liver_tumor")
    for name, mask in found.masks.items():
        assert np.array_equal(mask, everything.masks[name])
    with pytest.raises(KeyError):
        found.masks["spleen"]


def test_rules_and_probabilities(tmp_path, ct):
    model = make_model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    plans["nnunetv2_clip"]["postprocessing"] = {"rules": {"liver": Rule(threshold=0.3).to_json()}}
    (model / "plans.json").write_text(json.dumps(plans))
    found = load_model(model, "cpu", classes=["liver"], probabilities=["liver"], postprocess=True).predict(ct)
    likely = found.probabilities["liver"] / 65535 > 0.3
    assert np.count_nonzero(found.masks["liver"] != likely) <= 1e-3 * likely.size
    plain = load_model(model, "cpu", classes=["liver"]).predict(ct)
    assert plain.masks["liver"].sum() < found.masks["liver"].sum()


AFFINE = np.diag([2.0, 2, 5, 1])
GOOD = make_ct((20, 22, 12))
WITH_NAN = np.where(GOOD.max() == GOOD, np.nan, GOOD)
BAD_SCANS = {
    "no array": (GOOD.tolist(), "a path, or a pair"),
    "ragged lists": (([[1, 2], [3]], AFFINE), "numbers|shape"),
    "one slice without axis": ((GOOD[..., 0], AFFINE), r"of shape \(20, 22\)"),
    "channels": ((GOOD[None], AFFINE), r"of shape \(1, 20, 22, 12\)"),
    "a single slice": ((GOOD[..., :1], AFFINE), "single slice"),
    "no voxels": ((GOOD[:0], AFFINE), r"of shape \(0, 22, 12\)"),
    "text": ((GOOD.astype(str), AFFINE), "Hounsfield"),
    "colours": ((GOOD.astype(complex), AFFINE), "complex128"),
    "NaN": ((WITH_NAN, AFFINE), "1 voxels are NaN or infinite"),
    "infinite": ((np.where(np.isnan(WITH_NAN), -np.inf, GOOD), AFFINE), "1 voxels are NaN or infinite"),
    "singular affine": ((GOOD, np.diag([2.0, 0, 5, 1])), "affine: is"),
    "NaN in the affine": ((GOOD, np.diag([2.0, np.nan, 5, 1])), "affine: is"),
    "spacing for affine": ((GOOD, (2, 2, 5)), "invertible 4 x 4"),
    "no affine": ((GOOD, None), "affine"),
    "metres": ((GOOD, np.diag([2000.0, 2000, 5000, 1])), "2000, 2000, 5000 mm"),
    "no path": (7, "a path, or a pair"),
    "a path that is not there": ("nowhere.nii.gz", "does not exist"),
}


@pytest.fixture(scope="module")
def loaded(model):
    return load_model(model, "cpu")


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_what_is_no_scan_is_named(loaded, kind):
    scan, message = BAD_SCANS[kind]
    with pytest.raises(UserError, match=message):
        loaded.predict(scan)


def test_a_folder_of_several_cases_is_refused(tmp_path, loaded):
    for name in "ab":
        save_ct(tmp_path / f"{name}.nii.gz")
    with pytest.raises(UserError, match="holds 2 cases"):
        loaded.predict(tmp_path)


def test_what_looks_unlike_a_ct_is_warned_of(loaded):
    assert "MR" in loaded.predict((np.maximum(np.arange(216).reshape(6, 6, 6) * 8 - 800, 0), AFFINE)).warnings[0]


def damage(model, fold: int, change) -> None:
    path = model / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint["network_weights"])
    torch.save(checkpoint, path)


def test_weights_that_are_not_finite_are_the_models_fault_not_the_cts(tmp_path, ct, capsys):
    model = make_model(tmp_path, folds=(0, 1))
    damage(model, 1, lambda weights: weights["controller.dynamic_parameters.weight"].view(-1)[3].fill_(torch.nan))
    assert predict(ct, tmp_path / "out", model) == 2
    message = capsys.readouterr().err
    assert f"{model / 'fold_1' / 'checkpoint_final.pth'}: holds NaN or infinite weights in 1 of" in message
    assert "controller.dynamic_parameters.weight" in message and ct.name not in message
    assert predict(ct, tmp_path / "out", model, "-f", "0") == 0


def test_a_second_fold_of_another_network_is_refused(tmp_path):
    model = make_model(tmp_path, folds=(0, 1))
    damage(model, 1, lambda weights: weights.popitem())
    with pytest.raises(UserError, match=r"fold_1.*holds other tensors than fold 0"):
        load_model(model, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "-device cuda:99"),
        ({"folds": [3]}, "in fold 3"),
        ({"checkpoint": "checkpoint_best.pth"}, "-chk checkpoint_final.pth"),
        ({"classes": ["pancreas"]}, "does not know pancreas"),
        ({"classes": []}, "--classes: no class is asked for"),
        ({"step_size": 0}, "-step_size"),
        ({"postprocess": True}, "no post-processing rules"),
    ],
)
def test_what_the_model_lacks_is_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        load_model(TrainedModel.open(model), **{"device": "cpu", **options})


def test_the_package_is_imported_without_torch():
    code = (
        "import sys, nnunetv2_clip\n"
        "assert nnunetv2_clip.__version__ == sys.argv[1] and nnunetv2_clip.UserError\n"
        "assert not {'torch', 'numpy', 'nnunetv2'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, __version__], check=True)
    with pytest.raises(ImportError):
        from nnunetv2_clip import load_models  # noqa: F401


def test_the_version_is_printed_without_torch():
    code = (
        "import sys; from nnunetv2_clip.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'numpy', 'nnunetv2'} & {*sys.modules}"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == f"nnunetv2_clip {__version__}"


def test_one_class_and_one_fold_need_no_list(model):
    loaded = load_model(model, "cpu", folds=0, classes="liver", probabilities="spleen")
    assert (loaded.classes, loaded.probabilities, loaded.folds) == (("liver",), ("spleen",), ("0",))
    with pytest.raises(UserError, match="in fold 3"):
        load_model(model, "cpu", folds=3)
