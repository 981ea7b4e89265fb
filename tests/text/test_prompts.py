"""Prompts: what stands in the gap, and which templates are refused."""

import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.prompts import sentences, template_of


def test_default_is_the_papers_third_template():
    assert sentences([UNIVERSAL.find("liver")]) == (("A computerized tomography of a liver.",),)


def test_the_gap_takes_the_prompt_noun_not_the_name():
    assert sentences([UNIVERSAL.find("gallbladder")], ["V2"]) == (
        ("There is gall bladder in this computerized tomography.",),
    )


def test_several_templates_give_several_sentences_per_class_in_order():
    rows = [ClassRow(33, "meniscus", "medial meniscus"), ClassRow(34, "tibia", "tibia")]
    assert sentences(rows, ["v1", "An MRI of a {}."]) == (
        ("A photo of a medial meniscus.", "An MRI of a medial meniscus."),
        ("A photo of a tibia.", "An MRI of a tibia."),
    )


@pytest.mark.parametrize("text", ["no gap", "{} and {}", "{0} of", "a {} with a {name}", "a { } gap"])
def test_a_template_without_exactly_one_gap_is_refused(text):
    with pytest.raises(UserError, match="exactly one gap"):
        template_of(text)


def test_the_same_template_twice_is_refused_even_under_its_short_name():
    with pytest.raises(UserError, match="twice"):
        sentences([UNIVERSAL.find("liver")], ["V1", "A photo of a {}."])
