"""KiTS: sides of kidneys, tumours and cysts; three releases that look alike; aggregated annotations of KiTS21."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (8.0, 8.0, 10.0)}


def values(path):
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize("lost, kept", [("left_kidney", "right_kidney"), ("right_kidney", "left_kidney")])
def test_single_kidney_keeps_its_side(lost, kept, convert, converted, tmp_path):
    source = write_source("kits23", tmp_path / "kits", [1, 2], anatomy={1: {"missing": {lost}}}, **SMALL)
    assert convert("--source", f"kits23={source.root}")[0] == 0
    case = converted.cases["kits23_case_00000"]
    assert {lost, kept, "kidney_tumor", "kidney_cyst"} == set(case.annotated)
    assert not converted.mask("kits23_case_00000", lost).any()
    label = values(source.cases["case_00000"].labels[0])
    assert np.array_equal(converted.mask("kits23_case_00000", kept), label > 0)


def test_cyst_is_kidney_but_not_annotated_in_kits19(convert, converted, tmp_path):
    source = write_source("kits19", tmp_path / "kits", [1], **SMALL)
    assert convert("--source", f"kits19={source.root}")[0] == 0
    assert set(converted.cases["kits19_case_00000"].annotated) == {"right_kidney", "left_kidney", "kidney_tumor"}


def test_majority_is_read_and_the_union_as_in_the_paper(convert, converted, nnunet, tmp_path, capsys):
    source = write_source("kits21", tmp_path / "kits", [1], **SMALL)
    folder = source.root / "data" / "case_00000"
    majority, union = (values(folder / f"aggregated_{name}_seg.nii.gz") == 2 for name in ("MAJ", "OR"))
    assert majority.sum() < union.sum()
    assert convert("--source", f"kits21={source.root}")[0] == 0
    assert np.array_equal(converted.mask("kits21_case_00000", "kidney_tumor"), majority)
    code, message = convert("--source", f"kits21={source.root}", "--as-paper")
    assert code == 2
    assert "was begun with other sources" in message
    shutil.rmtree(nnunet.raw)
    code, message = convert("--source", f"kits21={source.root}", "--as-paper")
    assert code == 2 and f"{nnunet.preprocessed}: holds another dataset" in message
    shutil.rmtree(nnunet.preprocessed)
    assert convert("--source", f"kits21={source.root}", "--as-paper")[0] == 0
    assert np.array_equal(converted.mask("kits21_case_00000", "kidney_tumor"), union)


def test_kits19_is_not_taken_for_kits23(convert, tmp_path):
    """Its cysts are kidney: as KiTS23 they would teach that there are none."""
    source = write_source("kits19", tmp_path / "kits", [1], **SMALL)
    code, message = convert("--source", f"kits23={source.root}")
    assert code == 2
    assert "kits19=PATH" in message


def test_kits23_is_not_taken_for_kits19(convert, tmp_path):
    source = write_source("kits23", tmp_path / "kits", [1], **SMALL)
    code, message = convert("--source", f"kits19={source.root}")
    assert code == 2
    assert "use --source kits23=" in message


def test_missing_download_of_an_image_is_named(convert, tmp_path):
    source = write_source("kits23", tmp_path / "kits", [1, 2], **SMALL)
    image = source.cases["case_00400"].image
    image.rename(image.with_name(".partial.imaging.nii.gz"))
    code, message = convert("--source", f"kits23={source.root}")
    assert code == 2
    assert "label without image" in message
    assert "case_00400" in message
