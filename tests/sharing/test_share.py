"""`share`: the files, the card and the zip of a model; the plan and the commit of an upload, and when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from nnunetv2.model_sharing import model_import

from nnunetv2_clip.cli import main
from nnunetv2_clip.evaluation.results import ANNOTATED, Evaluation, PairScore
from nnunetv2_clip.inference.loading import load_predictor
from nnunetv2_clip.sharing.package import without_optimizer_state, without_paths
from nnunetv2_clip.trained_model import TrainedModel
from nnunetv2_clip.training.pretrained import read_checkpoint
from nnunetv2_clip.training.progress_picture import PREDICTED
from tests.inference.conftest import make_ct, make_model, save_ct
from tests.inference.test_predict import predict, voxels
from tests.sharing.fake_hub import READER, TOKEN

LICENCES = {"hospital": "not stated", "lits": "CC BY-NC-ND 4.0", "word": "GPL-3.0, academic use"}
SUPERVISED = {"liver": 3, "spleen": 2, "right_kidney": 1, "kidney_tumor": 1, "liver_tumor": 2}
NAME = "CLIPUniversalTrainer__nnUNetPlans__3d_fullres"
BELOW = f"Dataset900_Universal/{NAME}"


@pytest.fixture
def model(tmp_path) -> Path:
    """Two folds with logs, an optimizer, and a validation that names files of its machine."""
    folder = make_model(tmp_path / "own", folds=(0, 1))
    entry = {"version": "0.1.0", "commit": "c" * 40, "datasets": {"lits": {"cases": 3, "supervised": SUPERVISED}}}
    change(
        folder / "plans.json", nnunetv2_clip=json.loads((folder / "plans.json").read_text())["nnunetv2_clip"] | entry
    )
    change(folder / "dataset.json", licence=LICENCES)
    for fold in (0, 1):
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        torch.save({**content, "optimizer_state": trained_optimizer().state_dict()}, path)
        (path.parent / "validation").mkdir()
        case = {"prediction_file": "/home/me/mueller_1960.nii.gz", "metrics": {"(6,)": {"Dice": 0.5 + 0.25 * fold}}}
        summary = {"class_names": {"(6,)": "liver"}, "metric_per_case": [case]}
        (path.parent / "validation" / "summary.json").write_text(json.dumps(summary))
        (path.parent / "training_log_2026.txt").write_text("/home/me")
        (path.parent / "debug.json").write_text("/home/me")
    return folder


def change(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def trained_optimizer(kind=torch.optim.SGD, **options) -> torch.optim.Optimizer:
    """After a step, so that it has running means."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}), **options)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


def share(*words: object) -> int:
    return main(["share", *map(str, words)])


