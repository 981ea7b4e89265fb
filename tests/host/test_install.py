"""Both kinds of install, in a fresh virtual environment, put the trainers where nnU-Net searches."""

import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = """
import os
import nnunetv2_clip.trainers as package
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found = find("CLIPUniversalTrainer")
print("RESULT", os.environ["nnUNet_extTrainer"], list(package.__path__)[0], found.__module__, found.__name__)
"""


@pytest.mark.parametrize("editable", [False, True])
def test_a_fresh_environment_sets_the_search_folder(editable, tmp_path):
    source = tmp_path / "source"  # a copy: building must not leave traces in the tree under test
    names = ("nnunetv2_clip", "trainers", "plans", "dataset_conversion", "setup.py", "pyproject.toml", "README.md")
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    arguments = ["-e", str(source)] if editable else [str(source)]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *arguments], check=True, cwd=tmp_path
    )
    # nnU-Net and torch come from the environment that runs the tests, searched last; our package from the fresh one.
    own = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (own / "zz_host.pth").write_text("\n".join(site.getsitepackages()))
    result = subprocess.run(
        [python, "-c", SHOW], capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"}
    )
    assert "RESULT" in result.stdout, result.stderr
    variable, package, *found = result.stdout.split("RESULT")[1].split()
    assert found == ["nnunetv2_clip.training.trainer", "CLIPUniversalTrainer"]
    folder = source / "trainers" if editable else Path(package)
    assert str(folder) in variable.split(":"), (result.stdout, result.stderr)
    assert Path(package) == folder
    assert (folder / "CLIPUniversalTrainer.py").is_file()
    script = tmp_path / "venv" / "bin" / "nnunetv2_clip"
    command = subprocess.run([script, "trainers-path"], capture_output=True, text=True)
    assert command.stdout.strip() == str(folder), command.stderr
