"""Custom tables with one mask file per class."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.manifest import Manifest

CLASSES = "classes: [{index: 33, name: heart}, {index: 34, name: left_atrium, parents: [heart]}]"
TABLE = """
name: parts
images: "{case}/ct.nii.gz"
masks:
  small_bowel: "{case}/masks/bowel.nii.gz"
  heart: ["{case}/masks/heart_a.nii.gz", "{case}/masks/heart_b.nii.gz"]
  left_atrium: "{case}/masks/atrium.nii.gz"
"""
MASKS = {"bowel": (1, 0, 0, 0, 0), "heart_a": (0, 1, 0, 0, 0), "heart_b": (0, 0, 1, 0, 0), "atrium": (0, 1, 0, 1, 0)}


@pytest.fixture
def written(folder):
    def write(table=TABLE):
        folder.image("p1/ct.nii.gz", 1)
        for name, values in MASKS.items():
            folder.label(f"p1/masks/{name}.nii.gz", *values)
        (folder.path / "table.yaml").write_text(table)
        (folder.path / "classes.yaml").write_text(CLASSES)
        return ["--taxonomy", folder.path / "classes.yaml", "--source", f"custom={folder.path / 'table.yaml'}"]

    return write


def test_masks_of_a_class_are_united_overlap_and_complete_their_organ(written, nnunet, convert):
    assert convert(*written())[0] == 0
    label_map = np.asanyarray(nib.load(nnunet.raw / "labelsTr" / "parts_p1.nii.gz").dataobj)
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    found = [{name for name, values in labels.items() if label_map[x, 0, 0] in np.atleast_1d(values)} for x in range(5)]
    assert found == [{"intestine"}, {"heart", "left_atrium"}, {"heart"}, {"heart", "left_atrium"}, {"background"}]
    case = Manifest.load(nnunet.raw / "label_presence.json").case("parts_p1")
    assert set(case.annotated) == {"intestine", "heart", "left_atrium"}
    assert len(case.checksums) >= 5


def test_a_case_without_one_of_the_masks_is_named(written, folder, convert):
    arguments = written()
    folder.image("p2/ct.nii.gz", 2)
    for name in ("bowel", "heart_a", "heart_b"):
        folder.label(f"p2/masks/{name}.nii.gz", *MASKS[name])
    code, error = convert(*arguments)
    assert code == 2
    assert "'p2' has no mask '{case}/masks/atrium.nii.gz'" in error


def test_a_mask_that_no_case_has_is_named(written, folder, convert):
    arguments = written()
    (folder.path / "p1" / "masks" / "atrium.nii.gz").unlink()
    code, error = convert(*arguments)
    assert code == 2
    assert "no file fits '{case}/masks/atrium.nii.gz'" in error


def test_a_label_map_is_no_mask(written, folder, convert):
    arguments = written()
    folder.label("p1/masks/bowel.nii.gz", 1, 2)
    code, error = convert(*arguments)
    assert code == 3
    assert "[0, 1, 2]" in error


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("small_bowel:", "smal_bowel:"), "Did you mean"),
        (("masks:", "values: {1: liver}\nmasks:"), "'masks' and ['values']"),
        (('"{case}/masks/bowel.nii.gz"', "5"), "a pattern below"),
        (('"{case}/masks/bowel.nii.gz"', "bowel.nii.gz"), "a pattern with {case}"),
        (("small_bowel:", 'intestine: "{case}/masks/atrium.nii.gz"\n  small_bowel:'), "twice"),
    ],
)
def test_a_wrong_table(written, convert, change, complaint):
    code, error = convert(*written(TABLE.replace(*change)))
    assert code == 2
    assert complaint in error
