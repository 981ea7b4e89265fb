"""`nnunetv2_clip import-weights`: a model folder like others; what is wrong with a file is said, nothing written."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.trained_model import TrainedModel
from tests.published import reference

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_ct" / "ct.nii.gz"


def run(file, folder, *options):
    return main(["import-weights", str(file), "-o", str(folder), "--licence-read", *options])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("download") / "clip_driven_universal_unet.pth"
    torch.save(reference.checkpoint(reference.in_layout(reference.random_unet(), True, True)), path)
    return path


@pytest.fixture(scope="module")
def model(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "universal"
    assert run(file, folder) == 0
    return folder


@pytest.fixture(scope="module")
def small(model):
    """The model for a test on a CPU: patches of 32 voxels of 6 mm. It has no other size of its own."""
    plans = json.loads((model / "plans.json").read_text())
    original = json.dumps(plans)
    plans["configurations"]["3d_fullres"] |= {"patch_size": [32] * 3, "spacing": [6.0] * 3}
    (model / "plans.json").write_text(json.dumps(plans))
    yield model
    (model / "plans.json").write_text(original)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A part of a real CT of 42 x 36 x 30 voxels after resampling: two positions of a patch along two axes."""
    if not REAL_CT.is_file():
        pytest.skip("the real CT (shared/data/real_ct) is not here")
    folder = tmp_path_factory.mktemp("images")
    whole = nib.load(REAL_CT)
    nib.save(whole.slicer[20:104, 15:87], folder / "case_0000.nii.gz")
    return folder


def test_the_licence_is_shown_and_has_to_be_confirmed(file, tmp_path, capsys):
    assert main(["import-weights", str(file), "-o", str(tmp_path / "model")]) == 2
    said = capsys.readouterr()
    assert "CC BY-NC-ND 4.0" in said.out and "--licence-read" in said.err
    assert not (tmp_path / "model").exists()


def test_the_plans_say_what_the_authors_did(model):
    trained = TrainedModel.open(model)
    settings = trained.settings
    assert (settings["patch_size"], settings["spacing"]) == ([96] * 3, [1.5] * 3)
    assert trained.plans["transpose_forward"] == trained.plans["transpose_backward"] == [2, 1, 0]
    window = trained.plans["foreground_intensity_properties_per_channel"]["0"]
    assert window == {"percentile_00_5": -175, "percentile_99_5": 250, "mean": -175, "std": 425}
    assert trained.entry["window"] == {"floor": 1e-3, "positions": "steps"}
    kept = {trained.taxonomy.find(name).index for name in trained.rules["rules"]}
    assert kept == {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 18, 19, 20, 21, 22, 23, 24, 25}
    assert all(rule == {"largest_components": 1} for rule in trained.rules["rules"].values())
    names = ("data", "seg", "probabilities")
    assert {settings[f"resampling_fn_{name}"] for name in names} == {"resample_torch_fornnunet"}
    assert not any(settings[f"resampling_fn_{name}_kwargs"]["force_separate_z"] for name in names)
    assert trained.entry["licence"].startswith("CC BY-NC-ND") and trained.entry["redistribution"] is False


