"""The shared face: registry, completion by the taxonomy, finding files, and one contract over all sources."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.source import complete, match_pairs, nifti_files
from nnunetv2_clip.dataset_conversion.registry import all_sources, find_source
from nnunetv2_clip.errors import UserError


@pytest.mark.parametrize("source", all_sources().values(), ids=lambda source: source.name)
def test_facts_of_a_source_speak_the_taxonomy(source):
    named = {name for classes in source.label_table.values() for name in classes}
    assert set(source.annotated) | set(source.absent) | named <= set(UNIVERSAL.names)
    assert source.annotated or source.name == "unlabelled"
    assert not set(source.annotated) & set(source.absent)
    for text in (source.title, source.licence, source.url, source.unpack):
        assert text
    assert re.fullmatch(r"[a-z0-9_]+", source.name)


@pytest.mark.parametrize("source", all_sources().values(), ids=lambda source: source.name)
def test_another_folder_is_refused(source, tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=re.escape(str(tmp_path))):
            source.find_cases(root)


def test_typo_in_a_source_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'msd_spleen'"):
        find_source("msd_splen")


def test_organ_includes_its_part_only_where_it_is_annotated():
    assert complete(["liver_tumor"], ["liver", "liver_tumor"], UNIVERSAL) == {"liver", "liver_tumor"}
    assert complete(["liver_tumor"], ["liver_tumor"], UNIVERSAL) == {"liver_tumor"}
    assert complete(["liver_tumor"], ["liver"], UNIVERSAL) == {"liver"}
    assert complete(["spleen"], ["liver"], UNIVERSAL) == set()


def test_part_of_a_pair_adds_no_side():
    annotated = ["left_kidney", "right_kidney", "kidney_tumor"]
    assert complete(["kidney_tumor"], annotated, UNIVERSAL) == {"kidney_tumor"}
    assert complete(["kidney_tumor", "left_kidney"], annotated, UNIVERSAL) == {"kidney_tumor", "left_kidney"}


def test_junk_is_not_found(tmp_path):
    for name in ("._a.nii.gz", ".b.nii.gz", "_c.nii.gz", "a.nii.gz", "b.nii", "note.txt"):
        (tmp_path / name).touch()
    assert list(nifti_files(tmp_path)) == ["a", "b"]
    (tmp_path / "a.nii").touch()
    with pytest.raises(UserError, match="a.nii"):
        nifti_files(tmp_path)


def test_lonely_files_are_named():
    images, labels = {"1": Path("i1"), "2": Path("i2")}, {"1": Path("l1")}
    with pytest.raises(UserError, match="image without label: i2"):
        match_pairs(images, labels, "here")
    with pytest.raises(UserError, match="label without image: i2"):
        match_pairs(labels, images, "here")


def test_help_needs_no_heavy_import():
    code = "import sys; from nnunetv2_clip.cli import command_parser; command_parser('convert'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "nibabel", "torch", "yaml", "pydantic"} & set(loaded)
