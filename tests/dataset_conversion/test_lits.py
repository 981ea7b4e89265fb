"""LiTS: segmentations whose headers disagree with their volumes."""

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (8.0, 8.0, 10.0)}


@pytest.fixture
def lits(tmp_path):
    """Two cases, LPS and RAS, whose segmentations' headers say RAS."""
    return write_source("lits", tmp_path / "lits", [1, 2], numbers=(48, 49), label_headers=True, **SMALL)


def rewrite(path, change):
    image = nib.load(path)
    data = np.ascontiguousarray(change(np.asanyarray(image.dataobj)))
    nib.save(nib.Nifti1Image(data, image.affine), path)


def test_segmentation_lies_on_the_array_of_its_volume(lits, convert, converted):
    assert convert("--source", f"lits={lits.root}")[0] == 0
    for number, was_wrong in ((48, True), (49, False)):
        case = converted.cases[f"lits_{number}"]
        drawn = np.asanyarray(nib.load(case.source_files["label"]).dataobj)
        assert np.array_equal(converted.mask(f"lits_{number}", "liver"), drawn > 0)
        assert np.array_equal(converted.mask(f"lits_{number}", "liver_tumor"), drawn == 2)
        volume = nib.load(case.source_files["image"])
        assert np.allclose(converted.label(f"lits_{number}").affine, volume.affine)
        fixes = [fix for fix in case.geometry_fixes if "taken from its volume" in fix]
        assert len(fixes) == was_wrong


def test_without_the_repair_it_is_refused(lits, convert):
    code, message = convert("--source", f"lits={lits.root}", "--no-repair", "label_header")
    assert code == 3
    assert "segmentation-48.nii: does not lie on the grid" in message


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_array_that_lies_another_way_round_is_refused(axis, lits, convert):
    rewrite(lits.cases["volume-48"].labels[0], lambda data: np.flip(data, axis))
    code, message = convert("--source", f"lits={lits.root}")
    assert code == 3
    assert "segmentation-48.nii: fits" in message


def test_other_shape_is_refused(lits, convert):
    rewrite(lits.cases["volume-48"].labels[0], lambda data: data[:, :, 1:])
    code, message = convert("--source", f"lits={lits.root}")
    assert code == 3
    assert "segmentation-48.nii: does not lie on the grid" in message
