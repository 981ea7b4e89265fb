"""The groups of TotalSegmentator v1 as tables that convert takes."""

import numpy as np
import pytest
import yaml

from nnunetv2_clip.choices import TOTALSEGMENTATOR_GROUPS as OFFERED
from nnunetv2_clip.cli import main
from nnunetv2_clip.dataset_conversion.totalsegmentator_groups import GROUPS, class_rows, left_out, prompt_noun
from nnunetv2_clip.manifest import Manifest


def test_the_groups_have_the_published_numbers_of_structures():
    assert {name: len(group) for name, group in GROUPS.items()} == {
        "organs": 17,
        "vertebrae": 24,
        "cardiac": 18,
        "muscles": 21,
    }
    assert tuple(GROUPS) == OFFERED
    assert len({name for group in GROUPS.values() for name in group}) == 80


@pytest.mark.parametrize(
    ("structure", "noun"),
    [
        ("heart_atrium_left", "left heart atrium"),
        ("vertebrae_L5", "L5 vertebra"),
        ("autochthon_right", "right autochthonous back muscle"),
        ("lung_middle_lobe_right", "right lung middle lobe"),
        ("brain", "brain"),
    ],
)
def test_prompt_nouns(structure, noun):
    assert prompt_noun(structure) == noun


def test_universal_classes_get_no_row_of_their_own_and_sides_are_partners():
    rows = {row["name"]: row for row in class_rows(GROUPS["cardiac"])}
    assert not {"esophagus", "small_bowel", "colon", "duodenum", "urinary_bladder"} & set(rows)
    assert rows["heart_atrium_left"]["partner"] == "heart_atrium_right"
    assert [row["index"] for row in rows.values()] == list(range(33, 33 + len(rows)))
    lobes = {row["name"]: row for row in class_rows(GROUPS["organs"])}
    assert lobes["lung_upper_lobe_left"]["parents"] == ["left_lung"]
    assert "partner" not in lobes["lung_middle_lobe_right"]


@pytest.mark.parametrize("group", GROUPS)
def test_convert_takes_the_tables_of_every_group(group, folder, convert, nnunet):
    folder.image("s0001/ct.nii.gz", 1)
    for number, structure in enumerate(GROUPS[group]):
        mask = np.zeros((8, 9, 10), np.uint8)
        mask.flat[number] = 1
        folder.save(f"s0001/segmentations/{structure}.nii.gz", mask)
    output = folder.path / "tables"
    assert main(["totalsegmentator-group", "--group", group, "-i", str(folder.path), "-o", str(output)]) == 0
    classes, source = (output / f"totalsegmentator_{group}{end}.yaml" for end in ("_classes", ""))
    code, error = convert("--taxonomy", classes, "--source", f"custom={source}")
    assert code == 0, error
    (case,) = Manifest.load(nnunet.raw / "label_presence.json").cases.values()
    assert len(case.annotated) == len(GROUPS[group])


def test_cases_whose_structures_are_wrong_are_left_out_of_the_group(folder, convert, converted):
    for case in ("s0001", "s0143", "s0513"):
        folder.image(f"{case}/ct.nii.gz", int(case[1:]))
        for structure in GROUPS["cardiac"]:
            folder.save(f"{case}/segmentations/{structure}.nii.gz", np.ones((8, 9, 10), np.uint8))
    output = folder.path / "tables"
    assert main(["totalsegmentator-group", "--group", "cardiac", "-i", str(folder.path), "-o", str(output)]) == 0
    classes, source = (output / f"totalsegmentator_cardiac{end}.yaml" for end in ("_classes", ""))
    assert convert("--taxonomy", classes, "--source", f"custom={source}")[0] == 0
    assert set(converted.cases) == {"totalsegmentator_cardiac_s0001", "totalsegmentator_cardiac_s0513"}
    assert {"s0201", "s0143", "s1196", "s0864"} == set(left_out(GROUPS["cardiac"]))
    assert {"s0513", "s0864"} == set(left_out(GROUPS["muscles"]))


def test_another_folder_and_tables_that_are_there_are_refused(folder, tmp_path, capsys):
    assert main(["totalsegmentator-group", "--group", "organs", "-i", str(tmp_path)]) == 2
    assert "s0000" in capsys.readouterr().err
    folder.image("s0001/ct.nii.gz", 1)
    command = ["totalsegmentator-group", "--group", "organs", "-i", str(folder.path), "-o", str(tmp_path)]
    assert main(command) == 0
    assert yaml.safe_load((tmp_path / "totalsegmentator_organs.yaml").read_text())["name"] == "totalsegmentator_organs"
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
