"""AbdomenCT-12organ or FLARE22: names do not tell, values do; a mismatch is refused."""

import shutil

import pytest

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (8.0, 8.0, 10.0)}


@pytest.fixture
def write(tmp_path):
    def write(layout, *seeds, **anatomy):
        return write_source(layout, tmp_path / layout, seeds, **SMALL, **anatomy)

    return write


def renamed(root, old, new):
    for path in list(root.rglob(f"{old}_*")):
        path.rename(path.with_name(path.name.replace(old, new)))


@pytest.mark.parametrize("is_one, is_not", [("flare22", "abdomenct_12organ"), ("abdomenct_12organ", "flare22")])
def test_other_release_is_refused_whatever_its_files_are_called(is_one, is_not, write, convert):
    source = write(is_one, 1, 2)
    names = {"flare22": "FLARE22_Tr", "abdomenct_12organ": "Organ12"}
    code, message = convert("--source", f"{is_not}={source.root}")
    assert code == 2
    assert f"use --source {is_one}={source.root}" in message
    renamed(source.root, names[is_one], names[is_not])
    assert convert("--source", f"{is_not}={source.root}")[0] == 2


def test_release_under_the_other_name_is_read_by_its_values(write, convert, converted):
    source = write("flare22", 1)
    renamed(source.root, "FLARE22_Tr", "Organ12")
    assert convert("--source", f"flare22={source.root}")[0] == 0
    assert converted.mask("flare22_Organ12_0001", "duodenum").any()


def test_two_releases_in_one_folder_are_refused(write, convert):
    root = write("flare22", 1).root
    shutil.copytree(write("abdomenct_12organ", 2).root, root / "Organ12")
    for name in ("flare22", "abdomenct_12organ"):
        code, message = convert("--source", f"{name}={root}")
        assert code == 2
        assert "abdomenct_12organ and flare22" in message


def test_single_kidneys_do_not_mislead(write, convert, converted):
    anatomy = {"anatomy": {1: {"missing": {"left_kidney"}}}}
    assert convert("--source", f"abdomenct_12organ={write('abdomenct_12organ', 1, 2, **anatomy).root}")[0] == 0
    assert converted.mask("abdomenct_12organ_Organ12_0001", "right_kidney").any()
    assert not converted.mask("abdomenct_12organ_Organ12_0001", "left_kidney").any()


def test_one_right_kidney_alone_is_no_proof_of_the_old_release(write, convert, converted):
    source = write("flare22", 1, anatomy={1: {"missing": {"left_kidney"}}})
    code, message = convert("--source", f"abdomenct_12organ={source.root}")
    assert code == 2
    assert "neither release for certain" in message
    assert convert("--source", f"flare22={source.root}")[0] == 0
    assert converted.mask("flare22_FLARE22_Tr_0001", "right_kidney").any()
