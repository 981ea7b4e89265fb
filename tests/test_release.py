"""What a release consists of beside the code: the container's steps, the citation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nnunetv2_clip import __version__
from tests.inference.conftest import make_ct, make_model, save_ct

ROOT = Path(__file__).resolve().parents[1]


def steps_of_dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) of each; continued lines joined, comments cut."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def copy_context(target: Path) -> None:
    """What COPY . copies: the exceptions of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*", "all is left out but the exceptions"
    target.mkdir(parents=True)
    for name in (line[1:] for line in lines if line.startswith("!")):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target / name, ignore=ignored) if source.is_dir() else shutil.copy(source, target)


def test_the_dockerfile_has_no_compiler_and_no_user_with_rights():
    steps = steps_of_dockerfile()
    kinds = [kind for kind, _ in steps]
    assert set(kinds) <= {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "CMD"}
    assert not any(re.search(r"apt|gcc|g\+\+|build-essential|conda", rest) for _, rest in steps)
    assert dict(steps)["FROM"] == "python:${PYTHON}-slim" and dict(steps)["COPY"] == ". /opt/nnunetv2_clip"
    assert not dict(steps)["USER"].startswith("0")


def test_the_context_of_the_container_is_what_setup_reads(tmp_path):
    copy_context(tmp_path / "context")
    names = {path.name for path in (tmp_path / "context").iterdir()}
    code = "import setup; assert setup.find_all_packages() and setup.read_version() and all(\
        (setup.ROOT / folder).is_dir() for folder in setup.PACKAGE_DIRS.values())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "context", check=True)
    assert "README.md" in names and not names & {".git", ".venv", "tests", "demo_output", "docs"}


@pytest.mark.slow
def test_the_steps_of_the_dockerfile_make_a_runtime_that_predicts(tmp_path):
    """Without docker: its RUN lines, one after another, in a fresh virtual environment in which no compiler works."""
    environment = {"PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "CC": "false", "CXX": "false"}
    environment |= {
        key: value for key, value in os.environ.items() if key.startswith("PIP_")
    }  # where packages come from
    places = {"/opt/nnunetv2_clip": f"{tmp_path}/source", "/data": f"{tmp_path}/data"}

    def here(text: str) -> str:
        return re.sub("|".join(places), lambda found: places[found[0]], text)

    folder = tmp_path
    try:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        for kind, rest in steps_of_dockerfile():
            if kind in ("ARG", "ENV"):
                name, _, value = rest.partition("=")
                environment[name] = here(value)
            elif kind == "COPY":
                copy_context(tmp_path / "source")
            elif kind == "WORKDIR":
                folder = Path(here(rest))
            elif kind == "RUN":
                subprocess.run(["bash", "-euo", "pipefail", "-c", here(rest)], check=True, cwd=folder, env=environment)
        model = make_model(tmp_path / "model")
        image = save_ct(tmp_path / "ct.nii.gz", make_ct())
        words = ["nnunetv2_clip", "predict", "-i", image, "-o", folder / "out", "-m", model, "-device", "cpu"]
        subprocess.run(["env", *map(str, words)], check=True, cwd=folder, env=environment)
        assert (folder / "out" / "ct.nii.gz").is_file()
    finally:  # gigabytes
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)


def test_the_citation_is_of_this_version_and_names_both_papers():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (content["cff-version"], content["version"], content["license"]) == ("1.2.0", __version__, "Apache-2.0")
    assert [work["doi"] for work in content["references"]] == [
        "10.1109/ICCV51070.2023.01934",
        "10.1038/s41592-020-01008-z",
    ]


def test_the_classifiers_name_the_pythons_on_which_it_can_be_installed(monkeypatch):
    import setuptools

    import setup

    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    setup.main()
    lowest, beyond = (int(bound.rpartition(".")[2]) for bound in given["python_requires"].split(","))
    pythons = [line.rpartition(".")[2] for line in given["classifiers"] if "Python :: 3." in line]
    assert pythons == [str(minor) for minor in range(lowest, beyond)]