def test_an_image_reaches_the_network_in_the_axes_and_values_of_the_authors(model, tmp_path):
    """x to the right, y to the front, z up; -175 to 250 HU as 0 to 1. Voxels of 1.5 mm are not resampled."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    right_front_up = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)
    stored = right_front_up[::-1, ::-1].transpose(2, 0, 1)  # up, to the left, to the back
    affine = np.array([[0, -1.5, 0, 12.0], [0, 0, -1.5, 10.5], [1.5, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), affine), tmp_path / "ct_0000.nii.gz")
    manager = PlansManager(json.loads((model / "plans.json").read_text()))
    settings = manager.get_configuration("3d_fullres")
    dataset_json = json.loads((model / "dataset.json").read_text())
    assert dataset_json["overwrite_image_reader_writer"] == manager.image_reader_writer_class.__name__
    preprocessor = settings.preprocessor_class(verbose=False)
    data, *_ = preprocessor.run_case([str(tmp_path / "ct_0000.nii.gz")], None, manager, settings, dataset_json)
    expected = (np.clip(right_front_up, -175, 250) + 175) / 425
    assert np.allclose(data[0], expected, atol=1e-6)


def test_the_classes_are_the_papers_in_painting_order(model):
    trained = TrainedModel.open(model)
    assert trained.classes == tuple(row.name for row in UNIVERSAL.painting_order())
    assert trained.painted_values["liver"] == 6 and trained.painted_values["kidney_cyst"] == 32
    checkpoint = torch.load(model / "fold_all" / "checkpoint_final.pth")
    assert (checkpoint["trainer_name"], checkpoint["inference_allowed_mirroring_axes"]) == ("nnUNetTrainer", None)
    found = checkpoint["network_weights"]["class_embedding.seg_layers.text_embedding"] * 512**0.5
    expected = reference.random_unet()["organ_embedding"]
    assert torch.allclose(found[trained.classes.index("liver")], expected[5])


def test_info_tells_what_it_is(model, capsys):
    assert main(["info", "-m", str(model)]) == 0
    said = capsys.readouterr().out
    assert "PublishedUNet" in said and "of the published weights" in said and "CC BY-NC-ND 4.0" in said


@pytest.mark.slow
def test_stock_nnunet_and_predict_run_on_a_real_ct(small, images, tmp_path, monkeypatch):
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

    words = ["x", "-i", images, "-o", tmp_path / "stock", "-m", small, "-f", "all", "-device", "cpu", "-npp", "1"]
    monkeypatch.setattr("sys.argv", [*map(str, words), "-nps", "1", "--disable_progress_bar"])
    predict_entry_point_modelfolder()
    ours = ["predict", "-m", str(small), "-device", "cpu"]
    assert main([*ours, "-i", str(images / "case_0000.nii.gz"), "-o", str(tmp_path / "reference")]) == 0
    plans = json.loads((small / "plans.json").read_text())
    del plans["nnunetv2_clip"]["window"]  # so that predict places and blends patches as nnU-Net does
    (small / "plans.json").write_text(json.dumps(plans))
    assert main([*ours, "-i", str(images / "case_0000.nii.gz"), "-o", str(tmp_path / "own")]) == 0
    stock, own, as_authors = (
        np.asarray(nib.load(next((tmp_path / name).glob("case*.nii.gz"))).dataobj)
        for name in ("stock", "own", "reference")
    )
    assert stock.shape == own.shape == (84, 72, 30)
    assert len(np.unique(stock)) > 3
    assert (stock != own).mean() < 0.01
    assert 0 < (own != as_authors).mean() < 0.2


def test_another_number_of_classes_needs_their_order(tmp_path, capsys):
    names = [row.name for row in UNIVERSAL if row.index < 26]
    path, order = tmp_path / "suprem.pth", tmp_path / "order.txt"
    torch.save(reference.checkpoint(reference.random_unet(num_classes=25)), path)
    assert run(path, tmp_path / "model") == 2
    assert "has 25 classes" in (said := capsys.readouterr().err) and "--class-order" in said
    order.write_text("\n".join(names[:-1]))
    assert run(path, tmp_path / "model", "--class-order", str(order)) == 2
    assert "names 24 classes" in capsys.readouterr().err
    order.write_text("\n".join([*names[:-1], "femur"]))
    assert run(path, tmp_path / "model", "--class-order", str(order)) == 2
    assert "unknown class 'femur'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    order.write_text("\n".join(["Kidney right", *reversed(names[2:]), names[0]]))
    assert run(path, tmp_path / "model", "--class-order", str(order)) == 0
    trained = TrainedModel.open(tmp_path / "model")
    assert sorted(trained.classes) == sorted(names)
    weights = torch.load(tmp_path / "model" / "fold_all" / "checkpoint_final.pth")["network_weights"]
    found = weights["class_embedding.seg_layers.text_embedding"] * 512**0.5
    expected = reference.random_unet(num_classes=25)["organ_embedding"]
    assert torch.allclose(found[trained.classes.index("right_kidney")], expected[0])
    assert torch.allclose(found[trained.classes.index("spleen")], expected[24])


class Schedule:
    """Of a module that is not here when the file is read."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"module.stem.weight": torch.zeros(1)}}, "another network: holds stem.weight"),
        ({"epoch": 1}, "another network: holds epoch"),
        ([1, 2], "another network: holds nothing"),
        ({"network_weights": {"encoder.stages.0.weight": torch.zeros(1)}}, "another network: holds network_weights"),
        ({"net": {"swinViT.patch_embed.proj.bias": torch.zeros(48)}}, "no text vectors (organ_embedding)"),
        ({"net": {"down_tr64.w": torch.zeros(1), "module.down_tr64.w": torch.zeros(1)}}, "names a tensor twice"),
        (
            {"net": {"down_tr64.w": torch.zeros(1), "organ_embedding": torch.zeros(32, 512)}},
            "tensors missing: down_tr64.ops.0.conv1.weight",
        ),
        ({"net": {"down_tr64.w": torch.zeros(1), "x": torch.zeros(1).to_sparse()}}, "holds what is no plain tensor"),
        ({"net": {"down_tr64.w": torch.zeros(1), "x": torch.zeros(1) * 1j}}, "holds what is no plain tensor"),
        ({"net": {"down_tr64.w": torch.zeros(1), "x": torch.zeros(1, device="meta")}}, "holds what is no plain tensor"),
        ({"net": {}, "scheduler": Schedule(), "epoch": 1}, "its entry 'scheduler' names tests.published"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content, message, tmp_path, capsys):
    torch.save(content, tmp_path / "file.pth")
    assert run(tmp_path / "file.pth", tmp_path / "model") == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pth"]


@pytest.mark.parametrize("kind", ["nothing", "text", "half", "hole", "folder"])
def test_a_file_that_is_no_checkpoint_is_refused(kind, file, tmp_path, capsys):
    path = tmp_path / "file.pth"
    if kind == "text":
        path.write_text("<html>sign in</html>")
    elif kind == "half":
        path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "hole":  # as a downloader leaves it that fetches parts at the same time
        content = bytearray(file.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 1000] = bytes(1000)
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    assert run(path, tmp_path / "model") == 2
    said = capsys.readouterr().err
    assert ("no checkpoint, or a damaged one" if kind in ("text", "half", "hole") else "cannot be read") in said
    assert not (tmp_path / "model").exists()


def test_without_monai_a_swin_unetr_says_what_to_install(tmp_path, monkeypatch, capsys):
    pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
    torch.save(reference.checkpoint(reference.random_swin()), tmp_path / "swin.pth")
    monkeypatch.setitem(sys.modules, "monai.networks.nets.swin_unetr", None)
    assert run(tmp_path / "swin.pth", tmp_path / "model") == 2
    assert "monai, which is not installed. Remedy: pip install 'nnunetv2_clip[swin]'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_there_stays_as_it_is(file, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    assert run(file, tmp_path / "model") == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]


def test_an_interrupted_import_leaves_nothing(file, tmp_path, monkeypatch):
    def full(content, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", full)
    assert run(file, tmp_path / "model") == 130
    assert list(tmp_path.iterdir()) == []
