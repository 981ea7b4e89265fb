"""docs/text.md: its commands that need no weights run."""

import shlex
from pathlib import Path

import numpy as np

from nnunetv2_clip import cli
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.files import write_json
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_NAME
from nnunetv2_clip.manifest import CasePresence, Manifest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "text.md"
NEEDS_WEIGHTS = "open_clip:"


def commands() -> list[list[str]]:
    lines = (line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("nnunetv2_clip ")]


def test_the_commands_that_need_no_clip_weights_run_one_after_the_other(tmp_path, monkeypatch):
    folder = tmp_path / "raw" / "Dataset900_Universal"
    write_json(folder / "dataset.json", {"labels": {"background": 0, "liver": [1], "spleen": [2]}})
    Manifest(UNIVERSAL, {"a": CasePresence("a", ("liver", "spleen"))}).save(folder / MANIFEST_NAME)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.chdir(tmp_path)
    import torch

    torch.save(torch.from_numpy(np.eye(2, 8, dtype=np.float32)), "embedding.pth")
    Path("names.txt").write_text("spleen\nliver\n")
    own = [command for command in commands() if "--encoder" in command or command[0] == "paper"]
    own = [command for command in own if not any(part.startswith(NEEDS_WEIGHTS) for part in command)]
    assert len(own) >= 5
    for command in own:
        extra = ["--overwrite"] if "-d" in command else []
        assert cli.main([*command, *extra]) == 0, command
    assert Path("similarity/similarity.png").exists()
