"""Slices: which one, and that the patient lies as radiologists expect."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_clip.imaging.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    cut,
    detail_box,
    informative_slice,
    picture_size,
)


def test_the_slice_with_the_largest_area_is_taken():
    mask = np.zeros((5, 5, 5), bool)
    mask[0:2, 0, 1] = True
    mask[0:3, 0, 3] = True
    assert [informative_slice(mask, plane) for plane in PLANES] == [3, 0, 1]


def test_the_middle_of_those_that_show_nearly_as_much_is_taken_not_the_last():
    mask = np.zeros((10, 10, 9), bool)
    for position, voxels in enumerate([10, 20, 40, 60, 80, 89, 92, 96, 100]):  # an organ that the scan cuts
        mask[..., position] = np.arange(100).reshape(10, 10) < voxels
    assert informative_slice(mask, AXIAL) == 7  # of 6, 7, 8


def test_small_classes_count_as_much_as_large_ones():
    labels = np.zeros((10, 10, 3), np.uint8)
    labels[..., 0] = 6  # a hundred voxels of one class
    labels[:5, :, 2] = 6  # fifty of it, and two others
    labels[0, 0, 2], labels[1, 0, 2] = 7, 8
    assert informative_slice(labels, AXIAL) == 2


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
    sizes = [picture_size((8, 4, 10), (2, 2, 5), plane, 100, 100) for plane in PLANES]
    assert sizes == [(100, 50), (32, 100), (16, 100)]


def test_a_picture_has_the_voxels_of_the_ct_between_two_limits():
    sizes = [picture_size((512, 512, 50), (0.8, 0.8, 2.5), plane, 400, 768) for plane in PLANES]
    assert sizes == [(512, 512), (512, 156), (512, 156)]
    assert picture_size((100, 50, 9), (2, 2, 2), AXIAL, 400, 768) == (400, 200)
    assert picture_size((1024, 1024, 9), (0.4, 0.4, 2), AXIAL, 400, 768) == (768, 768)


def test_the_detail_is_twice_the_mask_and_never_smaller_than_asked():
    mask = np.zeros((100, 100, 20), bool)
    mask[40:60, 50:52, 0:2] = True
    box = detail_box(mask, (1, 1, 5), least_mm=30)
    assert box == (slice(30, 70), slice(36, 66), slice(0, 4))


def test_without_a_mask_the_detail_is_the_volume():
    assert detail_box(np.zeros((2, 3, 4), bool), (1, 1, 1), 30) == (slice(0, 2), slice(0, 3), slice(0, 4))
