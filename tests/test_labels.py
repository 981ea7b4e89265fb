"""Label values: exact inverses for any set of classes, the static part fixed for ever, regions that nnU-Net accepts."""

import itertools

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import LabelTable, nnunet_labels, static_class_sets


def test_the_static_values_never_change():
    """Golden: merges of different versions must agree. New sets may only be appended."""
    table = LabelTable.of()
    assert [table.encode({row.name}) for row in UNIVERSAL] == list(range(1, 33))
    assert table.encode({"hepatic_vessel", "liver"}) == 33
    assert table.encode({"kidney_tumor", "right_kidney"}) == 34
    assert table.encode({"kidney_tumor", "left_kidney"}) == 35
    assert table.encode({"liver_tumor", "liver"}) == 36
    assert table.encode({"pancreas_tumor", "pancreas"}) == 37
    assert table.encode({"hepatic_vessel_tumor", "liver"}) == 38
    assert table.encode({"lung_tumor", "right_lung"}) == 39
    assert table.encode({"lung_tumor", "left_lung"}) == 40
    assert table.encode({"colon_tumor", "colon"}) == 41
    assert table.encode({"kidney_cyst", "right_kidney"}) == 42
    assert table.encode({"kidney_cyst", "left_kidney"}) == 43
    assert table.max_value == 43


def test_encode_and_decode_are_inverses_for_any_set():
    sets = [frozenset(each) for n in (1, 2, 3) for each in itertools.combinations(UNIVERSAL.names[:9], n)]
    table = LabelTable.of(sets)
    for classes in [frozenset(), *sets, *static_class_sets()]:
        assert table.decode(table.encode(classes)) == classes
    for value in range(table.max_value + 1):
        assert table.encode(table.decode(value)) == value


def test_appended_values_do_not_depend_on_the_order_of_arrival():
    sets = [{"liver", "spleen"}, {"liver", "aorta", "spleen"}, {"colon", "liver"}]
    assert LabelTable.of(sets).class_sets == LabelTable.of(reversed(sets)).class_sets


def test_remap_gives_our_values_and_refuses_unknown_ones():
    table = LabelTable.of()
    source = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    classes_of = {1: {"liver"}, 2: {"liver", "liver_tumor"}}
    assert table.remap(source, classes_of, "case").tolist() == [[0, 6], [36, 6]]
    with pytest.raises(UserError, match=r"case: unknown label values \[7\]"):
        table.remap(np.array([7], dtype=np.uint8), classes_of, "case")


@pytest.mark.parametrize("ignore", [False, True])
def test_nnunet_accepts_the_labels_and_paints_tumours_on_top(ignore):
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, UNIVERSAL.names, ignore)
    manager = LabelManager(labels, order)
    assert manager.has_regions
    assert manager.num_segmentation_heads == 32
    assert np.all(np.diff(manager.all_labels) == 1)
    assert manager.ignore_label == (44 if ignore else None)
    probabilities = np.zeros((32, 3), dtype=np.float32)
    probabilities[order.index(6), :2] = 1  # liver in voxels 0 and 1
    probabilities[order.index(27), 1] = 1  # its tumour in voxel 1
    assert manager.convert_probabilities_to_segmentation(probabilities).tolist() == [6, 27, 0]


def test_membership_lists_every_value_of_a_class():
    rows = LabelTable.of().membership(["liver", "liver_tumor"])
    assert np.flatnonzero(rows[:, 0]).tolist() == [6, 33, 36, 38]
    assert np.flatnonzero(rows[:, 1]).tolist() == [27, 36]
