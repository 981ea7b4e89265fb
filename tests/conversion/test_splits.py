"""Splits: five folds by dataset; the copies of a scan never on both sides; every dataset in training."""

from collections import Counter

import pytest

from nnunetv2_clip.conversion.splits import make_splits
from nnunetv2_clip.manifest import CasePresence


def cases(**datasets):
    """Dataset -> number of cases, or list of groups."""
    made = {}
    for name, groups in datasets.items():
        groups = [f"{name}{number}" for number in range(groups)] if isinstance(groups, int) else groups
        for number, group in enumerate(groups):
            made[f"{name}_{number}"] = CasePresence(name, ("liver",), group=group)
    return made


@pytest.mark.parametrize("few", [2, 7])
def test_every_case_is_validated_once(few):
    given = cases(a=12, b=few)
    splits = make_splits(given)
    assert Counter(case_id for fold in splits for case_id in fold["val"]) == Counter(given.keys())
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(given)


def test_datasets_are_dealt_evenly():
    splits = make_splits(cases(a=50, b=11, c=5))
    for name, allowed in {"a": {10}, "b": {2, 3}, "c": {1}}.items():
        assert {sum(case_id.startswith(name) for case_id in fold["val"]) for fold in splits} <= allowed


def test_folds_are_of_similar_size_with_many_small_datasets():
    splits = make_splits(cases(**{f"d{number}": 2 for number in range(10)}))
    assert {len(fold["val"]) for fold in splits} == {4}


def test_copies_of_a_scan_stay_together():
    given = cases(a=["s1", "s2", "s3", "s4", "s5", "s6"], b=["s1", "s2", "s7", "s8", "s9", "s9"])
    for fold in make_splits(given):
        sides = {side: {given[case_id].group for case_id in fold[side]} for side in ("train", "val")}
        assert not sides["train"] & sides["val"]


def test_every_dataset_stays_in_training():
    given = cases(a=20, b=1, c=2, d=["s1", "s1", "s1"], e=["s2", "a0"])
    for fold in make_splits(given):
        assert {given[case_id].dataset for case_id in fold["train"]} == {"a", "b", "c", "d", "e"}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_groups_repeat_and_never_leave_a_side_empty(count):
    splits = make_splits(cases(a=count))
    assert len(splits) == 5
    assert all(fold["train"] and len(fold["val"]) == 1 for fold in splits)
    assert len({fold["val"][0] for fold in splits}) == count


def test_datasets_of_one_case_each_are_held_out_in_turn():
    splits = make_splits(cases(a=1, b=1, c=1))
    assert all(len(fold["train"]) == 2 and len(fold["val"]) == 1 for fold in splits)


def test_one_scan_cannot_be_split():
    assert make_splits(cases(a=["s"], b=["s"])) == []


def test_order_of_the_cases_does_not_matter():
    given = cases(a=9, b=4)
    assert make_splits(given) == make_splits(dict(reversed(given.items())))


def test_folds_are_the_same_in_every_version_and_do_not_follow_the_numbering():
    given = {
        f"{name}_{number}": CasePresence(name, ("liver",))
        for name, count in (("a", 6), ("b", 4))
        for number in range(count)
    }
    assert [fold["val"] for fold in make_splits(given)] == [
        ["a_3", "a_5"],
        ["a_1", "b_3"],
        ["a_0", "b_1"],
        ["a_2", "b_2"],
        ["a_4", "b_0"],
    ]
