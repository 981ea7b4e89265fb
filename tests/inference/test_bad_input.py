"""Bad input of `predict`: a message that names file, problem and remedy; the other cases are predicted."""

from __future__ import annotations

import gzip
import json
import math
import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunetv2_clip import load_model
from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.scans import Case, find_scans
from nnunetv2_clip.inference.inputs import read_case
from nnunetv2_clip.inference.memory import parse_size
from nnunetv2_clip.phantom.anatomy import make_phantom
from nnunetv2_clip.text.table import text_hash
from tests.inference.conftest import AFFINE, make_ct, make_model, save_ct
from tests.inference.test_predict import predict, voxels

SHAPE = (6, 6, 6)


def read(path: Path, **options):
    return read_case(Case("case", path), **options)


def save(path: Path, data: np.ndarray, affine=AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def rgb(path: Path) -> Path:
    data = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


def zero_spacing(path: Path) -> Path:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header["pixdim"][1:4] = 0
    path.write_bytes(gzip.compress(image.to_bytes()))
    return path


def with_nan(path: Path) -> Path:
    data = np.zeros(SHAPE, np.float32)
    data[1, 2, 3] = np.nan
    return save(path, data)


BAD = {
    "colours": (rgb, "voxels of type"),
    "four dimensions": (lambda path: save(path, np.zeros((*SHAPE, 2), np.int16)), r"shape \(6, 6, 6, 2\)"),
    "a single slice": (lambda path: save(path, np.zeros((6, 6, 1), np.int16)), "single slice"),
    "spacing of zero": (zero_spacing, "voxels of 0, 0, 0 mm"),
    "NaN": (with_nan, "1 voxels are NaN"),
    "metres": (lambda path: save(path, np.zeros(SHAPE, np.int16), np.diag([1000, 1000, 1000, 1])), "1000 mm"),
    "no rotation": (
        lambda path: save(
            path, np.zeros(SHAPE, np.int16), np.array([[1, 1, 0, 0], [0, 1e-6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        ),
        "almost in one plane",
    ),
    "no image": (lambda path: path.write_bytes(gzip.compress(b"word" * 200)) and path, "not a NIfTI"),
    "one value": (lambda path: save(path, np.full(SHAPE, 7, np.int16)), "all voxels have the same value"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_ct_is_named(tmp_path, kind):
    write, message = BAD[kind]
    with pytest.raises(UserError, match=message) as error:
        read(write(tmp_path / "odd.nii.gz"))
    assert "odd.nii.gz" in str(error.value) and error.value.remedy


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (np.maximum(np.arange(216).reshape(SHAPE) * 8 - 800, 0), "MR"),
        (np.arange(216).reshape(SHAPE) * 1000 - 50_000, "not Hounsfield units"),
    ],
)
def test_what_looks_unlike_a_ct_is_warned_of(tmp_path, data, warning):
    assert warning in read(save(tmp_path / "mr.nii.gz", data.astype(np.int32))).warnings[0]


def test_a_ct_gets_no_warning(tmp_path):
    patient = make_phantom(0, (8.0, 8.0, 10.0))
    assert read(save(tmp_path / "ct.nii.gz", patient.image, patient.affine)).warnings == ()


def test_a_volume_beyond_the_budget_is_refused_before_it_is_read(ct, monkeypatch):
    from nnunetv2_clip.imaging import scans

    monkeypatch.setattr(scans, "read_image", lambda path: pytest.fail("was read"))

    def refuse(where, shape):
        raise UserError(where, f"{shape} does not fit", "less")

    with pytest.raises(UserError, match="does not fit"):
        read(ct, check_size=refuse)


def test_a_budget_that_reading_exceeds_names_the_smallest_one(tmp_path, model, ct, capsys):
    assert predict(ct, tmp_path / "out", model, "--max-ram", "1MB") == 3
    assert "reading and resampling its voxels" in (text := capsys.readouterr().err)
    assert "at least" in text


def test_cases_are_found_with_and_without_channel_number(tmp_path):
    for name in ("b_0000.nii.gz", "a.nii", "._a.nii.gz", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [case.name for case in find_scans(tmp_path).cases] == ["a", "b"]
    assert [case.name for case in find_scans(tmp_path / "b_0000.nii.gz").cases] == ["b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.nii.gz", "a_0000.nii.gz"), "same case"),
        (("a_0000.nii.gz", "a_0001.nii.gz"), "second channel"),
        ((), "neither NIfTI files nor DICOM"),
    ],
)
def test_ambiguous_or_empty_folders_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        find_scans(tmp_path)


def write_series(folder: Path, data: np.ndarray, uid: str = "1.2.3", skip: int = -1, **elements: str) -> Path:
    """Axial slices of 2 mm pixels, 5 mm apart; with no more `elements` than a reader needs."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for z in range(data.shape[2]):
        if z == skip:
            continue
        row = pydicom.Dataset()
        row.file_meta = FileMetaDataset()
        row.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        row.file_meta.MediaStorageSOPClassUID = row.SOPClassUID = CTImageStorage
        row.file_meta.MediaStorageSOPInstanceUID = row.SOPInstanceUID = f"{uid}.{z + 1}"
        row.Modality, row.SeriesInstanceUID = "CT", uid
        row.Rows, row.Columns, row.PixelSpacing = data.shape[1], data.shape[0], [2, 2]
        row.ImagePositionPatient, row.ImageOrientationPatient = [0, 0, 5 * z], [1, 0, 0, 0, 1, 0]
        row.BitsAllocated = row.BitsStored = 16
        row.HighBit, row.PixelRepresentation, row.SamplesPerPixel = 15, 1, 1
        row.PhotometricInterpretation, row.RescaleSlope, row.RescaleIntercept = "MONOCHROME2", 1, 0
        for name, value in elements.items():
            setattr(row, name, value)
        row.PixelData = data[:, :, z].T.astype("<i2").tobytes()
        row.save_as(folder / f"{uid}_{z:03d}.dcm", enforce_file_format=True)
    return folder


def test_a_broken_series_stops_no_other(tmp_path, model, capsys):
    data = make_ct((20, 22, 12))
    write_series(tmp_path / "in" / "good", data)
    write_series(tmp_path / "in" / "gap", data, skip=5)
    write_series(write_series(tmp_path / "in" / "two", data), data, uid="1.2.4")
    cut = sorted(write_series(tmp_path / "in" / "cut", data).iterdir())[3]
    cut.write_bytes(cut.read_bytes()[:700])
    assert predict(tmp_path / "in", tmp_path / "out", model) == 3
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]
    errors = capsys.readouterr().err
    for text in ("a slice is missing", "holds 2 series of CT", cut.name):
        assert text in errors
    lps = np.diag([-1, -1, 1, 1]) @ np.diag([2, 2, 5, 1])
    assert np.allclose(nib.load(tmp_path / "out" / "good.nii.gz").affine, lps)


def test_a_series_and_its_nifti_copy_get_the_same_mask(tmp_path, model):
    data = make_ct((20, 22, 12))
    write_series(tmp_path / "series", data)
    save_ct(tmp_path / "copy.nii.gz", data, np.diag([-2.0, -2, 5, 1]))
    for source in ("series", "copy.nii.gz"):
        assert predict(tmp_path / source, tmp_path / "out", model) == 0
    assert (voxels(tmp_path / "out" / "series.nii.gz") == voxels(tmp_path / "out" / "copy.nii.gz")).all()


def test_every_kind_of_input_is_predicted_with_its_ct_and_the_rest_is_named(tmp_path, model, capsys):
    import SimpleITK as sitk

    from nnunetv2_clip.cli import main

    data, source = make_ct((20, 22, 12)), tmp_path / "in"
    write_series(source / "patient", data)
    save_ct(source / "a.NII.GZ.nii.gz", data, np.diag([-2.0, -2, 5, 1])).rename(source / "a.NII.GZ")
    sitk.WriteImage(sitk.ReadImage(str(source / "a.NII.GZ"), imageIO="NiftiImageIO"), str(source / "b.nrrd"))
    (source / "notes.txt").write_text("x")
    assert predict(source, tmp_path / "out", model, "--outputs", "labels", "ct") == 0
    assert "notes.txt" in capsys.readouterr().err
    assert "notes.txt" in json.loads((tmp_path / "out" / "prediction.json").read_text())["left_out"][0]
    for name in ("a", "b", "patient"):
        label, image = (nib.load(tmp_path / "out" / path) for path in (f"{name}.nii.gz", f"{name}/ct.nii.gz"))
        assert np.array_equal(np.asarray(image.dataobj), data) and np.array_equal(image.affine, label.affine)
        assert (voxels(tmp_path / "out" / f"{name}.nii.gz") == voxels(tmp_path / "out" / "a.nii.gz")).all()
    page = tmp_path / "page.html"
    assert main(["report", "-i", str(source), "-pred", str(tmp_path / "out"), "-o", str(page), "-np", "1"]) in (0, None)
    assert "patient" in page.read_text()


def test_a_series_is_chosen_by_name_and_what_is_left_out_is_recorded(tmp_path, model, capsys):
    data = make_ct((20, 22, 12))
    write_series(write_series(tmp_path / "in", data), data, uid="1.2.4")
    assert predict(tmp_path / "in", tmp_path / "out", model) == 3
    assert "--series" in capsys.readouterr().err
    assert predict(tmp_path / "in", tmp_path / "out", model, "--series", "1.2.4") == 0
    notes = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["in"]["notes"]
    assert any(note.startswith("left out series") and "(1.2.3)" in note for note in notes)
    assert load_model(model, "cpu").predict(tmp_path / "in", series="1.2.3").label_map.shape == data.shape


def test_a_model_without_plans_is_refused(tmp_path, ct, capsys):
    (tmp_path / "model").mkdir()
    assert predict(ct, tmp_path / "out", tmp_path / "model") == 2
    assert "plans.json" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(tmp_path, ct, capsys):
    from tests.inference.conftest import make_model

    model = make_model(tmp_path)
    weights = model / "fold_0" / "checkpoint_final.pth"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert predict(ct, tmp_path / "out", model) == 2
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda plans, labels, weights: plans.update(configurations=[]),
        lambda plans, labels, weights: plans.update(foreground_intensity_properties_per_channel={}),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(spacing=[0, 1, 1]),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(normalization_schemes=[]),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(patch_size=[0, 0, 0]),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(patch_size=[15, 23, 23]),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(patch_size=[16, 24]),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(patch_size="big"),
        lambda plans, labels, weights: plans["configurations"]["3d_fullres"].update(patch_size=[1000000] * 3),
        lambda plans, labels, weights: plans.update(transpose_backward=[0, 0, 0]),
        lambda plans, labels, weights: plans["foreground_intensity_properties_per_channel"]["0"].update(mean=math.nan),
        lambda plans, labels, weights: labels.update(labels=[1]),
        lambda plans, labels, weights: labels.pop("regions_class_order"),
        lambda plans, labels, weights: labels.update(labels=dict(reversed(labels["labels"].items()))),
        lambda plans, labels, weights: weights.pop("network_weights"),
        lambda plans, labels, weights: weights.update(network_weights=[]),
        lambda plans, labels, weights: weights["network_weights"].popitem(),
    ],
)
def test_damaged_tables_and_weights_of_a_model_are_refused(tmp_path, ct, capsys, damage):
    import torch

    from tests.inference.conftest import make_model

    model = make_model(tmp_path)
    files = [model / name for name in ("plans.json", "dataset.json")]
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    tables, weights = [json.loads(file.read_text()) for file in files], torch.load(checkpoint, weights_only=False)
    damage(*tables, weights)
    for file, table in zip(files, tables, strict=True):
        file.write_text(json.dumps(table))
    torch.save(weights, checkpoint)
    assert predict(ct, tmp_path / "out", model) == 2
    assert str(model) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_window_is_refused(tmp_path, ct, capsys):
    model = make_model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    plans["nnunetv2_clip"]["window"] = {"floor": 2}
    (model / "plans.json").write_text(json.dumps(plans))
    assert predict(ct, tmp_path / "out", model) == 2
    assert "window, floor" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def with_class(model: Path, key: str, name: str) -> None:
    plans = json.loads((model / "plans.json").read_text())
    entry = plans["configurations"]["3d_fullres"]["architecture"]
    (entry if key in entry else entry["arch_kwargs"])[key] = name
    (model / "plans.json").write_text(json.dumps(plans))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("network_class_name", "subprocess.Popen"),
        ("network_class_name", "nnunetv2_clip.files.shutil.rmtree"),
        ("backbone_class", "torch.nn.Linear"),
        ("conv_op", "os.system"),
        ("norm_op", "torch.nn.functional.torch.hub.load"),
        ("nonlin", "torch.nnx.LeakyReLU"),
    ],
)
def test_code_that_plans_name_is_refused(tmp_path, ct, capsys, key, name):
    model = make_model(tmp_path)
    with_class(model, key, name)
    assert predict(ct, tmp_path / "out", model) == 2
    assert f"plans.json: names the class {name!r} to be built" in capsys.readouterr().err
    for source in (model, zipped(model, tmp_path / "model.zip")):
        with pytest.raises(UserError, match="to be built"):
            load_model(source, "cpu")
    assert main(["info", "-m", str(model)]) == 2
    assert not (tmp_path / "out").exists()


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, ct, capsys, monkeypatch):
    from nnunetv2_clip.training.pretrained import read_checkpoint

    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path)
    path = model / "fold_0" / "checkpoint_final.pth"
    good = {**torch.load(path), "_best_ema": np.float64(0.5), "logging": {"epochs": [np.float32(1), 2.0]}}
    torch.save(good, path)
    assert read_checkpoint(path)["_best_ema"] == 0.5
    assert predict(ct, tmp_path / "good", model) == 0
    torch.save({**good, "more": Evil()}, path)
    assert predict(ct, tmp_path / "out", model) == 2
    assert f"{model}: names posix.system, which is code" in capsys.readouterr().err
    with pytest.raises(UserError, match="names posix.system, which is code"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path, model, ct, capsys):
    (tmp_path / "file").write_text("")
    assert predict(ct, tmp_path / "file" / "out", model) == 2
    assert "cannot be made" in capsys.readouterr().err


def zipped(model: Path, path: Path, extra: str | None = None) -> Path:
    """As nnUNetv2_export_model_to_zip lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(model.rglob("*")):
            if file.is_file():
                archive.write(file, Path("Dataset900_Universal") / model.name / file.relative_to(model))
        if extra:
            archive.writestr(extra, b"evil")
    return path


def test_a_zip_predicts_like_its_folder(tmp_path, model, ct):
    assert predict(ct, tmp_path / "folder", model) == 0
    assert predict(ct, tmp_path / "zip", zipped(model, tmp_path / "model.zip")) == 0
    assert (voxels(tmp_path / "folder" / "case.nii.gz") == voxels(tmp_path / "zip" / "case.nii.gz")).all()


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "Dataset900_Universal/../../evil.txt", "C:\\evil.txt"]
)
def test_a_zip_with_evil_paths_is_refused(tmp_path, model, ct, capsys, name):
    assert predict(ct, tmp_path / "out", zipped(model, tmp_path / "model.zip", name)) == 2
    assert "leave the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil*"))


