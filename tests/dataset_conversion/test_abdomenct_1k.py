"""AbdomenCT-1K: directions that are not orthonormal, images published without label."""

import shutil

import numpy as np
import pytest

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (8.0, 8.0, 10.0)}


@pytest.fixture
def source(tmp_path):
    """Case 1 with orthonormal directions, case 11 with others, case 10 without label."""
    return write_source("abdomenct_1k", tmp_path / "source", [1, 2], [3], **SMALL)


def deviation(affine):
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.abs(cosines.T @ cosines - np.eye(3)).max()


def test_directions_become_orthonormal(source, convert, converted):
    assert convert("--source", f"abdomenct_1k={source.root}")[0] == 0
    assert set(converted.cases) == {"abdomenct_1k_00001", "abdomenct_1k_00011"}
    for case_id in converted.cases:
        assert deviation(converted.image(case_id).affine) < 1e-6
        assert np.array_equal(converted.image(case_id).affine, converted.label(case_id).affine)
    assert converted.cases["abdomenct_1k_00001"].geometry_fixes == ()
    assert "orthonormal" in converted.cases["abdomenct_1k_00011"].geometry_fixes[0]


def test_directions_stay_when_the_repair_is_off(source, convert, converted):
    assert convert("--source", f"abdomenct_1k={source.root}", "--no-repair", "directions")[0] == 0
    assert deviation(converted.image("abdomenct_1k_00011").affine) > 1e-3


def test_lost_label_is_not_taken_for_an_unlabelled_case(source, convert):
    source.cases["Case_00001"].labels[0].unlink()
    code, message = convert("--source", f"abdomenct_1k={source.root}")
    assert code == 2
    assert "image without label" in message
    assert "Case_00001_0000.nii.gz" in message
    assert "Case_00010" not in message


@pytest.mark.parametrize("name", ["TumorPseudoLabel", "pseudo tumour labels", "Mask/tumor"])
def test_pseudo_labels_of_tumours_below_the_same_root_are_passed_over(name, source, convert, converted):
    label = source.cases["Case_00001"].labels[0]
    (source.root / name).mkdir(parents=True)
    shutil.copy(label, source.root / name / label.name)
    assert convert("--source", f"abdomenct_1k={source.root}")[0] == 0
    assert converted.cases["abdomenct_1k_00001"].source_files["label"] == str(label)
