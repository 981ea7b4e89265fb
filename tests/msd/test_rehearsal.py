"""The rehearsal scores predictions of training images as the challenge scores its test images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunetv2_clip.cli import main
from tests.msd.tree import AFFINE, SHAPE, save


def painted(values: list[int]) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array.flat[: len(values)] = values
    return array


@pytest.fixture
def study(tmp_path):
    """Two folds; the liver case misses one of two tumour voxels, the spleen case is perfect."""
    save(tmp_path / "msd/Task03_Liver/labelsTr/liver_0.nii.gz", painted([1, 1, 2, 2]))
    save(tmp_path / "msd/Task09_Spleen/labelsTr/spleen_2.nii.gz", painted([1, 1]))
    model = tmp_path / "model"
    save(model / "fold_0/validation/msd_liver_0.nii.gz", painted([6, 6, 6, 27, 1]))
    save(model / "fold_1/validation/msd_spleen_2.nii.gz", painted([1, 1, 6]))
    save(model / "fold_1/validation/kits_7.nii.gz", painted([2]))
    return tmp_path


def rehearse(study, *more) -> int:
    options = ["-m", study / "model", "-i", study / "msd", "-o", study / "scores.json", "-np", 1]
    return main(["msd", "rehearse", *map(str, (*options, *more))])


def scores(study) -> dict:
    rows = json.loads((study / "scores.json").read_text())
    return {(row["task"], row["target"]): row for row in rows}


def test_targets_are_scored_with_both_readings_of_the_organ(study, capsys):
    assert rehearse(study) == 0
    found = scores(study)
    assert {key: row["dice"] for key, row in found.items()} == {
        ("Task03_Liver", "liver"): pytest.approx(2 * 2 / (2 + 3)),
        ("Task03_Liver", "liver_tumor"): pytest.approx(2 * 1 / (2 + 1)),
        ("Task03_Liver", "liver with tumor"): 1.0,
        ("Task09_Spleen", "spleen"): 1.0,
    }
    assert found["Task09_Spleen", "spleen"]["nsd"] == 1.0
    assert "liver with tumor" in capsys.readouterr().out


def test_the_post_processing_is_rehearsed_as_well(study):
    (study / "rules.yaml").write_text("Task03_Liver: {min_ml: {liver_tumor: 1000}}")
    assert rehearse(study, "--rules", study / "rules.yaml") == 0
    assert scores(study)["Task03_Liver", "liver_tumor"]["dice"] == 0


def test_a_folder_of_predictions_will_do(study):
    (study / "model/fold_0/validation/msd_liver_0.nii.gz").rename(study / "liver_0.nii.gz")
    options = ["-pred", study, "-i", study / "msd", "-o", study / "scores.json", "-np", 1]
    assert main(["msd", "rehearse", *map(str, options)]) == 0
    assert set(scores(study)) >= {("Task03_Liver", "liver")}


def test_predictions_of_other_datasets_alone_are_refused(study, capsys):
    (study / "model/fold_0/validation/msd_liver_0.nii.gz").unlink()
    (study / "model/fold_1/validation/msd_spleen_2.nii.gz").unlink()
    assert rehearse(study) == 2
    assert "none of 1 predictions has a label file" in capsys.readouterr().err


def test_a_prediction_of_another_shape_is_named(study, capsys):
    save(study / "model/fold_0/validation/msd_liver_0.nii.gz", np.zeros((2, 2, 2), np.uint8))
    assert rehearse(study) == 3
    assert ("Task09_Spleen", "spleen") in scores(study)
    assert "msd_liver_0.nii.gz: has shape (2, 2, 2)" in capsys.readouterr().err


def test_a_repaired_header_does_not_matter(study):
    turned = AFFINE @ np.diag([-1, -1, 1, 1])
    save(study / "model/fold_0/validation/msd_liver_0.nii.gz", painted([6, 6, 27, 27]), turned)
    assert rehearse(study) == 0
    assert scores(study)["Task03_Liver", "liver_tumor"]["dice"] == 1