def test_a_fold_that_a_zip_lacks_is_refused_by_the_name_of_the_zip(tmp_path, model, ct, capsys):
    archive = zipped(model, tmp_path / "model.zip")
    assert predict(ct, tmp_path / "out", archive, "-f", "3") == 2
    assert f"{archive}: has no checkpoint_final.pth in fold 3. Expected: folds out of ['0']" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["much", "0GB", "-1GB", "6 apples", "1.2.3GB"])
def test_a_budget_that_is_no_size_is_refused(size):
    with pytest.raises(UserError, match="--max-ram"):
        parse_size(size)


def test_sizes():
    assert parse_size("6GB") == 6_000_000_000
    assert parse_size("1.5") == 1_500_000_000
    assert parse_size("800 mb") == 800_000_000
    assert parse_size("1GiB") == 2**30


@pytest.mark.parametrize("more", [("-step_size", "0"), ("-num_parts", "2", "-part_id", "2"), ("-d", "900")])
def test_impossible_options_are_refused(tmp_path, model, ct, more):
    assert predict(ct, tmp_path / "out", model, *more) == 2


NUM_DAMAGED = 200


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A NIfTI file (uncompressed bytes) with one kind of damage."""
    kind = rng.integers(6)
    data = bytearray(content)
    if kind == 0:  # cut off
        return bytes(data[: rng.integers(0, len(data))])
    if kind == 1:  # any byte of the header
        for place in rng.integers(0, 352, rng.integers(1, 12)):
            data[place] = rng.integers(256)
    elif kind == 2:  # dimensions and number type
        data[40:56] = rng.integers(-3, 40, 8).astype("<i2").tobytes()
        data[70:74] = rng.choice([2, 4, 16, 64, 128, 512, 999], 2).astype("<i2").tobytes()
    elif kind == 3:  # voxel sizes and directions
        data[76:108] = rng.choice([0, -1, 1e-9, 1e9, np.nan, np.inf, 3], 8).astype("<f4").tobytes()
        data[280:328] = rng.choice([0, -1, 1e-9, 1e9, np.nan, np.inf, 3], 12).astype("<f4").tobytes()
    elif kind == 4:  # scale of the values
        data[112:120] = rng.choice([0, np.nan, np.inf, 1e30, -1], 2).astype("<f4").tobytes()
    else:  # the beginning is something else
        data[: rng.integers(4, 400)] = bytes(rng.integers(4, 400))
    return bytes(data)


def test_200_damaged_files_stop_no_good_one(tmp_path, model, capsys):
    rng = np.random.default_rng(0)
    source, folder = save_ct(tmp_path / "ct.nii", make_ct((10, 11, 9))), tmp_path / "in"
    folder.mkdir()
    content = source.read_bytes()
    for number in range(NUM_DAMAGED):
        broken = damaged(content, rng)
        if number % 3 == 0:
            (folder / f"bad{number:03d}.nii").write_bytes(broken)
        else:
            packed = bytearray(gzip.compress(broken, 1))
            if number % 3 == 2:  # damage of the compressed stream as well
                packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
            (folder / f"bad{number:03d}.nii.gz").write_bytes(packed)
    for name in ("aaa", "zzz"):
        (folder / f"{name}.nii").write_bytes(content)
    assert predict(folder, tmp_path / "out", model, "--disable_tta") == 3
    cases = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]
    refused = [entry["error"] for entry in cases.values() if "error" in entry]
    predicted = [name for name, entry in cases.items() if "error" not in entry]
    assert len(cases) == NUM_DAMAGED + 2 and {"aaa", "zzz"} <= set(predicted)
    assert all((tmp_path / "out" / f"{name}.nii.gz").is_file() for name in predicted)
    unexpected = [text for text in refused if "Remedy" not in text and "Expected" not in text]
    with capsys.disabled():
        print(f" {NUM_DAMAGED} damaged files: {len(refused)} refused, {len(predicted) - 2} still readable", end="")
    assert not unexpected
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_another_configuration_than_that_of_the_model_folder_is_refused(tmp_path, model, ct, capsys):
    assert predict(ct, tmp_path / "out", model, "-c", "2d") == 2
    assert "3d_fullres" in capsys.readouterr().err
    assert predict(ct, tmp_path / "out", zipped(model, tmp_path / "model.zip"), "-c", "2d") == 2
    assert "none of configuration 2d" in capsys.readouterr().err


def test_a_fold_whose_text_embeddings_are_not_those_of_the_plans_is_refused(tmp_path):
    folder = make_model(tmp_path)
    plans = json.loads((folder / "plans.json").read_text())
    classes = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["class_names"]
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    vectors = checkpoint["network_weights"]["class_embedding.seg_layers.text_embedding"]
    plans["nnunetv2_clip"]["text"] = {"sha256": text_hash(classes, vectors.numpy())}
    (folder / "plans.json").write_text(json.dumps(plans))
    load_model(folder, "cpu")
    vectors[0] *= -1
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="its text embeddings have the hash"):
        load_model(folder, "cpu")
