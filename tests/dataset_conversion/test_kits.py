"""KiTS: sides of kidneys, tumours and cysts; three releases that look alike; aggregated annotations of KiTS21."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.dataset_conversion.registry import find_source
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
    folder = source.root / "kits21" / "data" / "case_00000"
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


@pytest.mark.parametrize("layout", ["kits19", "kits21", "kits23"])
def test_cases_whose_images_are_not_downloaded_are_left_out_and_named(layout, convert, converted, capsys, tmp_path):
    """A clone brings all labels; its script fetches the images one by one."""
    source = write_source(layout, tmp_path / "kits", [1, 2], **SMALL)
    there, missing = source.cases.values()
    missing.image.rename(missing.image.with_name(".partial.imaging.nii.gz"))
    check = ["check", "--source", f"{layout}={source.root}", "-o", str(tmp_path / "check.html"), "-np", "1"]
    assert main([*check, "--partial"]) == 0
    assert f"images are not downloaded: {missing.case_id}" in capsys.readouterr().out
    assert f"images are not downloaded: {missing.case_id}" in (tmp_path / "check.html").read_text()
    assert main(check) == 1
    assert "1 labelled cases found, the complete download has" in capsys.readouterr().out
    assert convert("--source", f"{layout}={source.root}")[0] == 0
    assert set(converted.cases) == {f"{layout}_{there.case_id}"}
    there.image.unlink()
    code, message = convert("--source", f"{layout}={source.root}", dataset="901")
    assert code == 2 and "label without image" in message


def test_images_left_out_are_named_by_convert_and_a_lost_label_is_refused(convert, tmp_path, capsys):
    source = write_source("kits23", tmp_path / "kits", [1, 2], **SMALL)
    first, second = source.cases.values()
    first.image.unlink()
    main(["convert", "-d", "900", "-np", "1", "--source", f"kits23={source.root}"])
    assert f"images are not downloaded: {first.case_id}" in capsys.readouterr().out
    second.labels[0].unlink()
    code, message = convert("--source", f"kits23={source.root}", dataset="901")
    assert code == 2 and "image without label" in message and second.case_id in message


@pytest.mark.parametrize("inner", ["", "kits21", "kits21/data"])
def test_kits21_is_found_in_its_clone_and_below(inner, tmp_path):
    source = write_source("kits21", tmp_path / "kits", [1], **SMALL)
    [case] = find_source("kits21").find_cases(source.root / inner)
    assert case.image == source.root / "kits21" / "data" / "case_00000" / "imaging.nii.gz"
