"""Organs on the wrong side and empty predictions are named: from masks, through the command and in Python."""

import json

import numpy as np
import pytest

from nnunetv2_clip import load_model
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.inference.case_predictor import CasePredictor, Prediction
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.organs import organ_warnings
from tests.inference.conftest import CLASSES, make_model, save_ct

SHAPE = (40, 30, 20)  # voxels of 4 mm; larger x is right
UPRIGHT = np.diag([4.0, 4, 4, 1])
RIGHT, LEFT = (slice(25, 38), slice(5, 25), slice(5, 15)), (slice(2, 15), slice(5, 25), slice(5, 15))


def mask(box=None, shape=SHAPE) -> Mask:
    return Mask(shape) if box is None else Mask.of(shape, box, np.ones([part.stop - part.start for part in box], bool))


def warnings(affine=UPRIGHT, **boxes) -> tuple[str, ...]:
    return organ_warnings({name: mask(box) for name, box in boxes.items()}, affine, UNIVERSAL)


def test_the_centre_of_a_mask_is_that_of_its_voxels():
    voxels = np.random.default_rng(0).random((20, 30, 10)) > 0.5
    centre, number = Mask.of(SHAPE, (slice(5, 25), slice(0, 30), slice(3, 13)), voxels).centre()
    assert number == voxels.sum() and np.allclose(centre, np.argwhere(voxels).mean(axis=0) + [5, 0, 3])


def test_the_centre_of_a_large_mask_comes_from_a_sample():
    centre, number = mask((slice(10, 210), slice(0, 150), slice(0, 20)), (220, 150, 20)).centre()
    assert np.allclose(centre, [109.5, 74.5, 9.5], atol=2) and abs(number / (200 * 150 * 20) - 1) < 0.05


def test_sides_are_those_of_the_world_whatever_the_order_of_the_axes():
    assert warnings(liver=RIGHT, spleen=LEFT) == ()
    assert "liver lies left of spleen" in warnings(liver=LEFT, spleen=RIGHT)[0]
    assert warnings(np.diag([-4.0, -4, 4, 1]), liver=LEFT, spleen=RIGHT) == ()


@pytest.mark.parametrize(
    ("boxes", "is_said"),
    [
        ({"liver": None, "liver_tumor": None}, True),
        ({"liver_tumor": None, "kidney_cyst": None}, False),  # many patients have neither
        ({"liver": None, "liver_tumor": LEFT}, False),
    ],
)
def test_nothing_found_at_all_is_said_of_organs(boxes, is_said):
    assert bool(warnings(**boxes)) == is_said
    assert not is_said or "nothing was found at all" in warnings(**boxes)[0]


def predict(tmp_path, monkeypatch, **boxes):
    """The command and Python's way with a network that finds these boxes."""
    ct = save_ct(tmp_path / "scan.nii.gz", np.tile(np.int16([-900, 40]), (*SHAPE[:2], 10)), UPRIGHT)
    model, found = make_model(tmp_path), {name: mask(boxes.get(name)) for name in CLASSES}
    monkeypatch.setattr(CasePredictor, "predict", lambda *_: Prediction(found))
    assert main(["predict", "-i", str(ct), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]) == 0
    entry = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["scan"]
    return ct, entry, load_model(model, "cpu").predict(ct)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [({"liver": LEFT, "spleen": RIGHT}, "liver lies left of spleen"), ({}, "nothing was found at all")],
)
def test_predict_names_the_file(tmp_path, monkeypatch, capsys, boxes, words):
    ct, entry, from_python = predict(tmp_path, monkeypatch, **boxes)
    assert any(words in text for text in entry["warnings"]) and any(words in text for text in from_python.warnings)
    assert any(str(ct) in line and words in line for line in capsys.readouterr().err.splitlines())


def test_organs_in_their_place_are_no_warning(tmp_path, monkeypatch):
    _, entry, _ = predict(tmp_path, monkeypatch, liver=RIGHT, spleen=LEFT)
    assert "warnings" not in entry
