"""Models of the hub: what is fetched, kept and resumed, and what is said when it cannot be."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.hub import download
from nnunetv2_clip.trained_model import TrainedModel, find_models
from tests.sharing.fake_hub import READER
from tests.test_trained_model import CLASSES, FINAL, NAME, write_model

FOLDER = f"Dataset900_Universal/{NAME}"


@pytest.fixture
def hosted(hub, tmp_path):
    """The hub with one model, and other files beside it."""
    folder = write_model(tmp_path / "own", checkpoints=(f"0/{FINAL}",))
    (folder / "fold_0" / FINAL).write_bytes(bytes(range(256)) * 64)
    files = {path.relative_to(folder.parents[1]).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    hub.repositories["org/organs"] = {**files, "README.md": b"#", "model.zip": b"PK", f"{FOLDER}/code.py": b"1/0"}
    return hub


def test_a_model_is_downloaded_once_and_nothing_else_of_its_repository(hosted):
    model = TrainedModel.open("hf:org/organs")
    assert (model.name, model.classes, model.folds()) == (NAME, CLASSES, ("0",))
    with model.on_disk(["0"], FINAL) as folder:
        assert (folder / "fold_0" / FINAL).read_bytes() == hosted.repositories["org/organs"][f"{FOLDER}/fold_0/{FINAL}"]
    fetched = {name for method, name, _ in hosted.asked if method == "GET"}
    assert fetched == {f"{FOLDER}/{name}" for name in ("plans.json", "dataset.json", f"fold_0/{FINAL}")}
    hosted.asked.clear()
    assert TrainedModel.open("hf:org/organs").where == model.where
    assert not hosted.asked


def test_a_revision_is_that_of_its_tag(hosted):
    files = hosted.repositories["org/organs"]
    old = json.loads(files[f"{FOLDER}/plans.json"])
    hosted.tags["org/organs"] = {"v1": {**files, f"{FOLDER}/plans.json": json.dumps({**old, "age": "old"}).encode()}}
    assert TrainedModel.open("hf:org/organs@v1").plans["age"] == "old"
    assert "age" not in TrainedModel.open("hf:org/organs").plans


def test_several_configurations_of_one_repository_are_told_apart(hosted):
    files = hosted.repositories["org/organs"]
    files.update({name.replace("3d_fullres", "2d"): data for name, data in files.items() if name.startswith(FOLDER)})
    assert [model.name for model in find_models(Path("hf:org/organs"))] == [NAME.replace("3d_fullres", "2d"), NAME]
    assert TrainedModel.open("hf:org/organs", "2d").name.endswith("__2d")
    with pytest.raises(UserError, match="choose one with -c"):
        TrainedModel.open("hf:org/organs")


def test_half_a_download_is_gone_on_with(hosted, monkeypatch):
    weights = f"{FOLDER}/fold_0/{FINAL}"
    whole = hosted.repositories["org/organs"][weights]
    hosted.cut[weights] = 1
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    model = TrainedModel.open("hf:org/organs")
    assert (model.where / "fold_0" / FINAL).read_bytes() == whole
    ranges = [wanted for method, name, wanted in hosted.asked if (method, name) == ("GET", weights)]
    assert ranges == [None, f"bytes={len(whole) // 2}-"]


def test_a_download_that_never_ends_is_half_and_no_model(hosted, monkeypatch, capsys):
    weights = f"{FOLDER}/fold_0/{FINAL}"
    hosted.cut[weights] = 99
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["info", "-m", "hf:org/organs"]) == 2
    assert "the connection to" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids.*not in the cache"):
        TrainedModel.open("hf:org/organs")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hosted.cut.clear()
    hosted.asked.clear()
    assert TrainedModel.open("hf:org/organs").folds() == ("0",)
    assert {name for method, name, _ in hosted.asked if method == "GET"} == {weights}  # the others were whole


def test_without_internet_the_cache_is_enough(hosted, monkeypatch):
    before = TrainedModel.open("hf:org/organs")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert TrainedModel.open("hf:org/organs").where == before.where


def test_a_gated_repository_names_its_conditions(hosted):
    hosted.gated.add("org/organs")
    with pytest.raises(UserError, match="accept its conditions on its page"):
        download("hf:org/organs")


@pytest.mark.parametrize("part", ["/api/models/", "/resolve/"])
@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_an_answer_that_refuses_is_no_broken_connection(hosted, monkeypatch, part, status):
    hosted.answers[part] = status, b""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=f"hf:org/organs: the hub .*{status}.*Remedy") as caught:
        download("hf:org/organs")
    assert ("token with the right" if status == 403 else "try again later") in str(caught.value)
    assert "connection" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "body"),
    [
        ("/revision/", b"<html>sign in to this network</html>"),
        ("/revision/", b'{"id": "org/organs", "siblings": []}'),
        ("/tree/", b"<html>sign in to this network</html>"),
        ("/tree/", b'{"error": 1}'),
        ("/tree/", b'[{"type": "file", "path": "../plans.json", "size": 2, "oid": "0"}]'),
    ],
)
def test_an_answer_that_is_not_the_hubs(hosted, tmp_path, capsys, part, body):
    hosted.answers[part] = 200, body
    before = sorted(tmp_path.rglob("plans.json"))
    assert main(["info", "-m", "hf:org/organs"]) == 2
    assert "cannot be used" in (said := capsys.readouterr().err) and "HF_ENDPOINT" in said
    assert sorted(tmp_path.rglob("plans.json")) == before


def test_a_token_opens_a_private_repository(hosted, monkeypatch):
    hosted.private.add("org/organs")
    with pytest.raises(UserError, match="or is private.*HF_TOKEN"):
        download("hf:org/organs")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert TrainedModel.open("hf:org/organs").classes == CLASSES


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hf:org/nothing", "hf:org/nothing: does not exist on the hub, or is private"),
        ("hf:org/organs@v9", "hf:org/organs@v9: has no such revision"),
        ("hf:organs", "hf:organs: is no name of a repository. Expected: hf:ORG/NAME"),
        ("hf:org/organs@", "is no name of a repository"),
        ("hf:org/a..b", "is no name of a repository"),
        ("hf:org/empty", "hf:org/empty: holds no plans.json"),
    ],
)
def test_names_that_lead_nowhere(hosted, capsys, where, message):
    hosted.repositories["org/empty"] = {"README.md": b"#"}
    assert main(["info", "-m", where]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and not shown.out


def test_a_model_without_weights_is_refused_by_predict(hosted, tmp_path, capsys):
    del hosted.repositories["org/organs"][f"{FOLDER}/fold_0/{FINAL}"]
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    assert main(["predict", "-i", str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "o"), "-m", "hf:org/organs"]) == 2
    assert f"has no {FINAL} in any fold" in capsys.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("offline", [True, False])
def test_no_internet_and_nothing_in_the_cache(hub, monkeypatch, capsys, offline):
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert main(["info", "-m", "hf:org/organs"]) == 2
    error = capsys.readouterr().err
    said = "HF_HUB_OFFLINE forbids to ask the hub" if offline else "the connection to http://127"
    assert said in error and str(constants.HF_HUB_CACHE) in error and "copied from elsewhere" in error


def test_a_token_that_is_none_is_named(hosted, monkeypatch):
    hosted.private.add("org/organs")
    monkeypatch.setenv("HF_TOKEN", "hf_nonsense")
    with pytest.raises(UserError, match="HF_TOKEN"):
        download("hf:org/organs")


@pytest.mark.parametrize("command", ["learn-postprocessing", "crossval"])
def test_what_is_written_into_a_model_needs_its_folder(hosted, capsys, command):
    assert main([command, "-m", "hf:org/organs"]) == 2
    assert "-m: hf:org/organs is not a folder" in capsys.readouterr().err and not hosted.asked
