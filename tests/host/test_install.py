"""Both kinds of install, in a fresh virtual environment, put the trainers where nnU-Net searches."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = "import os; print(os.environ['nnUNet_extTrainer']); import nnunetv2_clip.trainers as t; print(list(t.__path__)[0])"


@pytest.mark.parametrize("editable", [False, True])
def test_a_fresh_environment_sets_the_search_folder(editable, tmp_path):
    source = tmp_path / "source"  # a copy: building must not leave traces in the tree under test
    subprocess.run(["cp", "-r", str(ROOT), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    arguments = ["-e", str(source)] if editable else [str(source)]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *arguments], check=True, cwd=tmp_path
    )
    result = subprocess.run([python, "-c", SHOW], capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin"})
    variable, package = result.stdout.split()
    folder = source / "trainers" if editable else Path(package)
    assert str(folder) in variable.split(":"), (result.stdout, result.stderr)
    assert Path(package) == folder
    assert (folder / "CLIPUniversalTrainer.py").is_file()
    command = subprocess.run([tmp_path / "venv" / "bin" / "nnunetv2_clip", "trainers-path"], capture_output=True, text=True)
    assert command.stdout.strip() == str(folder), command.stderr
