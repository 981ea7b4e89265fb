"""Pseudo labels of one case, drawn on a line of voxels: the truth decides, then the more probable class."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.inference.streaming import Probability
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.pseudo_labels.case import complete_case, uncertainty

SPACING = (1.0, 2.0, 5.0)  # 0.01 ml


def line(*classes_of_voxels):
    """A volume (n, 1, 1) whose voxels hold the named classes ("a+b"), "" for none, "?" for unknown."""
    sets, codes = [frozenset()], []
    for text in classes_of_voxels:
        classes = None if text == "?" else frozenset(filter(None, text.split("+")))
        if classes not in sets:
            sets.append(classes)
        codes.append(sets.index(classes))
    return ClassMap(np.array(codes, np.uint16)[:, None, None], dict(enumerate(sets)))


def likely(*values):
    """Probabilities along the line, in a box from the first to the last that is not 0."""
    steps = np.round(np.array(values) * 65535).astype(np.uint16)
    there = np.flatnonzero(steps)
    if not len(there):
        return Probability()
    part = slice(int(there[0]), int(there[-1]) + 1)
    return Probability((part, slice(0, 1), slice(0, 1)), steps[part, None, None])


def drawn(coded):
    texts = {value: "?" if classes is None else "+".join(sorted(classes)) for value, classes in coded.sets.items()}
    return [texts[value] for value in coded.values.ravel().tolist()]


def complete(coded, known, probabilities, threshold=0.5, max_uncertainty=1.0):
    results = complete_case("case", coded, known, probabilities, UNIVERSAL, SPACING, threshold, max_uncertainty)
    return {result.name: result for result in results}


def test_annotated_voxels_keep_their_class_whatever_is_predicted():
    coded = line("liver", "liver", "", "")
    results = complete(coded, {"liver"}, {"spleen": likely(0.99, 0.2, 0.9, 0.4)})
    assert drawn(coded) == ["liver", "liver", "spleen", ""]
    assert (results["spleen"].voxels, results["spleen"].contradicted) == (1, 1)
    assert results["spleen"].ml == pytest.approx(0.01)


def test_a_substructure_may_share_the_voxels_of_its_organ_but_not_lie_outside_it():
    coded = line("liver", "liver", "", "spleen")
    complete(coded, {"liver", "spleen"}, {"liver_tumor": likely(0.9, 0.1, 0.9, 0.9)})
    assert drawn(coded) == ["liver+liver_tumor", "liver", "", "spleen"]


def test_a_substructure_of_an_organ_that_is_known_to_be_absent_is_nowhere():
    coded = line("", "")
    complete(coded, {"liver"}, {"liver_tumor": likely(0.9, 0.9)})
    assert drawn(coded) == ["", ""]


def test_a_predicted_organ_takes_in_the_annotated_tumour_inside_it():
    coded = line("", "liver_tumor", "")
    complete(coded, {"liver_tumor"}, {"liver": likely(0.9, 0.1, 0.9)})
    assert drawn(coded) == ["liver", "liver+liver_tumor", "liver"]


def test_a_predicted_organ_takes_in_the_predicted_tumour():
    coded = line("", "", "")
    complete(coded, set(), {"liver": likely(0.9, 0.3, 0), "liver_tumor": likely(0, 0.8, 0)})
    assert drawn(coded) == ["liver", "liver+liver_tumor", ""]


def test_a_kidney_tumour_goes_to_the_kidney_that_it_touches():
    coded = line("", "kidney_tumor", "", "", "")
    kidneys = {"right_kidney": likely(0.9, 0, 0, 0, 0), "left_kidney": likely(0, 0, 0, 0, 0.9)}
    complete(coded, {"kidney_tumor"}, kidneys)
    assert drawn(coded) == ["right_kidney", "kidney_tumor+right_kidney", "", "", "left_kidney"]


def test_a_tumour_beside_an_annotated_kidney_belongs_to_the_other_one():
    coded = line("right_kidney", "kidney_tumor", "")
    complete(coded, {"kidney_tumor", "right_kidney"}, {"left_kidney": likely(0, 0, 0.9)})
    assert drawn(coded) == ["right_kidney", "kidney_tumor+left_kidney", "left_kidney"]


def test_unknown_voxels_stay_unknown_and_do_not_count_as_contradiction():
    coded = line("?", "?", "")
    result = complete(coded, set(), {"aorta": likely(0.9, 0.9, 1.0)})["aorta"]
    assert drawn(coded) == ["?", "?", "aorta"]
    assert (result.contradicted, result.uncertainty) == (0, 0)


def test_of_two_classes_that_exclude_each_other_the_more_probable_one_gets_the_voxel():
    coded = line("", "", "")
    complete(coded, set(), {"stomach": likely(0.9, 0.6, 0.7), "pancreas": likely(0, 0.8, 0.6)})
    assert drawn(coded) == ["stomach", "pancreas", "stomach"]


def test_an_uncertain_class_stays_unknown_and_takes_no_voxel_from_others():
    coded = line("", "")
    results = complete(coded, set(), {"stomach": likely(0.9, 0.9), "pancreas": likely(0, 0.95)}, max_uncertainty=0.1)
    assert drawn(coded) == ["stomach", "pancreas"]
    coded = line("", "", "", "")
    tables = {"stomach": likely(1, 1, 1, 0.51), "pancreas": likely(0.45, 0.45, 0.45, 0.55)}
    results = complete(coded, set(), tables, max_uncertainty=0.3)
    assert drawn(coded) == ["stomach"] * 4
    assert not results["pancreas"].is_kept and results["pancreas"].voxels == 0


def test_a_class_that_is_likely_nowhere_is_certainly_empty():
    coded = line("", "")
    result = complete(coded, set(), {"prostate": likely(0, 0)}, max_uncertainty=0.0)["prostate"]
    assert result.is_kept and result.voxels == 0 and drawn(coded) == ["", ""]


def test_the_threshold_decides_per_voxel():
    coded = line("", "")
    complete(coded, set(), {"aorta": likely(0.7, 0.9)}, threshold=0.8)
    assert drawn(coded) == ["", "aorta"]


def test_uncertainty_by_hand():
    mask = np.array([True, True, False])
    assert uncertainty(np.array([1.0, 1.0, 0.0]), mask) == 0
    assert uncertainty(np.array([0.9, 0.6, 0.5]), mask) == pytest.approx(1 - 2 * 1.5 / (2.0 + 2))
    assert uncertainty(np.array([0.4, 0.0, 0.0]), np.zeros(3, bool)) == 1
    assert uncertainty(np.zeros(3), np.zeros(3, bool)) == 0


def test_what_the_truth_of_a_voxel_rules_out():
    hold = lambda name, truth, known: UNIVERSAL.can_be(name, truth, known)  # noqa: E731
    assert hold("liver_tumor", {"liver"}, {"liver"})
    assert not hold("liver_tumor", set(), {"liver"})
    assert hold("liver_tumor", set(), {"spleen"})
    assert not hold("liver", {"spleen"}, {"spleen"})
    assert hold("liver", {"liver_tumor"}, {"liver_tumor"})
    assert hold("kidney_tumor", set(), {"right_kidney"})  # the left one may be there
    assert not hold("kidney_tumor", set(), {"right_kidney", "left_kidney"})
    assert UNIVERSAL.exclude_each_other("right_kidney", "left_kidney")
    assert not UNIVERSAL.exclude_each_other("hepatic_vessel", "liver_tumor")


def test_no_pseudo_label_is_denied_where_its_organ_is_unknown():
    coded = line("liver", "", "?liver", "spleen+?liver")
    complete(coded, {"liver", "spleen"}, {"liver_tumor": likely(0.9, 0.9, 0.9, 0.9)})
    assert drawn(coded) == ["liver+liver_tumor", "", "?liver+liver_tumor", "?liver+spleen"]
