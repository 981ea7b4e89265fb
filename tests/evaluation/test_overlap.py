"""Voxel counts and Dice, with numbers that can be counted in the drawing."""

import math

import numpy as np
import pytest
from surface_distance import compute_dice_coefficient

from nnunetv2_clip.evaluation import overlap as module
from nnunetv2_clip.evaluation.overlap import joint_histogram, overlaps
from nnunetv2_clip.evaluation.surface import surface_metrics
from nnunetv2_clip.evaluation.volumes import LabelVolume
from nnunetv2_clip.labels import label_sets
from tests.evaluation.drawings import grid, row, volume


def test_counts_and_dice_of_a_drawing():
    reference = volume(row(0, 1, 1, 1, 0, 0), a=(1,))
    prediction = volume(row(0, 0, 5, 5, 5, 0), a=(5,))
    found = overlaps(reference, prediction, ["a"])["a"]
    assert (found.true_positive, found.false_positive, found.false_negative, found.true_negative) == (2, 1, 1, 2)
    assert found.dice == pytest.approx(4 / 6)
    assert found.iou == pytest.approx(2 / 4)


def test_class_of_several_values_is_their_union():
    reference = volume(row(1, 2, 3, 0), organ=(1, 2), part=(2,))
    prediction = volume(row(7, 7, 0, 0), organ=(7, 8), part=(8,))
    found = overlaps(reference, prediction, ["organ", "part"])
    assert found["organ"].dice == 1
    assert found["part"].dice == 0


def test_both_empty_is_nan_and_one_empty_is_zero():
    nothing, something = volume(row(0, 0), a=(1,)), volume(row(1, 0), a=(1,))
    assert math.isnan(overlaps(nothing, nothing, ["a"])["a"].dice)
    assert math.isnan(overlaps(nothing, nothing, ["a"])["a"].iou)
    assert overlaps(nothing, something, ["a"])["a"].dice == 0
    assert overlaps(something, nothing, ["a"])["a"].dice == 0


def test_ignored_voxels_are_left_out():
    reference = volume(row(1, 1, 9, 9, 0), ignore=9, a=(1,))
    prediction = volume(row(1, 1, 1, 0, 0), a=(1,))
    found = overlaps(reference, prediction, ["a"])["a"]
    assert found.dice == 1
    assert found.true_positive + found.false_positive + found.false_negative + found.true_negative == 3


def test_voxels_that_the_prediction_ignores_are_left_out():
    reference = volume(row(1, 1, 1, 0, 0), a=(1,))
    prediction = volume(row(1, 9, 9, 9, 0), ignore=9, a=(1,))
    found = overlaps(reference, prediction, ["a"])["a"]
    assert (found.true_positive, found.false_positive, found.false_negative, found.true_negative) == (1, 0, 0, 1)
    whole = overlaps(reference, volume(row(1, 0, 0, 0, 0), ignore=9, a=(1,)), ["a"])["a"]  # no voxel is ignored
    assert whole.false_negative == 2


def test_class_that_the_prediction_does_not_know_has_no_voxel():
    found = overlaps(volume(row(1, 0), a=(1,)), volume(row(0, 0)), ["a"])["a"]
    assert (found.num_reference, found.num_predicted) == (1, 0)


def test_slabs_count_like_one_pass(monkeypatch):
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 5, (2, 9, 7, 5)).astype(np.uint8)
    whole = joint_histogram(reference, prediction)
    monkeypatch.setattr(module, "SLAB_VOXELS", 10)
    np.testing.assert_array_equal(joint_histogram(reference, prediction), whole)
    assert whole.sum() == 9 * 7 * 5


@pytest.mark.parametrize("seed", range(3))
def test_dice_equals_the_official_library(seed):
    rng = np.random.default_rng(seed)
    reference, prediction = rng.integers(0, 4, (2, 6, 5, 4)).astype(np.uint8)
    found = overlaps(volume(reference, a=(1, 3)), volume(prediction, a=(2,)), ["a"])["a"]
    assert found.dice == pytest.approx(compute_dice_coefficient(np.isin(reference, (1, 3)), prediction == 2))


def test_voxels_that_are_unknown_for_one_class_count_for_the_others():
    """Value 3: spleen, and nothing is known about the liver; value 4: nothing is known about the spleen."""
    labels = {"liver": [1], "spleen": [2, 3]}
    sets = label_sets(labels, unknown={"liver": [3], "spleen": [4]})
    reference = LabelVolume(row(1, 3, 4, 2, 0), sets, grid((5, 1, 1)))
    prediction = volume(row(1, 1, 2, 2, 1), liver=[1], spleen=[2])
    found = overlaps(reference, prediction, labels)
    liver, spleen = found["liver"], found["spleen"]
    counts = lambda each: (each.true_positive, each.false_positive, each.false_negative, each.true_negative)  # noqa: E731
    assert counts(liver) == (1, 1, 0, 2)
    assert counts(spleen) == (1, 0, 1, 2)
    assert surface_metrics(reference, volume(row(1, 1, 2, 2, 0), liver=[1], spleen=[2]), "liver", 1)[0] == 1
