"""WORD: the labels of its test part come in an archive of their own."""

import pytest

from nnunetv2_clip.dataset_conversion.registry import find_source
from nnunetv2_clip.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name in ("imagesTr/word_0002", "labelsTr/word_0002", "imagesVal/word_0001", "labelsVal/word_0001"):
        place(tmp_path, name)
    for name in ("imagesTs/word_0014", "imagesTs/word_0016"):
        place(tmp_path, name)
    return tmp_path


def place(root, name):
    path = root / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def names(root):
    return [case.case_id for case in find_source("word").find_cases(root)]


def test_test_images_are_cases_only_with_their_labels(root):
    assert names(root) == ["word_0001", "word_0002"]
    place(root, "labelsTs/word_0014")
    place(root, "labelsTs/word_0016")
    assert names(root) == ["word_0001", "word_0002", "word_0014", "word_0016"]


def test_half_of_the_test_labels_is_an_error(root):
    place(root, "labelsTs/word_0014")
    with pytest.raises(UserError, match="image without label: .*word_0016"):
        names(root)
