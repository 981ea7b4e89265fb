"""Slices: which one, and that the patient lies as radiologists expect."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_clip.imaging.slices import PLANES, cut, detail_box, informative_slice, picture_size

AXIAL, CORONAL, SAGITTAL = PLANES


def test_the_slice_with_the_largest_area_is_taken():
    mask = np.zeros((5, 5, 5), bool)
    mask[0:2, 0, 1] = True
    mask[0:3, 0, 3] = True
    assert [informative_slice(mask, plane) for plane in PLANES] == [3, 0, 1]


def test_an_empty_mask_gives_the_middle():
    assert informative_slice(np.zeros((4, 6, 9), bool), AXIAL) == 4


@pytest.mark.parametrize(
    ("plane", "left", "top"),
    [(AXIAL, "right", "front"), (CORONAL, "right", "head"), (SAGITTAL, "front", "head")],
)
def test_right_or_front_is_on_the_left_and_front_or_head_at_the_top(plane, left, top):
    volume = np.zeros((3, 4, 5))
    side = {"right": (2, slice(None), slice(None)), "front": (slice(None), 3, slice(None)), "head": (..., 4)}
    for name, edge in ((left, np.s_[:, 0]), (top, np.s_[0])):
        marked = volume.copy()
        marked[side[name]] = 1
        picture = cut(marked, plane, marked.shape[plane.axis] // 2)
        assert picture[edge].all()
        assert picture.sum() == picture[edge].size


def test_pictures_have_the_bodys_proportions():
    # axial: 8 x 2 mm wide, 4 x 2 mm high; coronal: 16 mm wide, 10 x 5 mm high; sagittal: 8 mm wide, 50 mm high
    sizes = [picture_size((8, 4, 10), (2, 2, 5), plane, 100) for plane in PLANES]
    assert sizes == [(100, 50), (32, 100), (16, 100)]


def test_the_detail_is_twice_the_mask_and_never_smaller_than_asked():
    mask = np.zeros((100, 100, 20), bool)
    mask[40:60, 50:52, 0:2] = True
    box = detail_box(mask, (1, 1, 5), least_mm=30)
    assert box == (slice(30, 70), slice(36, 66), slice(0, 4))


def test_without_a_mask_the_detail_is_the_volume():
    assert detail_box(np.zeros((2, 3, 4), bool), (1, 1, 1), 30) == (slice(0, 2), slice(0, 3), slice(0, 4))
