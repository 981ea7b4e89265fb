"""The Python face: `load_model(...).predict(image)` says what `nnunetv2_clip predict` says."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_clip import UserError, __version__, load_model
from nnunetv2_clip.inference import loaded_model
from nnunetv2_clip.inference.postprocessing import Rule
from nnunetv2_clip.trained_model import TrainedModel
from tests.inference.conftest import CLASSES, make_ct, make_model, reoriented, save_ct
from tests.inference.test_bad_input import write_series, zipped
from tests.inference.test_predict import LEARNT, predict, voxels

pytestmark = pytest.mark.filterwarnings("ignore:.*looks turned")  # the blobs of `make_ct`


@pytest.fixture(scope="module")
def loaded(model):
    return load_model(model, "cpu")


def same(first, second) -> bool:
    return (
        tuple(first) == tuple(second)
        and np.array_equal(first.label_map, second.label_map)
        and all(np.array_equal(first[name], second[name]) for name in first)
    )


def require_voxels_of_the_command(found, output: Path, case: str = "ct") -> None:
    painted = nib.load(output / f"{case}.nii.gz")
    assert np.array_equal(found.label_map, painted.dataobj) and found.label_map.any()
    assert np.allclose(found.affine, painted.affine, atol=1e-4)
    assert tuple(found) == LEARNT
    for name in LEARNT:
        assert found[name].dtype == bool
        assert np.array_equal(found[name], voxels(output / case / f"{name}.nii.gz").astype(bool))


def itk_of(data: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """As SimpleITK sees (X, Y, Z) with an affine of nibabel: z y x in numpy, positions to the left and back."""
    image, axes = sitk.GetImageFromArray(data.T), np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(axes[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(axes[:, 3].tolist())
    image.SetDirection((axes[:, :3] / spacing).ravel().tolist())
    return image


def test_compiled_networks_give_the_same_voxels_and_one_graph_for_all_folds_and_choices(tmp_path, ct, compiled):
    folder = make_model(tmp_path, folds=(0, 1), untrained=("kidney_tumor",))
    fast = load_model(folder, "cpu")
    found = [fast.predict(ct, classes) for classes in (None, "spleen")]
    assert compiled.frame_count == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_compile", "f")
        plain = load_model(folder, "cpu")
    for ours, classes in zip(found, (None, "spleen"), strict=True):
        assert same(ours, plain.predict(ct, classes)) and any(ours[name].any() for name in ours)
    assert compiled.frame_count == 1


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL"])
def test_every_kind_of_image_gets_the_voxels_of_the_command(tmp_path, loaded, model, ct, codes):
    path = reoriented(tmp_path / "ct.nii.gz", ct, codes)
    assert predict(path, tmp_path / "out", model, "--outputs", "labels", "masks") == 0
    file = nib.load(path)
    data, affine = np.asanyarray(file.dataobj), file.affine
    sitk.WriteImage(itk_of(data, affine), str(tmp_path / "ct.nrrd"))
    kinds = {
        "file": str(path),
        "NRRD": tmp_path / "ct.nrrd",
        "nibabel, not read yet": file,
        "nibabel in memory": nib.Nifti1Image(data, affine),
        "another format of nibabel": nib.MGHImage(data, affine),
        "SimpleITK": sitk.ReadImage(str(path)),
        "SimpleITK from an array": itk_of(data, affine),
        "array": (data, affine),
        "double precision": (file.get_fdata(), affine.tolist()),
        "torch": (torch.from_numpy(data), torch.from_numpy(affine)),
        "torch with a gradient": [torch.from_numpy(data.astype(np.float32)).requires_grad_(), affine],
    }
    for kind, image in kinds.items():
        found = loaded.predict(image)
        assert found.ct.shape == data.shape, kind
        require_voxels_of_the_command(found, tmp_path / "out")


def test_a_dicom_series_gets_the_voxels_of_the_command(tmp_path, loaded, model):
    data = make_ct((20, 22, 12))
    folder = write_series(tmp_path / "ct", data, SeriesNumber=4)
    assert predict(folder, tmp_path / "out", model, "--outputs", "labels", "masks") == 0
    found = loaded.predict(str(folder))
    require_voxels_of_the_command(found, tmp_path / "out")
    assert np.array_equal(found.ct, data) and same(found, loaded.predict((data, np.diag([-2.0, -2, 5, 1]))))
    assert same(found, loaded.predict(folder, series=4))


def test_one_model_predicts_many_images_and_choices(tmp_path, loaded, ct):
    everything = loaded.predict(ct)
    assert loaded.classes == LEARNT == tuple(everything) and loaded.never_learnt == ("kidney_tumor",)
    for names in (["Liver Tumour", "liver"], "spleen", ("right kidney",)):
        found = loaded.predict(ct, names)
        assert len(found) == (2 if isinstance(names, list) else 1)
        assert all(np.array_equal(found[name], everything[name]) for name in found)
    assert same(everything, loaded.predict(ct))
    assert "liver" in everything and "pancreas" not in everything and everything.get("pancreas") is None
    with pytest.raises(KeyError, match="Did you mean 'liver'"):
        everything["livr"]


def test_a_zip_predicts_like_its_folder(tmp_path, loaded, model, ct):
    assert same(load_model(zipped(model, tmp_path / "m.zip"), "cpu", folds=[0]).predict(ct), loaded.predict(ct))


def test_threads_share_a_model(loaded):
    images = [(make_ct((20, 22, 12), seed), AFFINE) for seed in range(4)]
    choices = [None, ["liver"], ["spleen", "liver"], ["right_kidney"]]
    expected = [loaded.predict(image, names) for image, names in zip(images, choices, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(same, expected, pool.map(loaded.predict, images, choices)))


def test_another_device_gets_weights_of_its_own_and_keeps_them(model, ct, monkeypatch):
    loaded = load_model(model, "cpu")
    expected = loaded.predict(ct)
    assert same(expected, loaded.predict(ct, device="cpu"))
    monkeypatch.setattr(loaded_model, "find_device", torch.device)
    assert same(expected, loaded.predict(ct, device="cpu:0"))
    monkeypatch.setattr(loaded_model, "CasePredictor", None)
    assert same(expected, loaded.predict(ct, device="cpu:0"))
    assert same(expected, loaded.predict(ct))


def test_rules_are_applied_on_request(tmp_path, ct):
    model = make_model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    plans["nnunetv2_clip"]["postprocessing"] = {"rules": {"liver": Rule(threshold=0.3).to_json()}}
    (model / "plans.json").write_text(json.dumps(plans))
    loaded = load_model(model, "cpu")
    found = loaded.predict(ct, "liver", postprocess=True, probabilities="liver")
    likely = found.probabilities("liver")["liver"] > 0.3
    assert np.count_nonzero(found["liver"] != likely) <= 1e-3 * likely.size
    assert loaded.predict(ct, "liver")["liver"].sum() < found["liver"].sum()


def test_probabilities_that_were_not_kept_are_made_later(loaded, ct, monkeypatch):
    kept = loaded.predict(ct, "liver", probabilities=["spleen"])
    later = loaded.predict(ct, "liver").probabilities(["Spleen", "liver"])
    both = kept.probabilities(["liver", "spleen"])
    assert list(both) == ["liver", "spleen"] and np.array_equal(both["liver"], later["liver"])
    monkeypatch.setattr(loaded, "_run", None)
    [(name, found)] = kept.probabilities("spleen").items()
    assert name == "spleen" and found.dtype == np.float32 and found.shape == make_ct().shape
    assert list(later) == ["spleen", "liver"] and np.array_equal(later["spleen"], found)
    assert 0 <= found.min() < 0.5 < found.max() <= 1
    with pytest.raises(UserError, match="Did you mean 'spleen'"):
        kept.probabilities("spleeen")


KINDS = ("labels", "masks", "statistics", "preview", "ct")


@pytest.mark.parametrize("kind", ["file", "nibabel", "series"])
def test_saved_files_are_those_of_the_command(tmp_path, loaded, model, ct, kind):
    path = write_series(tmp_path / "case", make_ct((20, 22, 12))) if kind == "series" else ct
    options = ("--outputs", *KINDS, "--probabilities", "liver")
    assert predict(path, tmp_path / "out", model, *options) == 0
    found = loaded.predict(nib.load(path) if kind == "nibabel" else path)
    saved = found.save(tmp_path / "saved", KINDS, probabilities="liver")
    files = {file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*") if file.is_file()}
    files.remove(Path("prediction.json"))
    assert {file.relative_to(tmp_path / "saved") for file in saved} <= files
    for file in files:
        assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), file
    assert [row["class"] for row in found.statistics()] == list(found)
    assert found.statistics() == json.loads((tmp_path / "out" / "statistics.json").read_text())


def test_results_of_one_model_share_a_folder(tmp_path, ct):
    loaded = load_model(make_model(tmp_path), "cpu")
    for name in ("a", "b", "a"):
        loaded.predict(ct).save(tmp_path / "out", ["statistics", "msd"], name=name)
    assert (tmp_path / "out" / "Task03_Liver" / "b.nii.gz").is_file()
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert len(rows) == 2 * len(CLASSES) and {row["case"] for row in rows} == {"a", "b"}


def test_nothing_but_earlier_results_is_replaced(tmp_path, loaded, model, ct):
    found = loaded.predict(nib.load(ct))
    image = save_ct(tmp_path / "own" / "ct.nii.gz")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dataset.json").write_text("{}")
    assert predict(ct, tmp_path / "command", model) == 0
    found.save(tmp_path / "liver")
    for words, refused in {
        "would be replaced": lambda: loaded.predict(image).save(image.parent),
        "ct.nii.gz, which would be replaced": lambda: loaded.predict(nib.load(image)).save(image.parent),
        "dataset.json of something else": lambda: found.save(tmp_path / "raw"),
        "same model and classes": lambda: loaded.predict(ct, "liver").save(tmp_path / "liver"),
        "belongs to 'nnunetv2_clip predict'": lambda: found.save(tmp_path / "command"),
        "is a file": lambda: found.save(image),
        "is '../x'": lambda: found.save(tmp_path / "new", name="../x"),
        "Did you mean 'labels'": lambda: found.save(tmp_path / "new", "label"),
        "Task03_Liver: liver, liver_tumor": lambda: loaded.predict(ct, "liver").save(tmp_path / "new", "msd"),
        "unknown class 'livr'": lambda: found.save(tmp_path / "new", probabilities=["livr"]),
    }.items():
        with pytest.raises(UserError, match=words):
            refused()
    assert list(image.parent.iterdir()) == [image] and not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["dataset.json"]


def test_masks_come_as_the_kind_of_image_that_was_given(tmp_path, loaded, ct):
    path = reoriented(tmp_path / "ct.nii.gz", ct, "LPI")
    image = sitk.ReadImage(str(path))
    found = loaded.predict(image)
    for name, data in {"liver": found["liver"], None: found.label_map}.items():
        mask = found.as_image(name)
        assert isinstance(mask, sitk.Image) and mask.GetSize() == image.GetSize() == data.shape
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, what)() == getattr(image, what)()
        assert np.array_equal(sitk.GetArrayFromImage(mask), data.T)
    x, y, z = np.argwhere(found["liver"])[0].tolist()
    assert found.as_image("liver")[x, y, z] == 1
    for other in (path, nib.load(path), (found.ct, found.affine)):
        mask = loaded.predict(other).as_image("liver")
        assert isinstance(mask, nib.Nifti1Image) and np.allclose(mask.affine, found.affine)
        assert np.array_equal(mask.dataobj, found["liver"])


def test_a_result_says_what_it_is(loaded, ct):
    found = loaded.predict(ct, ["liver", "spleen"])
    assert repr(found) == f"<Segmentation of {ct}: 2 classes, 28 x 30 x 20 voxels>"
    assert "Dataset900_Universal/CLIPUniversalTrainer__nnUNetPlans__3d_fullres: 4 classes, fold 0" in repr(loaded)
    values = found.label_values
    assert np.array_equal(found.label_map == values["spleen"], found["spleen"] & (found.label_map != values["liver"]))


AFFINE = np.diag([2.0, 2, 5, 1])
GOOD = make_ct((20, 22, 12))
WITH_NAN = np.where(GOOD.max() == GOOD, np.nan, GOOD)
NO_POSITION = sitk.GetImageFromArray(GOOD.T)
BAD_SCANS = {
    "no array": (GOOD.tolist(), "Expected: a path, an image of nibabel or SimpleITK, or a pair"),
    "an array alone": (GOOD, "array: has no affine.*Remedy: give predict"),
    "a tensor alone": (torch.from_numpy(GOOD), "array: has no affine"),
    "ragged lists": (([[1, 2], [3]], AFFINE), "numbers|shape"),
    "one slice without axis": ((GOOD[..., 0], AFFINE), r"has 2 axes, shape \(20, 22\)"),
    "channels": ((GOOD[None], AFFINE), r"has 4 axes, shape \(1, 20, 22, 12\).*Remedy: .*array\[0\]"),
    "times": ((GOOD[..., None], AFFINE), r"has 4 axes, shape \(20, 22, 12, 1\).*Remedy: .*\[..., 0\]"),
    "a batch": ((torch.from_numpy(GOOD[None, None]), AFFINE), r"has 5 axes.*array\[0, 0\]"),
    "a single slice": ((GOOD[..., :1], AFFINE), "single slice"),
    "no voxels": ((GOOD[:0], AFFINE), r"of shape \(0, 22, 12\)"),
    "text": ((GOOD.astype(str), AFFINE), "Hounsfield"),
    "colours": ((GOOD.astype(complex), AFFINE), "complex128"),
    "NaN": ((WITH_NAN, AFFINE), "1 voxels are NaN or infinite"),
    "NaN below a mask": ((np.ma.masked_invalid(WITH_NAN), AFFINE), "1 voxels are NaN or infinite"),
    "infinite": ((np.where(np.isnan(WITH_NAN), -np.inf, GOOD), AFFINE), "1 voxels are NaN or infinite"),
    "singular affine": ((GOOD, np.diag([2.0, 0, 5, 1])), "affine: is"),
    "NaN in the affine": ((GOOD, np.diag([2.0, np.nan, 5, 1])), "affine: is"),
    "a transposed affine": ((GOOD, AFFINE + np.outer((0, 0, 0, 1), (-20, -30, -40, 0))), "last row .*transposed"),
    "spacing for affine": ((GOOD, (2, 2, 5)), "invertible 4 x 4"),
    "no affine": ((GOOD, None), "affine"),
    "metres": ((GOOD, np.diag([2000.0, 2000, 5000, 1])), "2000, 2000, 5000 mm"),
    "no path": (7, "is int"),
    "two paths": (("a.nii.gz", "b.nii.gz"), "array: "),
    "a path that is not there": ("nowhere.nii.gz", "does not exist"),
    "nibabel without affine": (nib.Nifti1Image(GOOD, None), "nibabel image: has no affine.*Nifti1Image"),
    "nibabel, NaN": (nib.Nifti1Image(WITH_NAN, AFFINE), "nibabel image: 1 voxels are NaN"),
    "nibabel, four axes": (nib.Nifti1Image(np.stack([GOOD] * 2, -1), AFFINE), r"has shape \(20, 22, 12, 2\)"),
    "nibabel, complex": (nib.Nifti1Image(GOOD.astype(np.complex64), AFFINE), "voxels of type complex64"),
    "SimpleITK, NaN": (itk_of(WITH_NAN, AFFINE), "SimpleITK image: 1 voxels are NaN"),
    "SimpleITK, a slice": (NO_POSITION[:, :, 3], r"has shape \(20, 22\)"),
    "SimpleITK, colours": (sitk.Compose(NO_POSITION, NO_POSITION), "with 2 values in each voxel"),
    "SimpleITK, complex": (sitk.RealAndImaginaryToComplex(*[sitk.Cast(NO_POSITION, sitk.sitkFloat32)] * 2), "complex"),
    "SimpleITK, a map of labels": (sitk.Cast(NO_POSITION > 0, sitk.sitkLabelUInt8), "of type label of 8-bit"),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_what_is_no_scan_is_named(loaded, kind):
    scan, message = BAD_SCANS[kind]
    with pytest.raises(UserError, match=message):
        loaded.predict(scan)


def test_a_truncated_file_that_nibabel_has_opened_is_named(tmp_path, loaded):
    path = save_ct(tmp_path / "ct.nii")
    image = nib.load(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{path}: is truncated or damaged"):
        loaded.predict(image)


def test_a_folder_of_several_cases_is_refused(tmp_path, loaded):
    for name in "ab":
        save_ct(tmp_path / f"{name}.nii.gz")
    with pytest.raises(UserError, match="holds 2 cases"):
        loaded.predict(tmp_path)


def no_header_codes() -> nib.Nifti1Image:
    image = nib.Nifti1Image(GOOD, AFFINE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ((np.maximum(np.arange(216).reshape(6, 6, 6) * 8 - 800, 0), AFFINE), "MR"),
        (NO_POSITION, "SimpleITK image: .*without CopyInformation"),
        (no_header_codes(), "sform and qform codes 0"),
    ],
    ids=["not Hounsfield", "SimpleITK from an array", "nibabel without codes"],
)
def test_what_looks_wrong_is_warned_of(loaded, image, words):
    with pytest.warns(UserWarning, match=words) as said:
        found = loaded.predict(image)
    assert [str(one.message).partition(": ")[2] for one in said] == list(found.warnings)
    assert all(one.filename == __file__ for one in said)


def test_a_class_that_was_asked_for_and_never_learnt_is_warned_of(tmp_path, loaded, ct):
    with pytest.warns(UserWarning, match="never learnt kidney_tumor: left out"):
        assert list(loaded.predict(ct, ["kidney_tumor", "liver"])) == ["liver"]
    with pytest.warns(UserWarning, match="never learnt kidney_tumor: left out"):
        found = loaded.predict(ct, probabilities=["kidney_tumor", "liver"])
        assert not [text for text in loaded.predict(ct).warnings if "never learnt" in text]
    assert list(found) == list(LEARNT)
    for ask in (found.probabilities, lambda name: found.save(tmp_path / "out", probabilities=["liver", name])):
        with pytest.raises(UserError, match="never learnt kidney_tumor"):
            ask("kidney_tumor")
    assert not (tmp_path / "out").exists()


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
        ({"folds": 3}, "in fold 3"),
        ({"checkpoint": "checkpoint_best.pth"}, "-chk checkpoint_final.pth"),
        ({"step_size": 0}, "-step_size"),
    ],
)
def test_what_the_model_lacks_is_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        load_model(TrainedModel.open(model), **{"device": "cpu", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "-device cuda:99"),
        ({"classes": ["livr"]}, "unknown class 'livr'. Did you mean 'liver'"),
        ({"classes": [1]}, "unknown class '1'"),
        ({"classes": ["pancreas"]}, "does not know pancreas"),
        ({"classes": []}, "classes: no class is asked for"),
        ({"classes": ["kidney_tumor"], "probabilities": ["liver"]}, "never learnt kidney_tumor"),
        ({"probabilities": ["livr"]}, "Did you mean 'liver'"),
        ({"postprocess": True}, "no post-processing rules"),
    ],
)
def test_what_cannot_be_asked_is_refused(loaded, ct, options, message):
    with pytest.raises(UserError, match=message):
        loaded.predict(ct, **options)


def test_a_model_that_has_learnt_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="has learnt no class"):
        load_model(make_model(tmp_path, untrained=CLASSES), "cpu")


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
