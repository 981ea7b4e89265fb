"""Post-processing of a task's masks: by choice only, and a lesion taken from its organ leaves organ behind."""

from __future__ import annotations

import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.msd.post_processing import PostProcessing, read_rules
from nnunetv2_clip.msd.tasks import find_task

LIVER, COLON = find_task("Task03_Liver", ""), find_task("Task10_Colon", "")
# a liver of 4 voxels with a tumour of 1 in it, a lone liver voxel, a lone tumour of 2
ROW = [1, 2, 1, 1, 0, 1, 0, 2, 2, 0]


def line(values) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def apply(values, voxel_ml=1.0, task=LIVER, **rules) -> list[int]:
    return PostProcessing(**rules).apply(line(values), task, voxel_ml).ravel().tolist()


def test_without_rules_nothing_changes():
    assert apply(ROW) == ROW


def test_the_largest_liver_stays_with_its_tumour_and_everything_apart_goes():
    assert apply(ROW, keep_largest=("liver",)) == [1, 2, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_largest_tumour_stays_and_one_inside_the_liver_becomes_liver():
    assert apply(ROW, keep_largest=("liver_tumor",)) == [1, 1, 1, 1, 0, 1, 0, 2, 2, 0]


def test_a_tumour_away_from_the_liver_goes():
    assert apply(ROW, touching_organ=("liver_tumor",)) == [1, 2, 1, 1, 0, 1, 0, 0, 0, 0]


def test_small_lesions_become_the_organ_around_them_or_background():
    assert apply(ROW, voxel_ml=0.1, min_ml={"liver_tumor": 0.15}) == [1, 1, 1, 1, 0, 1, 0, 2, 2, 0]
    assert apply(ROW, voxel_ml=0.1, min_ml={"liver_tumor": 0.25}) == [1, 1, 1, 1, 0, 1, 0, 0, 0, 0]
    assert apply([1, 0, 1, 1], task=COLON, min_ml={"colon_tumor": 1.5}) == [0, 0, 1, 1]


def test_an_empty_mask_stays_empty():
    rules = {"keep_largest": ("liver",), "touching_organ": ("liver_tumor",), "min_ml": {"liver": 1.0}}
    assert apply([0, 0, 0], **rules) == [0, 0, 0]


def test_the_callers_mask_is_not_changed():
    mask = line(ROW)
    PostProcessing(keep_largest=("liver",)).apply(mask, LIVER, 1.0)
    assert mask.ravel().tolist() == ROW


def test_rules_are_read_per_task_with_aliases(tmp_path):
    (tmp_path / "rules.yaml").write_text(
        "Task03_Liver: {keep_largest: [liver], touching_organ: [liver_tumour], min_ml: {liver_cancer: 0.1}}\n"
    )
    [(folder, rules)] = read_rules(tmp_path / "rules.yaml").items()
    assert folder == "Task03_Liver"
    assert rules == PostProcessing(("liver",), ("liver_tumor",), {"liver_tumor": 0.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "cannot be read as YAML"),
        ("3", "holds no table"),
        ("Task03_Livr: {}", "Did you mean 'task03_liver'"),
        ("Task02_Heart: {}", "is an MRI task"),
        ("Task03_Liver: 3", "Task03_Liver: holds no table but 3"),
        ("Task03_Liver: {keep_largst: [liver]}", "Did you mean 'keep_largest'"),
        ("Task03_Liver: {keep_largest: liver}", "holds no list but 'liver'. Expected: a list of names of classes"),
        ("Task03_Liver: {keep_largest: [lver]}", "Did you mean 'liver'"),
        ("Task03_Liver: {keep_largest: [spleen]}", "do not belong to the task"),
        ("Task10_Colon: {touching_organ: [colon_tumor]}", "has no organ in this task"),
        ("Task03_Liver: {min_ml: {liver_tumor: -1}}", "volume in ml"),
    ],
)
def test_wrong_rules_are_explained(tmp_path, text, message):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(UserError, match="rules.yaml") as error:
        read_rules(tmp_path / "rules.yaml")
    assert message in str(error.value)
