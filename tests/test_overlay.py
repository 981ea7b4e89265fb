"""Masks that overlap, as one label map."""

import numpy as np

from nnunetv2_clip.labels import overlay


def test_each_voxel_has_the_classes_of_all_its_masks():
    masks = [
        (np.array([1, 1, 1, 0, 0], bool), ("liver",)),
        (np.array([0, 1, 1, 1, 0], bool), ("stomach",)),
        (np.array([0, 0, 1, 0, 0], bool), ("kidney_cyst", "right_kidney")),
    ]
    label_map, classes_of = overlay((5,), iter(masks))
    assert [set(classes_of[value]) for value in label_map.tolist()] == [
        {"liver"},
        {"liver", "stomach"},
        {"liver", "stomach", "kidney_cyst", "right_kidney"},
        {"stomach"},
        set(),
    ]


def test_equal_sets_share_a_value_in_whatever_order_they_arise():
    masks = [
        (np.array([1, 0, 1], bool), ("a",)),
        (np.array([1, 1, 0], bool), ("b",)),
        (np.array([0, 1, 0], bool), ("a",)),
    ]
    label_map, classes_of = overlay((3,), masks)
    assert label_map[0] == label_map[1]
    assert classes_of[label_map[0]] == {"a", "b"}


def test_no_mask_is_background():
    label_map, classes_of = overlay((2, 3), [])
    assert not label_map.any()
    assert classes_of == {0: frozenset()}
