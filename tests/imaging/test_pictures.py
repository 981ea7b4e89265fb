"""Pictures: window, colours and outlines."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nnunetv2_clip.classes import UNIVERSAL, ClassRow
from nnunetv2_clip.imaging.pictures import EDGE_ALPHA, FILL_ALPHA, color_of, ct_picture, overlay_picture, window_of


def pixels(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_the_window_goes_from_minus_160_to_240_hu():
    hu = np.array([[-1000, -160, 40, 240, 3000]]).repeat(5, 0)
    grey = pixels(ct_picture(hu.repeat(20, 0).repeat(20, 1), (100, 100)))[50, 10::20, 0]
    assert np.abs(grey.astype(int) - [0, 0, 127, 255, 255]).max() <= 3


@pytest.mark.parametrize(
    ("name", "window"),
    [("right_lung", "lung"), ("lung_tumor", "lung"), ("left_femur_head", "bone"), ("vertebrae_l1", "bone")]
    + [("liver", "soft tissue"), ("hippocampus", "soft tissue")],
)
def test_lungs_and_bones_are_looked_at_in_their_own_windows(name, window):
    assert window_of(name) == window


def test_an_overlay_is_clear_outside_and_outlined_at_its_border():
    indices = np.zeros((8, 8), np.uint16)
    indices[2:6, 2:6] = 6
    rgba = pixels(overlay_picture(indices, (8, 8), {6: (10, 20, 30)}))
    assert rgba[0, 0, 3] == 0
    assert rgba[2, 3].tolist() == [10, 20, 30, EDGE_ALPHA]
    assert rgba[3, 3].tolist() == [10, 20, 30, FILL_ALPHA]


def test_enlarging_an_overlay_invents_no_class():
    indices = np.array([[6, 27]])
    rgba = pixels(overlay_picture(indices, (40, 20), {6: (1, 2, 3), 27: (7, 8, 9)}))
    assert {tuple(color) for color in rgba[..., :3].reshape(-1, 3).tolist()} == {(1, 2, 3), (7, 8, 9)}


def test_all_classes_differ_in_colour():
    colors = np.array(
        [color_of(row) for row in UNIVERSAL] + [color_of(ClassRow(i, f"c{i}", "")) for i in range(33, 43)]
    )
    distance = np.linalg.norm(colors[:, None].astype(float) - colors, axis=2)
    assert distance[~np.eye(len(colors), dtype=bool)].min() > 35
