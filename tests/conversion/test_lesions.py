"""Lesions of paired organs that were drawn without their organ: drawings in RAS, larger x is right."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.lesions import join_organs
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap

KIDNEYS = ("right_kidney", "left_kidney")
ANNOTATED = (*KIDNEYS, "kidney_tumor")
SETS = {1: ("right_kidney",), 2: ("left_kidney",), 3: ("kidney_tumor",)}
AFFINE = np.diag([2.0, 2, 2, 1])


def drawing(*tumours: slice) -> np.ndarray:
    label_map = np.zeros((60, 20, 10), np.uint8)
    label_map[40:50, 5:15, 1:9], label_map[10:20, 5:15, 1:9] = 1, 2
    for x in tumours:
        label_map[x, 8:10, 4:6] = 3
    return label_map


def ct(has_body: bool = True) -> Volume:
    image = np.full((60, 20, 10), -1000, np.int16)
    if has_body:
        image[2:58, 1:19], image[25:35, 2:7] = 40, 400
    return Volume(image, AFFINE)


def joined(label_map, annotated=ANNOTATED, image=None):
    before = ClassMap(label_map, SETS)
    labels, annotated, notes = join_organs(before, annotated, UNIVERSAL, (lambda: image) if image else None)
    return lambda x: labels.sets.get(int(labels.values[x, 8, 4])), annotated, notes


def test_each_lesion_gets_the_organ_that_it_touches():
    at, annotated, notes = joined(drawing(slice(50, 53), slice(18, 40 - 2)))
    assert at(51) == {"kidney_tumor", "right_kidney"}
    assert at(36) == {"kidney_tumor", "left_kidney"}  # though it lies right of the middle
    assert (annotated, notes) == (ANNOTATED, ())


def test_a_lesion_that_touches_nothing_goes_by_the_midplane():
    at, annotated, _ = joined(drawing(slice(34, 37)), image=ct())
    assert at(35) == {"kidney_tumor", "right_kidney"} and annotated == ANNOTATED


@pytest.mark.parametrize("image", [None, ct(has_body=False)])
def test_without_a_midplane_such_a_pair_is_not_annotated(image):
    at, annotated, notes = joined(drawing(slice(34, 37)), image=image)
    assert at(35) == {"kidney_tumor"} and annotated == ("kidney_tumor",) and "not certain" in notes[0]


def test_where_the_organs_are_not_annotated_a_lesion_stays_alone():
    at, annotated, notes = joined(drawing(slice(50, 53)), annotated=("kidney_tumor",))
    assert at(51) == {"kidney_tumor"} and (annotated, notes) == (("kidney_tumor",), ())


def test_values_without_a_meaning_stay_what_they_are():
    label_map = drawing(slice(50, 53))
    label_map[0] = 4
    labels, _, _ = join_organs(ClassMap(label_map, SETS), ANNOTATED, UNIVERSAL, None)
    assert (labels.values[0] == 4).all() and 4 not in labels.sets
