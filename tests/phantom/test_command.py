"""nnunetv2_clip phantom: different patients in each source, mistakes answered, nothing half written."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.phantom.write import source_seeds

COARSE = ["--spacing", "12", "11", "12"]


def test_it_writes_each_source_with_its_truth(tmp_path, capsys):
    out = tmp_path / "phantoms"
    arguments = ["phantom", "-o", str(out), "--layouts", "msd_liver", "msd_spleen", "--cases", "2", "--test-cases", "1"]
    assert main([*arguments, *COARSE, "--orientation", "LPS"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["msd_liver", "msd_spleen"]
    images = list(out.glob("*/Task*/images*/[!.]*.nii.gz"))
    assert len(images) == 6
    assert {nib.aff2axcodes(nib.load(path).affine) for path in images} == {("L", "P", "S")}
    scans = [np.asarray(nib.load(path).dataobj).tobytes() for path in images]
    assert len(set(scans)) == 6
    assert len(list(out.glob("*/truth/*.nii.gz"))) == 6
    assert str(out / "msd_liver" / "Task03_Liver") in capsys.readouterr().out


def test_sources_and_seeds_share_no_patient():
    seeds = [seed for source in ("msd_liver", "msd_spleen") for s in (0, 1) for seed in source_seeds(source, s, 50)]
    assert len(set(seeds)) == 200
    assert source_seeds("msd_liver", 0, 3) == source_seeds("msd_liver", 0, 50)[:3]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--layouts", "msd_livr"], "Did you mean 'msd_liver'?"),
        (["--layouts", "msd_liver", "msd_liver"], "twice"),
        (["--layouts", "msd_liver", "--cases", "0"], "at least 1"),
        (["--layouts", "msd_liver", "--orientation", "RRS"], "three axis codes"),
        (["--layouts", "msd_liver", "--spacing", "0", "1", "1"], "0.5 to 12"),
        (["--layouts", "msd_liver", "--seed", "-1"], "0 or more"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(tmp_path, capsys, arguments, answer):
    assert main(["phantom", "-o", str(tmp_path / "out"), *arguments]) == 2
    assert answer in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.json").write_text(json.dumps("precious"))
    assert main(["phantom", "-o", str(tmp_path), "--layouts", "custom"]) == 2
    assert "no phantoms" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.json"]


def test_a_second_run_keeps_what_is_there_and_adds_what_is_not(tmp_path):
    out = tmp_path / "phantoms"
    arguments = ["phantom", "-o", str(out), "--cases", "1", "--test-cases", "0", *COARSE, "--layouts", "msd_spleen"]
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / ".custom.77.partial").mkdir()  # left by a killed run
    assert main([*arguments, "custom"]) == 0
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert (out / "custom" / "truth" / "case_001.nii.gz").is_file()


def test_phantoms_of_another_order_are_not_mixed_in(tmp_path, capsys):
    arguments = ["phantom", "-o", str(tmp_path / "out"), "--cases", "1", *COARSE, "--layouts", "custom"]
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "'seed': 0" in capsys.readouterr().err


def test_dicom_sources_have_one_orientation_and_some_have_no_test_cases(tmp_path, capsys):
    arguments = ["phantom", "-o", str(tmp_path / "out"), "--cases", "1", *COARSE, "--layouts", "pancreas_ct"]
    assert main([*arguments, "--orientation", "RAS"]) == 2
    assert "axial DICOM slices" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "1 cases" in capsys.readouterr().out
