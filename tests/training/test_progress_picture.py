"""The picture of each fold."""

import numpy as np
from PIL import Image

from nnunetv2_clip.training.progress_picture import COLUMNS, draw_progress


def draw(path, num_trained, num_epochs=5):
    classes = [f"class_{k}" for k in range(8)]
    dice = np.linspace(0, 1, num_epochs * 8).reshape(num_epochs, 8)
    dice[:, 0] = np.nan
    loss = np.where(np.arange(8) == 1, np.nan, 1.5 - dice)
    patches, dead = np.ones((num_epochs, 8), dtype=int), np.arange(8) == 2
    draw_progress(path, classes, np.arange(8) < num_trained, dice, loss, patches, dead)
    with Image.open(path) as picture:
        return picture.size


def test_only_trained_classes_get_a_panel(tmp_path):
    one, two = draw(tmp_path / "one.png", 1), draw(tmp_path / "two.png", 2)
    assert two == (2 * one[0], one[1])
    assert draw(tmp_path / "six.png", 6)[0] == COLUMNS * one[0]
    assert draw(tmp_path / "six.png", 6)[1] > one[1]


def test_one_epoch_and_classes_that_cannot_be_measured_are_drawn_and_nothing_else_is_left_behind(tmp_path):
    draw(tmp_path / "progress_classes.png", 3, num_epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["progress_classes.png"]
