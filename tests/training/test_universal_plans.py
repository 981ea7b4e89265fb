"""Stock plans in, plans that name the universal network out."""

import re
import subprocess
from copy import deepcopy

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import NETWORK, PLANS_KEY
from nnunetv2_clip.training import universal_plans as module
from nnunetv2_clip.training.universal_plans import source_commit, universal_plans

CLASSES = ("spleen", "liver")
STOCK_NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
VECTORS = np.array([[3, 4], [1, 0], [0, 1]], np.float32)
TABLE = TextTable.of(
    ("aorta", "liver", "spleen"), [("an aorta",), ("a liver",), ("a spleen",)], "open_clip:x", "open_clip 1", VECTORS
)


def stock_plans():
    architecture = {
        "network_class_name": STOCK_NETWORK,
        "arch_kwargs": {"n_stages": 2, "conv_op": "torch.nn.Conv3d"},
        "_kw_requires_import": ["conv_op"],
    }
    return {
        "plans_name": "nnUNetPlans",
        "configurations": {
            "3d_lowres": {"architecture": architecture, "next_stage": "3d_cascade_fullres"},
            "3d_fullres": {"architecture": deepcopy(architecture)},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


@pytest.fixture
def text(tmp_path):
    TABLE.save(tmp_path / "text.npz")
    return TextTable.load(tmp_path / "text.npz").restricted(CLASSES)


def test_the_rows_of_the_text_are_those_of_the_classes_in_channel_order(text):
    assert text.class_names == CLASSES
    assert text.prompts == (("a spleen",), ("a liver",))
    assert text.vectors.tolist() == [[0, 1], [1, 0]]


def test_the_stock_network_becomes_the_backbone(text):
    stock = stock_plans()
    plans = universal_plans(stock, "3d_fullres", text, UNIVERSAL, {"old": {"cases": 2}})
    assert plans["configurations"]["3d_fullres"]["architecture"] == {
        "network_class_name": NETWORK,
        "arch_kwargs": {
            "n_stages": 2,
            "conv_op": "torch.nn.Conv3d",
            "backbone_class": STOCK_NETWORK,
            "class_names": list(CLASSES),
            "text_width": 2,
        },
        "_kw_requires_import": ["conv_op"],
    }
    ours = plans[PLANS_KEY]
    assert {row["name"] for row in ours["classes"]} == set(CLASSES)
    assert ours["text"] == text.provenance and ours["datasets"] == {"old": {"cases": 2}}
    assert stock == stock_plans(), "the given plans are not changed"


def test_plans_that_were_made_before_stay_as_they_are(text):
    plans = universal_plans(stock_plans(), "3d_fullres", text, UNIVERSAL)
    again = universal_plans(plans, "3d_fullres", text, UNIVERSAL)
    assert again == plans


def test_what_others_have_noted_in_the_plans_travels_on(text):
    stock = stock_plans() | {PLANS_KEY: {"postprocessing": {"rules": {}}}}
    assert universal_plans(stock, "3d_fullres", text, UNIVERSAL)[PLANS_KEY]["postprocessing"] == {"rules": {}}


def test_the_parts_of_an_extension_are_built(text):
    entry = {"mode": "frozen", "model": "old", "fold": "0", "known": ["liver"], "parts": [["spleen"]]}
    stock = stock_plans() | {PLANS_KEY: {"extension": entry}}
    architecture = universal_plans(stock, "3d_fullres", text, UNIVERSAL)["configurations"]["3d_fullres"]["architecture"]
    assert architecture["arch_kwargs"]["extensions"] == [["spleen"]]


def test_low_resolution_has_no_next_stage_to_predict_for_and_a_cascade_is_refused(text):
    plans = universal_plans(stock_plans(), "3d_lowres", text, UNIVERSAL)
    assert "next_stage" not in plans["configurations"]["3d_lowres"]
    with pytest.raises(UserError, match="cascade"):
        universal_plans(stock_plans(), "3d_cascade_fullres", text, UNIVERSAL)


def test_an_unknown_configuration_is_answered_with_those_there_are(text):
    with pytest.raises(UserError, match="3d_cascade_fullres, 3d_fullres, 3d_lowres"):
        universal_plans(stock_plans(), "2d", text, UNIVERSAL)


def test_the_commit_is_that_of_the_checkout_which_tracks_the_package(tmp_path, monkeypatch):
    """Not that of a checkout in which the virtual environment happens to lie."""
    file = tmp_path / "module.py"
    monkeypatch.setattr(module, "__file__", str(file))
    file.write_text("1")
    assert source_commit() == ""

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "other")
    assert source_commit() == ""
    git("add", "module.py")
    git("commit", "-q", "-m", "own")
    assert re.fullmatch("[0-9a-f]{40}", source_commit())
    file.write_text("2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", source_commit())
