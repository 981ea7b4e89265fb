"""Classes against reality: occurrence, volume and side, for one case and for a source."""

import json
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.conversion.plausibility import Extent, doubtful_classes, extents_of, wrong_sides
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.phantom.anatomy import make_phantom
from nnunetv2_clip.phantom.layouts.base import write_source

HERE, THERE = (60.0, 0.0, 0.0), (-60.0, 0.0, 0.0)


def seen(annotated=None, *, cut=(), **ml):
    """One case: what it annotates (what occurs, if not given) and the volumes of what occurs."""
    extents = {name: Extent(volume, name in cut, HERE) for name, volume in ml.items()}
    return annotated or tuple(extents), extents


def doubts(*cases):
    return doubtful_classes(cases, UNIVERSAL)


def test_a_class_is_measured_where_it_lies():
    values = np.zeros((20, 20, 20), np.uint8)
    values[2:6, 4:8, 10:14] = 1
    values[0:2, 4:8, 10:14] = 2
    affine = np.diag([-5.0, 5, 5, 1])
    found = extents_of(ClassMap(values, {1: ["liver"], 2: ["spleen", "liver"], 3: ["colon"]}), affine)
    assert found["spleen"] == Extent(4.0, True, (-2.5, 27.5, 57.5))
    assert found["liver"] == Extent(12.0, True, (-12.5, 27.5, 57.5))
    assert "colon" not in found
    assert not extents_of(ClassMap(values, {1: ["liver"]}), affine)["liver"].is_cut
    assert extents_of(ClassMap(values, {1: ["liver"], 2: None}), affine)["liver"].is_cut
    assert Extent.of(json.loads(json.dumps(found["liver"].__dict__))) == found["liver"]


ORGANS = {"liver": 1500, "spleen": 200}


@pytest.mark.parametrize(
    ("missing", "case", "num_cases", "is_doubtful"),
    [
        ("liver", seen(("liver", "spleen"), spleen=200), 3, True),
        ("liver", seen(("liver", "spleen"), spleen=200), 2, False),
        ("liver", seen(("liver", "spleen"), cut=["spleen"], spleen=200), 50, False),  # the field of view ends there
        ("bladder", seen(("bladder", *ORGANS), **ORGANS), 29, False),  # abdomen only
        ("bladder", seen(("bladder", *ORGANS), **ORGANS), 30, True),
        ("bladder", seen(("bladder", "rectum", *ORGANS), **ORGANS, rectum=60, cut=["rectum"]), 100, False),
        ("bladder", seen(("bladder",)), 2, False),
        ("bladder", seen(("bladder",)), 3, True),
        ("prostate", seen(("prostate", "bladder"), bladder=200), 9, False),  # women
        ("liver_tumor", seen(("liver_tumor", *ORGANS), **ORGANS), 99, False),
        ("liver_tumor", seen(("liver_tumor", *ORGANS), **ORGANS), 100, True),
    ],
)
def test_a_class_that_is_annotated_often_and_never_occurs(missing, case, num_cases, is_doubtful):
    found = doubts(*[case] * num_cases)
    assert [text.split()[0] for text in found] == ([missing] if is_doubtful else [])
    assert all("another class in this release" in text for text in found)
    assert doubts(*[case] * num_cases, seen(**{missing: 200})) == []


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        (seen(esophagus=1500), "38 times more"),
        (seen(esophagus=1500, cut=["esophagus"]), "38 times more"),
        (seen(liver=80), "19 times less"),
        (seen(liver=80, cut=["liver"]), ""),
        (seen(liver=200, liver_tumor=0.1, spleen=1500), ""),
    ],
)
def test_a_volume_far_from_the_usual_one(case, wrong):
    found = doubts(case, case, case)
    assert len(found) == bool(wrong) and wrong in "".join(found)
    assert bool(doubts(case, case)) == ("more" in wrong)  # two empty organs prove nothing
    assert doubts(case) == []


def kidneys(right, left):
    return {"right_kidney": Extent(160, False, right), "left_kidney": Extent(160, False, left)}


def test_partners_that_are_exchanged_are_a_matter_of_the_case_and_of_the_table():
    wrong = kidneys(THERE, HERE)
    assert wrong_sides(kidneys(HERE, THERE), UNIVERSAL, None) == ()
    [text] = wrong_sides(wrong, UNIVERSAL, None)
    assert text.startswith("right_kidney lies left of left_kidney")
    assert wrong_sides(kidneys(HERE, (65.0, 0, 0)), UNIVERSAL, None) == ()  # both beside each other: nothing is told
    right = kidneys(HERE, THERE)
    assert doubts((tuple(right), wrong), (tuple(right), right), (tuple(right), right)) == []
    [text] = doubts(*[(tuple(wrong), wrong)] * 2, (tuple(right), right))
    assert text.startswith("right_kidney and left_kidney are exchanged in 2 of 3 cases")


def test_nothing_is_raised_by_random_parts_of_a_body():
    rng = np.random.default_rng(0)
    drawn = ClassMap.of_masks(patient().image.shape, ((mask, [name]) for name, mask in patient().masks.items()))
    cases = []
    for _ in range(40):
        shape = np.array(drawn.values.shape)
        size = rng.integers(shape * (0.35, 0.5, 0.2), shape + 1)
        start = rng.integers(0, shape - size + 1)
        box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        affine = patient().affine @ np.block([[np.eye(3), start[:, None]], [np.zeros(3), 1]])
        extents = extents_of(ClassMap(drawn.values[box], drawn.sets), affine)
        assert wrong_sides(extents, UNIVERSAL, Volume(patient().image[box], affine)) == (), box
        cases.append((UNIVERSAL.names, extents))
    assert doubts(*cases) == []
    assert [doubts(*cases[number : number + 3]) for number in range(38)] == [[]] * 38


