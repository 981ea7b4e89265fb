"""Training curves are drawn as they were measured; gaps stay gaps."""

from __future__ import annotations

import json

import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.report.curves import read_training, svg_path

CURVES = {
    "epochs": 2,
    "classes": ["liver", "colon_tumor"],
    "dice": [[0.5, None], [1.0, None]],
    "supervised_patches": [[10, 0], [5, 0]],
    "train_loss": [0.5, -0.5],
    "val_loss": [0.0, float("nan")],
}


@pytest.fixture
def fold(tmp_path):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "training_curves.json").write_text(json.dumps(CURVES))
    return tmp_path / "fold_0"


def test_a_path_spans_the_box_with_gaps_and_lone_points():
    # 160 x 48 units, five points 40 units apart; a lone point is a line of no length, drawn as a dot
    assert svg_path([0, 1, None, 0.5, float("nan")], 0, 1) == "M0.0 48.0L40.0 0.0M120.0 24.0h0"


def test_classes_tell_last_dice_and_all_patches(fold):
    training = read_training(fold)
    liver, colon_tumor = training.classes
    assert (liver.last, liver.patches) == (1.0, 15)
    assert (colon_tumor.last, colon_tumor.path, colon_tumor.patches) == (None, "", 0)
    assert training.loss_range == (-0.5, 0.5)
    assert (liver.loss_path, liver.last_loss) == ("", None)  # a training of a version that did not log it


def test_the_loss_of_classes_shares_one_scale(fold):
    curves = {**CURVES, "class_loss": [[2.0, None], [1.0, 0.5]]}
    (fold / "training_curves.json").write_text(json.dumps(curves))
    liver, colon_tumor = read_training(fold).classes
    assert (liver.loss_path, liver.last_loss) == ("M0.0 0.0L160.0 24.0", 1.0)
    assert (colon_tumor.loss_path, colon_tumor.last_loss) == ("M160.0 36.0h0", 0.5)


def test_a_page_of_a_training_alone(fold, tmp_path):
    assert main(["report", "--log-folder", str(fold), "-o", str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "15 supervised patches" in html
    assert 'class="warn">0 supervised patches' in html


@pytest.mark.parametrize(
    "change", [{"dice": [[0.5]]}, {"train_loss": [1.0]}, {"class_loss": [[1.0]]}, {"classes": None}]
)
def test_lists_that_do_not_fit_are_refused(fold, change):
    (fold / "training_curves.json").write_text(json.dumps({**CURVES, **change}))
    with pytest.raises(UserError, match="training_curves.json"):
        read_training(fold)
