"""BTCV: the archive's folders, MONAI's, and Gibson's labels that must not be taken for the official ones."""

import shutil

import pytest

from nnunetv2_clip.dataset_conversion.registry import find_source
from nnunetv2_clip.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name in ("Training/img/img0001", "Training/img/img0021", "Testing/img/img0061"):
        place(tmp_path, name)
    for name in ("Training/label/label0001", "Training/label/label0021"):
        place(tmp_path, name)
    return tmp_path


def place(root, name):
    path = root / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def names(root):
    return [case.case_id for case in find_source("btcv").find_cases(root)]


def test_test_images_are_no_cases(root):
    assert names(root) == ["btcv_0001", "btcv_0021"]


def test_registered_pairs_are_no_cases(root):
    place(root, "RegData/Training-Training/img/img0001-0021")
    place(root, "RegData/Training-Training/label/label0001-0021")
    assert names(root) == ["btcv_0001", "btcv_0021"]


def test_layout_of_monai_is_read(root):
    shutil.move(root / "Training/img", root / "imagesTr")
    shutil.move(root / "Training/label", root / "labelsTr")
    shutil.move(root / "Testing/img", root / "imagesTs")
    assert names(root) == ["btcv_0001", "btcv_0021"]


def test_two_labels_of_a_scan_are_refused(root):
    place(root, "label_btcv_multiorgan/label0001")
    with pytest.raises(UserError, match="label0001.* are both case '0001'"):
        names(root)


def test_lost_label_is_named(root):
    (root / "Training/label/label0021.nii.gz").unlink()
    with pytest.raises(UserError, match="image without label: .*img0021"):
        names(root)
