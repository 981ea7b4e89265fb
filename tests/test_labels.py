"""Label values: exact inverses for any set of classes, the static part fixed for ever, regions that nnU-Net accepts."""

import itertools

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_clip import labels as module
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import (
    ClassMap,
    LabelTable,
    label_sets,
    nnunet_labels,
    static_class_sets,
    unknown_labels,
    unknown_of,
    value_counts,
)


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
    assert max(table.sets) == 43


def test_encode_and_decode_are_inverses_for_any_set():
    sets = [frozenset(each) for n in (1, 2, 3) for each in itertools.combinations(UNIVERSAL.names[:9], n)]
    table = LabelTable.of(sets)
    for classes in [frozenset(), *sets, *static_class_sets()]:
        assert table.sets[table.encode(classes)] == classes
    for value in range(max(table.sets) + 1):
        assert table.encode(table.sets[value]) == value


def test_appended_values_do_not_depend_on_the_order_of_arrival():
    sets = [{"liver", "spleen"}, {"liver", "aorta", "spleen"}, {"colon", "liver"}]
    assert LabelTable.of(sets).class_sets == LabelTable.of(reversed(sets)).class_sets


SETS = {1: {"liver"}, 2: {"liver", "liver_tumor"}, 5: None}


def test_remap_gives_our_values_and_refuses_unknown_ones():
    source = ClassMap(np.array([[0, 1], [2, 1]], dtype=np.uint8), SETS)
    assert source.remap(LabelTable.of(), "case").tolist() == [[0, 6], [36, 6]]
    with pytest.raises(UserError, match=r"case: unknown label values \[7\].*values out of \[0, 1, 2, 5\]"):
        ClassMap(np.array([7], dtype=np.uint8), SETS).remap(LabelTable.of(), "case")


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint64])
def test_values_of_any_integer_type_are_remapped_alike(dtype):
    large = 100 if dtype is np.int8 else 2_000_000
    low = 7 if dtype is np.uint64 else -100
    found = ClassMap(np.array([[low, 0, large], [large, low, 5]], dtype), {low: {"liver"}, large: {"spleen"}, 5: None})
    remapped = found.remap(LabelTable.of(), "case", unknown=44)
    assert remapped.dtype == np.uint16 and remapped.tolist() == [[6, 0, 1], [1, 6, 44]]
    assert found.mask("liver").tolist() == [[True, False, False], [False, True, False]]
    assert found.known().tolist() == [[True, True, True], [True, True, False]]
    foreign = ClassMap(np.array([large, low, 3], dtype), {large: {"liver"}, 3: ()})
    with pytest.raises(UserError, match=rf"unknown label values \[{low}\]"):
        foreign.remap(LabelTable.of(), "case")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_values_are_counted_slab_by_slab_as_by_sorting(dtype, monkeypatch):
    info = np.iinfo(dtype)
    array = np.random.default_rng(0).choice(np.array([info.min, 0, 1, 3, info.max - 1, info.max], dtype), (7, 5, 3))
    values, counts = np.unique(array, return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    for turned in (array, array.T, np.flip(array, 1)[::2], array[:0]):
        assert value_counts(turned) == (
            expected if turned.size == array.size else {v: n for v in expected if (n := int((turned == v).sum()))}
        )
    monkeypatch.setattr(module, "SLAB_VOXELS", 10)
    assert value_counts(array) == expected


def test_values_beyond_the_range_of_a_type_are_neither_lost_nor_taken_for_others():
    huge = np.array([2**63 + 1, 2**63, 2**63 + 1], np.uint64)
    assert value_counts(huge) == {2**63: 1, 2**63 + 1: 2}
    assert ClassMap(huge, {2**63: {"liver"}}).mask("liver").tolist() == [False, True, False]
    small = ClassMap(np.array([255, 0], np.uint8), {-1: {"liver"}, 256: {"liver"}, 255: {"spleen"}})
    assert small.mask("liver").tolist() == [False, False] and small.mask("spleen").tolist() == [True, False]


def test_each_voxel_has_the_classes_of_all_its_masks():
    masks = [
        (np.array([1, 1, 1, 0, 0], bool), ("liver",)),
        (np.array([0, 1, 1, 1, 0], bool), ("stomach",)),
        (np.array([0, 0, 1, 0, 0], bool), ("kidney_cyst", "right_kidney")),
    ]
    found = ClassMap.of_masks((5,), iter(masks))
    assert [set(found.sets[value]) for value in found.values.tolist()] == [
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
    found = ClassMap.of_masks((3,), masks)
    assert found.values[0] == found.values[1]
    assert found.sets[found.values[0]] == {"a", "b"}


def test_no_mask_is_background():
    found = ClassMap.of_masks((2, 3))
    assert not found.values.any()
    assert found.sets == {0: frozenset()}


def test_classes_are_added_inside_a_box_and_never_to_unknown_voxels():
    found = ClassMap(np.array([[1, 0, 5], [1, 0, 9]], np.uint8), SETS)
    found.add({"spleen"}, np.array([[True, True]]), (slice(0, 1), slice(1, 3)))
    assert found.mask("spleen").tolist() == [[False, True, False], [False, False, False]]
    assert found.values[0, 2] == 5 and found.values[1, 2] == 9
    assert found.values[0, 1] > 9  # a value that nothing marks yet, declared or not
    assert SETS.keys() == {1, 2, 5}  # the caller's table stays as it is


def test_voxels_of_all_classes_are_counted_at_once():
    found = ClassMap(np.array([0, 1, 2, 2, 5, 7], np.uint8), SETS)
    assert found.num_voxels() == {"liver": 3, "liver_tumor": 2}
    assert found.names == {"liver", "liver_tumor"} and found.values_of("liver") == (1, 2)


def test_what_becomes_unknown_leaves_the_original_alone():
    before = ClassMap(np.array([0, 1, 2], np.uint8), SETS)
    after = before.with_unknown(np.array([True, True, False]))
    assert after.known().tolist() == [False, False, True] and after.mask("liver").tolist() == [False, False, True]
    assert before.values.tolist() == [0, 1, 2] and before.known().all()
    assert ClassMap(before.values, {}).known() is None


def test_labels_of_a_dataset_json_are_sets_of_classes():
    labels = {"background": 0, "liver": [1, 2], "liver_tumour": [2, 2], "spleen": 4, "ignore": 5}
    found = label_sets(labels, "dataset.json", UNIVERSAL)
    assert found == {0: set(), 1: {"liver"}, 2: {"liver", "liver_tumor"}, 4: {"spleen"}, 5: None}
    assert label_sets(labels)[2] == {"liver", "liver_tumour"}


@pytest.mark.parametrize("region", ["x", -3, 0, True, [1, [2]], 1.5])
def test_region_without_label_values_is_refused(region):
    with pytest.raises(UserError, match="the label values of 'liver'"):
        label_sets({"background": 0, "liver": region}, "dataset.json")


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


def test_the_region_of_a_class_is_every_value_that_contains_it():
    assert LabelTable.of().values_of("liver") == (6, 33, 36, 38)
    assert LabelTable.of().values_of("liver_tumor") == (27, 36)


MARKED = {1: {"liver"}, 2: {"spleen"} | unknown_of(["liver"]), 3: None, 4: unknown_of(["liver", "spleen"])}


def test_voxels_that_are_unknown_for_some_classes():
    labels = ClassMap(np.array([0, 1, 2, 3, 4], np.uint16), MARKED)
    assert labels.known("liver").tolist() == [True, True, False, False, False]
    assert labels.known("spleen").tolist() == [True, True, True, False, False]
    assert labels.known().tolist() == [True, True, True, False, True]
    assert labels.names == {"liver", "spleen"} and labels.num_voxels() == {"liver": 1, "spleen": 1}
    assert labels.mask("liver").tolist() == [False, True, False, False, False]
    changed = labels.with_sets(lambda classes: classes | {"liver"} if "spleen" in classes else classes)
    assert changed.sets[2] == {"spleen", "liver"} and changed.sets[4] == unknown_of(["liver", "spleen"])
    assert labels.with_unknown_of(["spleen"]).sets[4] == unknown_of(["spleen"])
    labels.add(["liver"], np.array([False, False, True, True, True]))
    found = [labels.sets[value] for value in labels.values.tolist()]
    assert found[2:] == [{"spleen", "liver"}, None, {"liver"} | unknown_of(["spleen"])]


def test_unknown_classes_go_through_dataset_json_and_leave_the_ignore_label_where_nnunet_wants_it():
    new = [frozenset(MARKED[value]) for value in (2, 4)]
    table = LabelTable.of().extended(new)
    labels, _ = nnunet_labels(table, UNIVERSAL, UNIVERSAL.names, ignore=True)
    declared = {value for name in UNIVERSAL.names for value in labels[name]}
    assert labels["ignore"] == max(declared) + 1 == len(declared) + 1
    unknown = unknown_labels(table, UNIVERSAL)
    read = label_sets(labels, unknown=unknown)
    for classes in new:
        assert read[table.encode(classes)] == classes
    assert table.encode(MARKED[4]) > labels["ignore"] and read[labels["ignore"]] is None
    assert LabelTable.of().extended([]) == LabelTable.of() and unknown_labels(LabelTable.of(), UNIVERSAL) == {}


@pytest.mark.parametrize("unknown", [{"liver": ["x"]}, {"liver": 0}, {"livr": [3]}, ["liver"]])
def test_a_wrong_entry_of_unknown_values_is_refused(unknown):
    with pytest.raises(UserError, match="liver|livr"):
        label_sets({"background": 0, "liver": [1]}, "dataset.json", UNIVERSAL, unknown)
