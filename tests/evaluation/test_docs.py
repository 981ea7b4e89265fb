"""The commands of docs/evaluation.md: all that evaluate, and the whole page runs."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_clip.cli import GROUPS, parse

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "benchmarks" / "evaluation_demo.py"


def shell_blocks() -> list[str]:
    spec = importlib.util.spec_from_file_location("evaluation_demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.shell_blocks()


def commands() -> list[list[str]]:
    """Every call of nnunetv2_clip in the page, as arguments."""
    lines = "\n".join(shell_blocks()).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("nnunetv2_clip ")]


def test_page_shows_every_evaluation_command():
    shown = {parse(arguments).command for arguments in commands()}
    assert shown == {*GROUPS["Evaluate"], "embed"} - {"report"}


@pytest.mark.slow
def test_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    out = tmp_path / "demo"
    small = "--cases", "2", "--spacing", "10", "--epochs", "6"
    subprocess.run([sys.executable, DEMO, "-o", out, *small], check=True)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {
        "predictions/first/evaluation/evaluation.html",
        "predictions/first/evaluation/detection.tex",
        "unseen/evaluation.csv",
        "index.html",
        "tables/tables.tex",
        "tables/msd.png",
        "results/Dataset900_Drawn/First__nnUNetResEncUNetLPlans_torchres__3d_fullres/evaluation/crossval.md",
        "comparison/compare.svg",
        "agreement/agreement.png",
        "efficiency/efficiency.md",
        "efficiency/efficiency_dice.png",
        "embeddings/similarity.png",
        "features/feature_map.png",
    } <= written
    assert "Cases seen in training" in (out / "unseen" / "evaluation.md").read_text()