@cache
def patient():
    return make_phantom(5, (8.0, 8.0, 10.0))


@pytest.mark.parametrize(("name", "num_found"), [("right_kidney", 1), ("left_kidney", 0)])
def test_a_single_organ_is_held_against_the_mid_plane(name, num_found):
    labels = ClassMap(patient().masks["left_kidney"].astype(np.uint8), {1: [name]})
    extents = extents_of(labels, patient().affine)
    image = Volume(patient().image, patient().affine)
    assert len(wrong_sides(extents, UNIVERSAL, image)) == num_found
    cropped = Volume(image.data[: image.data.shape[0] // 2], image.affine)  # half a body has no middle
    half = extents_of(ClassMap(labels.values[: image.data.shape[0] // 2], labels.sets), image.affine)
    assert wrong_sides(half, UNIVERSAL, cropped) == ()


def run_both(tmp_path, capsys, convert, nnunet, source):
    """Exit code and text of check, and the warnings in the report of convert."""
    code = main(["check", "-np", "1", "--partial", "-o", str(tmp_path / "check.html"), "--source", source])
    text, page = capsys.readouterr().out, (tmp_path / "check.html").read_text()
    assert convert("--source", source)[0] == 0
    warnings = json.loads((nnunet.raw / "conversion_report.json").read_text())["warnings"]
    for warning in warnings:
        assert f"Problem: {warning}" in text
    return code, page, warnings


def save_patients(folder, values, num_cases=3):
    """Patients, and class -> value of their label maps."""
    for seed in range(num_cases):
        drawn = make_phantom(seed, (10.0, 10.0, 12.0))
        label = np.zeros(drawn.image.shape, np.uint8)
        for name, value in values.items():
            label[drawn.masks[name]] = value
        folder.save(f"images/p{seed}.nii.gz", drawn.image, affine=drawn.affine)
        folder.save(f"labels/p{seed}.nii.gz", label, affine=drawn.affine)


TABLE = "name: mine\nimages: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\n"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{1: liver, 2: spleen, 3: right_kidney, 4: left_kidney, 6: stomach}", ""),
        ("{9: liver, 2: spleen, 3: right_kidney, 4: left_kidney}", "liver is annotated in 3 cases"),
        ("{1: esophagus, 2: spleen}", "esophagus takes up"),
        ("{1: liver, 3: left_kidney, 4: right_kidney}", "exchanged in 3 of 3 cases"),
        ("{1: liver, 3: left_kidney, 4: right_kidney}", "mine_p1: right_kidney lies left of left_kidney"),
    ],
)
def test_a_wrong_table_is_told_by_check_and_by_convert(folder, tmp_path, capsys, convert, nnunet, values, said):
    save_patients(folder, {"liver": 1, "spleen": 2, "right_kidney": 3, "left_kidney": 4, "stomach": 6})
    (folder.path / "t.yaml").write_text(f"{TABLE}values: {values}\nother_values: background\n")
    code, page, warnings = run_both(tmp_path, capsys, convert, nnunet, f"custom={folder.path / 't.yaml'}")
    assert code == bool(said) and (warnings != []) == bool(said)
    if said:
        assert said in "\n".join(warnings) and said in page


RECODED = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")


def test_btcv_with_the_values_of_another_release(tmp_path, capsys, convert, nnunet):
    """Its 8 classes under the official file names and values 1 to 8."""
    root = write_source("btcv", tmp_path / "source", (1, 2, 3), spacing_mm=(8.0, 8.0, 8.0)).root
    official = all_tables()["btcv"]
    for path in sorted(root.rglob("label*.nii.gz")):
        label = nib.load(path)
        old = np.asanyarray(label.dataobj)
        new = np.zeros(old.shape, np.uint8)
        for value, names in official.items():
            if names[0] in RECODED:
                new[old == value] = RECODED.index(names[0]) + 1
        nib.save(nib.Nifti1Image(new, label.affine), path)
    code, _, warnings = run_both(tmp_path, capsys, convert, nnunet, f"btcv={root}")
    assert code == 1
    assert any(text.startswith("btcv: esophagus takes up") for text in warnings)
    assert any(text.startswith("btcv: pancreas is annotated in 3 cases") for text in warnings)


REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_ct"
REAL_VALUES = """{1: spleen, 2: right_kidney, 3: left_kidney, 4: gallbladder, 5: liver, 6: stomach, 7: pancreas,
  8: right_adrenal_gland, 9: left_adrenal_gland, 10: left_lung, 11: left_lung, 12: right_lung, 13: right_lung,
  14: right_lung, 15: esophagus, 18: intestine, 19: duodenum, 20: colon, 52: aorta, 63: postcava,
  64: portal_and_splenic_vein}"""


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="the real CT (shared/data/real_ct) is not here")
def test_nothing_is_wrong_in_a_real_ct_that_shows_a_part_of_the_body(tmp_path, capsys, convert, nnunet):
    table = f"name: real\nroot: {REAL_CT}\nimages: ct.nii.gz\nlabels: totalsegmentator_labels.nii.gz\n"
    (tmp_path / "t.yaml").write_text(f"{table}values: {REAL_VALUES}\nother_values: background\n")
    code, _, warnings = run_both(tmp_path, capsys, convert, nnunet, f"custom={tmp_path / 't.yaml'}")
    assert code == 0 and warnings == []


def all_tables():
    from nnunetv2_clip.dataset_conversion.registry import all_sources

    return {name: source.label_table for name, source in all_sources().items()}
