"""Which cases are drawn: balanced over datasets and classes, no case ever left out."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.training.sampling import case_probabilities, repeat_by_probability

LARGE = {f"large_{i}": CasePresence("large", ("liver",)) for i in range(9)}
MANIFEST = Manifest(UNIVERSAL, {**LARGE, "small_0": CasePresence("small", ("spleen",))})
IDS = sorted(MANIFEST.cases)


def test_balance_zero_is_uniform():
    assert case_probabilities(IDS, MANIFEST, 0) == pytest.approx(np.full(10, 0.1))


def test_balance_one_gives_each_dataset_and_class_the_same_share():
    probability = dict(zip(IDS, case_probabilities(IDS, MANIFEST, 1), strict=True))
    assert probability["small_0"] == pytest.approx(1 / 2)  # half of the datasets and half of the classes
    assert probability["large_3"] == pytest.approx(1 / 18)


def test_a_class_that_only_one_case_annotates_draws_that_case():
    cases = {f"a_{i}": CasePresence("a", ("liver",)) for i in range(4)}
    cases["a_4"] = CasePresence("a", ("liver", "spleen"))
    probabilities = case_probabilities(sorted(cases), Manifest(UNIVERSAL, cases), 1)
    # dataset: 1/5 each; classes: liver 1/2 over 5 cases, spleen 1/2 for the last
    assert probabilities[-1] == pytest.approx((1 / 5 + (1 / 5 + 1) / 2) / 2)
    assert probabilities.sum() == pytest.approx(1)


def test_pseudo_labels_draw_their_case_by_their_weight():
    cases = {"truth": CasePresence("a", ("liver",)), "guess": CasePresence("a", (), pseudo={"liver": 0.25})}
    probabilities = case_probabilities(["truth", "guess"], Manifest(UNIVERSAL, cases), 1)
    assert probabilities == pytest.approx([(1 / 2 + 1 / 1.25) / 2, (1 / 2 + 0.25 / 1.25) / 2])


def test_without_any_annotation_the_datasets_alone_decide():
    cases = {"a": CasePresence("a", ()), "b": CasePresence("b", ()), "c": CasePresence("b", ())}
    probabilities = case_probabilities(["a", "b", "c"], Manifest(UNIVERSAL, cases), 1)
    assert probabilities == pytest.approx([1 / 2, 1 / 4, 1 / 4])


def test_repeats_follow_the_probabilities_and_leave_no_case_out():
    repeated = list(repeat_by_probability(["a", "b", "c"], np.array([0.7, 0.2999, 0.0001])))
    assert (repeated.count("a"), repeated.count("b"), repeated.count("c")) == (105, 45, 1)


def test_an_incomplete_class_draws_its_case_as_an_annotated_one_does():
    cases = {"whole": CasePresence("a", ("liver",)), "part": CasePresence("a", (), incomplete=("liver",))}
    assert case_probabilities(["whole", "part"], Manifest(UNIVERSAL, cases), 1) == pytest.approx([0.5, 0.5])
