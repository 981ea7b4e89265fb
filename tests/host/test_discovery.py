"""nnU-Net's own search finds the trainer, in a fresh interpreter, for every kind of install and of user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIND = """
import os, pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
first, second = find({name!r}), find({name!r})
assert first is second, "another object at each search"
assert pickle.loads(pickle.dumps(first)) is first, "cannot be pickled"
print("FOUND", first.__module__)
"""


def run_python(code, **changes):
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    environment.update({name: value for name, value in changes.items() if value is not None})
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")


def has_start_up_file():
    import site

    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return any((Path(folder) / "nnunetv2_clip_trainers.pth").is_file() for folder in folders)


pytestmark = pytest.mark.skipif(not has_start_up_file(), reason="nnunetv2_clip is not installed (pip install -e .)")


@pytest.mark.parametrize("name", ["CLIPUniversalTrainer", "CLIPUniversalTrainer_5epochs"])
def test_a_fresh_interpreter_finds_the_same_class_twice(name):
    result = run_python(FIND.format(name=name))
    assert "FOUND nnunetv2_clip.training" in result.stdout, result.stderr


def test_the_users_own_folder_keeps_its_place(tmp_path):
    (tmp_path / "my_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class MyTrainer(nnUNetTrainer):\n    pass\n"
    )
    code = (
        "import os\n"
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "print('VARIABLE', os.environ['nnUNet_extTrainer'])\n"
        "print('FOUND', find('MyTrainer').__name__, find('CLIPUniversalTrainer').__name__)"
    )
    result = run_python(code, nnUNet_extTrainer=str(tmp_path))
    assert "FOUND MyTrainer CLIPUniversalTrainer" in result.stdout, result.stderr
    folders = result.stdout.split("VARIABLE ")[1].splitlines()[0].split(os.pathsep)
    assert folders[0] == str(tmp_path)
    assert len(folders) == 2


def test_the_variable_does_not_grow_from_process_to_process():
    code = (
        "import os, subprocess, sys\n"
        "inner = subprocess.run([sys.executable, '-c', \"import os; print(os.environ['nnUNet_extTrainer'])\"],"
        " capture_output=True, text=True).stdout.strip()\n"
        "assert inner == os.environ['nnUNet_extTrainer'], inner\n"
        "print('SAME')"
    )
    assert "SAME" in run_python(code).stdout


def test_spawned_workers_find_the_trainer(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing\n"
        "def work(name):\n"
        "    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "    return find(name).__module__\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print('FOUND', pool.apply(work, ('CLIPUniversalTrainer',)))\n"
    )
    result = run_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert "FOUND nnunetv2_clip.training.trainer" in result.stdout, result.stderr


def test_the_start_up_file_imports_nothing_of_ours():
    result = run_python("import sys; print([name for name in sys.modules if name.startswith(('nnunet', 'torch'))])")
    assert result.stdout.strip() == "[]"