def card_of(text: str) -> tuple[dict, str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_zip_is_one_of_nnunets_with_the_weights_of_the_model(tmp_path, model, monkeypatch):
    assert share("-m", model, "-o", tmp_path / "shared") == 0
    [path] = (tmp_path / "shared").glob("*.zip")
    assert sorted(file.name for file in (tmp_path / "shared").iterdir()) == [path.name, "README.md"]
    monkeypatch.setattr(model_import, "nnUNet_results", str(tmp_path / "installed"))
    model_import.install_model_from_zip_file(str(path))  # nnUNetv2_install_pretrained_model_from_zip
    installed = tmp_path / "installed" / BELOW
    files = ["README.md", "dataset.json", "plans.json"]
    files += [f"fold_{fold}/{name}" for fold in (0, 1) for name in ("checkpoint_final.pth", "validation/summary.json")]
    assert sorted(p.relative_to(installed).as_posix() for p in installed.rglob("*") if p.is_file()) == sorted(files)
    assert not any(b"/home/me" in p.read_bytes() for p in installed.rglob("*") if p.is_file())
    for fold in (0, 1):
        own, shared = (read_checkpoint(each / f"fold_{fold}" / "checkpoint_final.pth") for each in (model, installed))
        assert own["network_weights"].keys() == shared["network_weights"].keys()
        assert all(torch.equal(value, shared["network_weights"][key]) for key, value in own["network_weights"].items())
        rest = {"network_weights", "optimizer_state"}
        assert {k: v for k, v in own.items() if k not in rest} == {k: v for k, v in shared.items() if k not in rest}
    for each in (path, installed):
        assert len(load_predictor(TrainedModel.open(each), device="cpu").list_of_parameters) == 2


def test_a_shared_checkpoint_is_half_as_large_and_nnunets_loader_goes_on_with_it():
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = trained_optimizer(kind)
        shared = without_optimizer_state({"optimizer_state": optimizer.state_dict(), "current_epoch": 3})
        assert shared["current_epoch"] == 3 and shared["optimizer_state"]["state"] == {}
        fresh = trained_optimizer(kind)
        fresh.load_state_dict(shared["optimizer_state"])
        fresh.step()
        assert fresh.param_groups[0]["lr"] == 0.1
    assert without_optimizer_state({"network_weights": {}}) == {"network_weights": {}}


def test_a_summary_loses_the_names_of_files_alone():
    case = {"metrics": {"1": {"Dice": 1.0}}}
    whole = {"mean": 1, "metric_per_case": [{"reference_file": "/a", "prediction_file": "/b", **case}]}
    assert without_paths(whole) == {"mean": 1, "metric_per_case": [case]}


def test_the_card_tells_classes_data_scores_text_and_limits(tmp_path, model):
    (tmp_path / "about.md").write_text("Made by the **radiology** of Somewhere.")
    pairs = [
        PairScore("x", "btcv", "liver", ANNOTATED, {"Dice": 0.9}),
        PairScore("y", "btcv", "liver", ANNOTATED, {"Dice": 0.8}),
    ]
    Evaluation(tuple(pairs), ("liver",)).save(tmp_path / "evaluation.json")
    words = (
        "--about",
        tmp_path / "about.md",
        "--licence",
        "cc-by-nc-4.0",
        "--evaluation",
        tmp_path / "evaluation.json",
    )
    assert share("-m", model, "-o", tmp_path / "shared", *words) == 0
    front, body = card_of((tmp_path / "shared" / "README.md").read_text())
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == (
        "cc-by-nc-4.0",
        "nnunetv2_clip",
        "image-segmentation",
    )
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.625
    assert "| 6 | liver | 3 | 0.625 | 2 | 0.850 | 2 |" in body and "| 1 | spleen | 2 |  |  |  |  |" in body
    assert "Made by the **radiology** of Somewhere." in body and "Evaluation: Dice of btcv." in body
    for source, text in LICENCES.items():
        assert f"| {source} | {3 if source == 'lits' else ''} | {text} |" in body
    assert f"trained with | nnunetv2_clip 0.1.0, commit {'c' * 40} |" in body
    shared = TrainedModel.open(next((tmp_path / "shared").glob("*.zip")))
    for file, digest in shared.checksums(["0", "1"], "checkpoint_final.pth").items():
        assert f"| SHA-256 of {file} | {digest} |" in body
    assert "Not a medical device" in body and "-f 0 1" in body and "&" not in body


def test_the_card_warns_of_classes_that_were_never_learnt_are_empty_or_come_from_a_model(tmp_path, model):
    supervised = {name: count for name, count in SUPERVISED.items() if name != "spleen"}
    note(model, datasets={"lits": {"cases": 3, "supervised": supervised, "pseudo": {"liver_tumor": 1}}})
    curves = {"classes": list(SUPERVISED), PREDICTED: [[0.0 if name == "kidney_tumor" else 1.0 for name in SUPERVISED]]}
    (model / "fold_1" / "training_curves.json").write_text(json.dumps(curves))
    assert share("-m", model, "-o", tmp_path / "shared") == 0
    front, body = card_of((tmp_path / "shared" / "README.md").read_text())
    assert (front["license"], front["license_name"]) == ("other", "not-stated")
    assert "Never learnt, hence absent from every prediction: spleen." in body
    assert "Empty at the end of training, do not use: kidney_tumor." in body
    assert "predictions of another model in some cases: liver_tumor." in body


def test_the_commands_of_the_card_are_accepted(tmp_path, model):
    from tests.test_docs import commands_of, parse

    assert share("-m", model, "-o", tmp_path / "shared") == 0
    found = list(commands_of((tmp_path / "shared" / "README.md").read_text()))
    assert [parse(words[1:]).command for words in found] == ["info", "predict"]


def test_one_fold_of_a_renamed_folder_is_shared_under_nnunets_name(tmp_path, model):
    assert share("-m", model.rename(tmp_path / "mine"), "-f", 1, "-o", tmp_path / "shared") == 0
    [shared] = [TrainedModel.open(path) for path in (tmp_path / "shared").glob("*.zip")]
    assert shared.prefix == "Dataset900_Universal/nnUNetTrainer__nnUNetPlans__3d_fullres/"
    assert shared.folds() == ("1",)
    load_predictor(shared, device="cpu")


def test_info_tells_the_licences(model, capsys):
    assert main(["info", "-m", str(model)]) == 0
    said = capsys.readouterr().out
    assert all(f"{source:24} {text}" in said for source, text in LICENCES.items()) and "passed on" not in said
    forbid(model)
    assert main(["info", "-m", str(model)]) == 0
    assert "licence:    CC BY-NC-ND 4.0; not to be passed on" in capsys.readouterr().out


def forbid(model: Path) -> None:
    """As import-weights leaves a model, and a training that starts from such weights."""
    note(model, licence="CC BY-NC-ND 4.0", redistribution=False)


def note(model: Path, **terms) -> None:
    entry = json.loads((model / "plans.json").read_text())["nnunetv2_clip"]
    change(model / "plans.json", nnunetv2_clip={**entry, **terms})


# Upload


def test_without_yes_an_upload_is_a_plan(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share("-m", model, "--push", "org/organs") == 0
    shown = capsys.readouterr()
    assert "hf:org/organs (public: everybody can download it), new" in shown.out and "README.md" in shown.out
    assert f"{BELOW}/fold_1/checkpoint_final.pth" in shown.out and "Nothing was uploaded" in shown.out
    assert "lits forbids derivatives (CC BY-NC-ND 4.0)" in shown.err and "states no licence" in shown.err
    assert hub.repositories == {}


def test_what_was_uploaded_is_downloaded_by_its_name(hub, tmp_path, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share("-m", model, "--push", "org/organs", "--yes", "--private", "--licence", "cc-by-4.0") == 0
    assert "Use it with -m hf:org/organs" in capsys.readouterr().out
    assert hub.private == {"org/organs"}
    there = hub.repositories["org/organs"]
    assert {name for name in there if "/" not in name} == {"README.md"} and f"{BELOW}/README.md" not in there
    assert "-m hf:org/organs" in there["README.md"].decode()
    ct = save_ct(tmp_path / "ct.nii.gz", make_ct())
    fast = ("--disable_tta", "-f", "0", "--classes", "liver")
    assert predict(ct, tmp_path / "a", model, *fast) == 0
    assert predict(ct, tmp_path / "b", "hf:org/organs", *fast) == 0
    assert np.array_equal(voxels(tmp_path / "a" / "ct.nii.gz"), voxels(tmp_path / "b" / "ct.nii.gz"))


def test_another_upload_leaves_no_fold_of_the_last_one(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share("-m", model, "--push", "org/organs", "--yes") == 0
    hub.repositories["org/organs"]["notes.txt"] = b"of the owner"
    capsys.readouterr()
    hub.private.add("org/organs")
    assert share("-m", model, "--push", "org/organs", "--yes", "-f", 1) == 0
    said = capsys.readouterr().out
    assert "hf:org/organs (private), there already" in said and f"removed  {BELOW}/fold_0/checkpoint_final.pth" in said
    there = hub.repositories["org/organs"]
    assert "notes.txt" in there and not any("fold_0" in name for name in there)
    assert {f"{BELOW}/plans.json", f"{BELOW}/fold_1/checkpoint_final.pth"} <= there.keys()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "--push: there is no token of the hub. Expected: a token with the right to write. Remedy: hf auth login"),
        (READER, "--push: the token may read only"),
        ("hf_nonsense", "hf:org/organs: the hub refuses the token"),
    ],
)
def test_a_token_that_may_not_write_uploads_nothing(hub, model, monkeypatch, capsys, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    assert share("-m", model, "--push", "org/organs", "--yes") == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Uploaded" not in shown.out and hub.repositories == {}


def test_a_licence_that_the_hub_does_not_know_is_found_before_anything_is_made(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share("-m", model, "--push", "org/organs", "--yes", "--licence", "mine") == 2
    error = capsys.readouterr().err
    assert "does not take the model card" in error and "must be one of" in error and "check --licence" in error
    assert hub.repositories == {}


def test_without_a_connection_nothing_is_uploaded(hub, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert share("-m", model, "--push", "org/organs", "--yes") == 2
    assert "HF_HUB_OFFLINE forbids to ask the hub" in capsys.readouterr().err


def test_a_model_that_may_not_be_passed_on_is_not_uploaded(hub, tmp_path, model, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forbid(model)
    assert share("-m", model, "--push", "org/organs", "--yes") == 2
    assert "forbids to pass it on (CC BY-NC-ND 4.0)" in capsys.readouterr().err and hub.repositories == {}
    assert share("-m", model, "-o", tmp_path / "shared") == 0
    assert "Warning: for your own use alone" in capsys.readouterr().err
    assert "**This licence forbids to pass the model on.**" in (tmp_path / "shared" / "README.md").read_text()


def test_a_licence_that_forbids_it_is_not_written_over(tmp_path, model, capsys):
    forbid(model)
    assert share("-m", model, "-o", tmp_path / "shared", "--licence", "cc-by-4.0") == 2
    assert "--licence: the weights have a licence already" in capsys.readouterr().err
    assert not (tmp_path / "shared").exists()


def test_the_weights_with_which_a_training_started_are_named(tmp_path, model, capsys):
    note(model, licence="that of start.pth, from which the training started; ask its authors")
    assert share("-m", model, "-o", tmp_path / "shared", "--licence", "cc-by-4.0") == 0
    assert "under their licence: that of start.pth" in capsys.readouterr().err
    front, body = card_of((tmp_path / "shared" / "README.md").read_text())
    assert front["license"] == "cc-by-4.0" and "Weights: cc-by-4.0. They come from weights of others" in body
    assert "whose licence is: that of start.pth" in body


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "share: needs either -o or --push"),
        (("-o", "new", "--push", "org/organs"), "share: needs either -o or --push"),
        (("--push", "organs"), "--push: 'organs' is no name of a repository. Expected: ORG/NAME"),
        (("-o", "own"), "-o: own exists already"),
        (("-o", "new", "-f", "7"), "has no checkpoint_final.pth in fold 7"),
        (("-o", "new", "--about", "nothing.md"), "nothing.md: cannot be read"),
        (("-o", "new", "--evaluation", "own"), "evaluation.json: cannot be read"),
    ],
)
def test_what_cannot_be_shared_leaves_nothing(tmp_path, model, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert share("-m", model, *words) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def test_a_model_folder_without_weights_is_not_shared(tmp_path, model, capsys):
    for path in model.rglob("*.pth"):
        path.unlink()
    assert share("-m", model, "-o", tmp_path / "shared") == 2
    assert "has no checkpoint_final.pth in any fold" in capsys.readouterr().err
    assert not (tmp_path / "shared").exists()


def test_weights_of_another_training_are_not_shared(tmp_path, model, capsys):
    path = model / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["class_embedding.seg_layers.text_embedding"] += 1
    torch.save(content, path)
    text = json.loads((model / "plans.json").read_text())["nnunetv2_clip"].get("text", {})
    note(model, text={**text, "sha256": text.get("sha256") or "0" * 64})
    assert share("-m", model, "-o", tmp_path / "shared") == 2
    assert "which plans.json states" in capsys.readouterr().err and not (tmp_path / "shared").exists()


def test_damaged_weights_are_not_shared(tmp_path, model, capsys):
    path = model / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    assert share("-m", model, "-o", tmp_path / "shared") == 2
    assert "a checkpoint of nnU-Net" in capsys.readouterr().err and not (tmp_path / "shared").exists()
