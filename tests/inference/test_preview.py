"""The preview: planes, sides, name and legend, in the proportions of the body."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.imaging.pictures import color_of
from nnunetv2_clip.inference import preview
from nnunetv2_clip.inference.preview import GAP_PX, LINE_PX, write_preview

ROWS = UNIVERSAL.subset(["liver", "spleen", "colon"])


@pytest.fixture
def texts(monkeypatch):
    """What is written on the sheet."""
    written, write = [], preview._write
    monkeypatch.setattr(
        preview, "_write", lambda draw, place, text, *more: (written.append(text), write(draw, place, text, *more))
    )
    return written


def drawn(tmp_path, shape, spacing_mm, axes=(1, 1, 1)) -> np.ndarray:
    """The sheet of a liver on the patient's right and a spleen on the left, in a volume of 0 HU."""
    painted = np.zeros(shape, np.uint8)
    half = shape[0] // 2
    painted[half:], painted[:half] = UNIVERSAL.find("liver").index, UNIVERSAL.find("spleen").index
    flip = tuple(slice(None, None, axis) for axis in axes)
    image = Volume(np.zeros(shape, np.int16), np.diag([*np.multiply(spacing_mm, axes), 1.0]))
    write_preview(tmp_path / "p.png", "patient 7", image, painted[flip], ROWS)
    return np.asarray(Image.open(tmp_path / "p.png")).astype(int)


def test_planes_stand_side_by_side_or_for_a_short_scan_above_each_other(tmp_path):
    assert drawn(tmp_path, (20, 20, 20), (2, 2, 2)).shape[:2] == (
        LINE_PX + 420 + GAP_PX + LINE_PX,
        3 * 420 + 2 * GAP_PX,
    )
    # 40 x 40 x 8 mm: 420 x 420 and twice 420 x 84 pixels
    sheet = drawn(tmp_path, (20, 20, 4), (2, 2, 2))
    assert sheet.shape[1] == 2 * 420 + GAP_PX
    assert sheet[LINE_PX + 40, 420 + GAP_PX + 200].any() and sheet[LINE_PX + 84 + GAP_PX + 40, 420 + GAP_PX + 200].any()
    assert not sheet[LINE_PX + 2 * 84 + GAP_PX + 20, 420 + GAP_PX + 200].any()


def test_name_sides_window_and_the_classes_that_occur_are_written(tmp_path, texts):
    drawn(tmp_path, (20, 20, 20), (2, 2, 2))
    title = "patient 7 · soft tissue window, -160 to 240 HU"
    assert texts == [*"RLAP", *"RLSI", *"APSI", title, "liver", "spleen"]


@pytest.mark.parametrize("axes", [(1, 1, 1), (-1, -1, 1)])
def test_the_patients_right_is_on_the_left_hand_side(tmp_path, axes):
    sheet = drawn(tmp_path, (20, 20, 20), (2, 2, 2), axes)
    row = sheet[LINE_PX + 100]
    liver, spleen = (np.array(color_of(UNIVERSAL.find(name))) for name in ("liver", "spleen"))
    near = lambda pixel, color: np.abs(pixel - color).sum() < np.abs(pixel - (liver + spleen - color)).sum()  # noqa: E731
    assert near(row[100], liver) and near(row[320], spleen)
