"""What README, docs/python.md, the notebook and the demo show of the Python face runs as it stands there."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import nnunetv2_clip
from tests.inference.conftest import make_ct, save_ct
from tests.inference.test_bad_input import write_series

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*looks turned")  # the blobs of `make_ct`


@pytest.fixture
def folder(tmp_path, model, monkeypatch) -> Path:
    """MODEL, ct.nii.gz and DICOM_FOLDER in the working folder."""
    save_ct(tmp_path / "ct.nii.gz")
    write_series(tmp_path / "DICOM_FOLDER", make_ct((20, 22, 12)))
    (tmp_path / "MODEL").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_lines_of_the_readme(folder, capsys):
    [block], names = blocks("README.md"), {}
    assert len(list(filter(None, block.splitlines()))) == 7
    exec(block, names)
    assert names["liver"].shape == make_ct().shape and names["liver"].any()
    assert re.search(r"^liver \d+\.\d+ ml$", capsys.readouterr().out, re.MULTILINE)
    assert (folder / "OUT" / "ct.nii.gz").is_file() and (folder / "OUT" / "ct" / "spleen.nii.gz").is_file()


def test_the_page(folder, capsys):
    shown, names = blocks("docs/python.md"), {}
    assert len(shown) > 6
    for block in shown:
        exec(block, names)
    assert np.array_equal(names["same"]["liver"], names["liver"]) and names["liver"].any()
    assert np.array_equal(names["slices"], make_ct((20, 22, 12)).T) and names["overlay"].shape == (12, 22, 20)
    assert (folder / "OUT" / "statistics.csv").is_file()
    assert "give predict((array, affine))" in capsys.readouterr().out


def test_the_page_names_everything_public():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names = {f"result.{name}" for name in vars(nnunetv2_clip.Segmentation) if not name.startswith("_")}
    names |= {f"model.{name}" for name in ("classes", "never_learnt", "predict")}
    assert [name for name in sorted(names) if name not in page] == []


def test_the_end_of_the_demo(folder, capsys, monkeypatch):
    script = ROOT / "demo" / "predict_in_python.py"
    assert '"$MODEL" "$CT" "$OUT/from_python"' in (ROOT / "demo" / "run.sh").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(script), "MODEL", "ct.nii.gz", "OUT"])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"liver: \d+ of 28 x 30 x 20 voxels", out) and (folder / "OUT" / "ct" / "liver.nii.gz").is_file()


def test_the_notebook(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert set(re.findall(r"^[A-Z]+(?= = )", parameters.source, re.MULTILINE)) == {"MODEL", "CT", "OUT"}
    parameters.source = 'MODEL, CT, OUT = "MODEL", "ct.nii.gz", "OUT"'
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert (folder / "OUT" / "ct_preview.png").is_file()
    kinds = [kind for cell in notebook.cells for one in cell.get("outputs", ()) for kind in one.get("data", ())]
    assert kinds.count("image/png") == 2
