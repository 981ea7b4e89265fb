"""Post-processing: each rule on a drawing, the choice of rules from numbers, and the way through the model."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.learning import Choice, candidate_rules, choose, dice, write_rules
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.postprocessing import NOTHING, Rule, needed_classes, postprocess, rules_of_plans
from nnunetv2_clip.trained_model import TrainedModel
from tests.inference.conftest import make_model, save_ct

SHAPE = (12, 8, 3)


def mask(*boxes) -> Mask:
    volume = np.zeros(SHAPE, bool)
    for box in boxes:
        volume[box] = True
    return Mask.of(SHAPE, tuple(slice(0, size) for size in SHAPE), volume)


LARGE, SMALL, CORNER = np.s_[0:3, 0:3, 0], np.s_[6:8, 0:2, 0], np.s_[3, 3, 1]


def test_only_the_largest_component_stays_and_a_corner_connects():
    rules = {"liver": Rule(largest_components=1)}
    assert (
        postprocess({"liver": mask(LARGE, SMALL, CORNER)}, rules)["liver"].full() == mask(LARGE, CORNER).full()
    ).all()
    two = {"liver": Rule(largest_components=2)}
    assert (postprocess({"liver": mask(LARGE, SMALL)}, two)["liver"].full() == mask(LARGE, SMALL).full()).all()


def test_a_tumour_stays_only_where_it_shares_or_touches_its_organ():
    rules = {"liver_tumor": Rule(touches=("liver",))}
    inside, beside, away = np.s_[1, 1, 0], np.s_[3, 1:3, 0], np.s_[5, 1, 0]
    masks = {"liver": mask(LARGE), "liver_tumor": mask(inside, beside, away)}
    assert (postprocess(masks, rules)["liver_tumor"].full() == mask(inside, beside).full()).all()
    assert not postprocess({**masks, "liver": Mask(SHAPE)}, rules)["liver_tumor"]
    assert (postprocess(masks, rules)["liver"].full() == masks["liver"].full()).all()


def test_without_rules_nothing_changes():
    masks = {"liver": mask(LARGE, SMALL)}
    assert postprocess(masks, {})["liver"] is masks["liver"]


def test_a_rule_brings_the_organ_that_it_looks_at():
    assert needed_classes(["liver_tumor"], {"liver_tumor": Rule(touches=("liver",))}) == {"liver", "liver_tumor"}


def test_organs_are_tried_as_one_piece_and_tumours_at_their_organ():
    rules = candidate_rules("kidney_tumor", UNIVERSAL, ["kidney_tumor", "left_kidney"])
    assert rules[0] == NOTHING
    assert {rule.touches for rule in rules} == {(), ("left_kidney",)}
    assert {rule.largest_components for rule in rules} == {None}
    assert {rule.largest_components for rule in candidate_rules("liver", UNIVERSAL, ["liver"])} == {None, 1}


@pytest.mark.parametrize(
    ("with_rule", "is_kept"),
    [
        ([0.9, 0.9, 0.9], True),
        ([0.8, 0.8, 0.8], False),  # no gain
        ([0.8, 0.8, 0.95], True),
        ([1.0, 0.79, 0.79], False),  # harms more cases than it helps
        ([0.8005, 0.8005, 0.8005], False),  # noise
    ],
)
def test_a_rule_is_kept_only_where_it_raises_dice(with_rule, is_kept):
    rule = Rule(largest_components=1)
    choice = choose({NOTHING: [0.8, 0.8, 0.8], rule: with_rule})
    assert (choice.rule == rule) == is_kept
    assert choice.before == pytest.approx(0.8)
    assert choice.after == pytest.approx(np.mean(with_rule) if is_kept else 0.8)


def test_two_cases_are_too_few():
    assert choose({NOTHING: [0.1, 0.1], Rule(threshold=0.3): [0.9, 0.9]}).rule == NOTHING


def test_dice_of_a_removed_false_finding_is_one_and_unknown_voxels_do_not_count():
    truth = np.zeros(SHAPE, bool)
    assert dice(mask(SMALL), truth, None) == 0
    assert dice(Mask(SHAPE), truth, None) == 1
    truth[LARGE] = True  # 9 voxels, 4 of them predicted wrongly elsewhere
    assert dice(mask(LARGE, SMALL), truth, None) == pytest.approx(18 / 22)
    known = np.ones(SHAPE, bool)
    known[SMALL] = False
    assert dice(mask(LARGE, SMALL), truth, known) == 1


def test_rules_are_data_of_the_model_and_stand_in_the_record(tmp_path, ct):
    model = make_model(tmp_path)
    plain = [
        "predict",
        "-i",
        str(ct),
        "-m",
        str(model),
        "-device",
        "cpu",
        "--outputs",
        "masks",
        "--classes",
        "liver_tumor",
    ]
    assert main([*plain, "-o", str(tmp_path / "none"), "--postprocess"]) == 2  # nothing learned yet
    rule = Rule(threshold=0.3, touches=("liver",))
    write_rules(
        TrainedModel.open(model),
        {"liver_tumor": Choice(rule, 0.5, 0.6, 4), "liver": Choice(NOTHING, 0.9, 0.9, 4)},
        {"folds": [0]},
    )
    assert rules_of_plans(json.loads((model / "plans.json").read_text()), model) == {"liver_tumor": rule}
    assert main([*plain, "-o", str(tmp_path / "with"), "--postprocess"]) == 0
    assert main([*plain, "-o", str(tmp_path / "without")]) == 0
    record = json.loads((tmp_path / "with" / "prediction.json").read_text())
    assert record["postprocessing"] == {
        "liver_tumor": {"threshold": 0.3, "touches": ["liver"]},
    }
    assert json.loads((tmp_path / "without" / "prediction.json").read_text())["postprocessing"] == {}
    found = [nib.load(tmp_path / name / "case" / "liver_tumor.nii.gz").get_fdata() for name in ("with", "without")]
    assert (found[0] != found[1]).any()
    assert [path.name for path in (tmp_path / "with" / "case").iterdir()] == ["liver_tumor.nii.gz"]


@pytest.mark.parametrize("entry", [{"liver": {"treshold": 0.3}}, {"liver": {"threshold": 2}}, {"liver": 3}, 7])
def test_damaged_rules_are_refused(entry):
    with pytest.raises(UserError, match="rules"):
        rules_of_plans({"nnunetv2_clip": {"postprocessing": {"rules": entry}}}, "plans.json")


@pytest.mark.parametrize("is_compiled", [False, True])
def test_rules_are_learned_from_the_validation_cases(is_compiled, tmp_path, monkeypatch, capsys, request):
    backend = request.getfixturevalue("compiled") if is_compiled else None
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_clip.manifest import CasePresence, Manifest

    model = make_model(tmp_path)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    dataset = tmp_path / "Dataset900_Universal"
    stored, truths = dataset / "nnUNetPlans_3d_fullres", dataset / "gt_segmentations"
    stored.mkdir(parents=True), truths.mkdir()
    plans = PlansManager(str(model / "plans.json"))
    dataset_json = json.loads((model / "dataset.json").read_text())
    cases = [f"case{number}" for number in range(3)]
    predictor = ["predict", "-m", str(model), "-device", "cpu", "-o", str(tmp_path / "out"), "--outputs", "masks"]
    for number, name in enumerate(cases):
        from tests.inference.conftest import make_ct

        image = save_ct(tmp_path / "in" / f"{name}.nii.gz", make_ct(seed=number))
        assert main([*predictor, "-i", str(image), "--classes", "liver"]) == 0
        # truth: the largest piece of what the network finds, so that this rule must win
        found = nib.load(tmp_path / "out" / name / "liver.nii.gz")
        voxels = np.asanyarray(found.dataobj).astype(bool)
        whole = Mask.of(voxels.shape, tuple(slice(0, size) for size in voxels.shape), voxels)
        largest = postprocess({"liver": whole}, {"liver": Rule(largest_components=1)})["liver"].full()
        assert largest.sum() < voxels.sum()
        nib.save(nib.Nifti1Image(largest * np.uint8(6), found.affine), truths / f"{name}.nii.gz")
        DefaultPreprocessor(verbose=False).run_case_save(
            str(stored / name),
            [str(image)],
            str(truths / f"{name}.nii.gz"),
            plans,
            plans.get_configuration("3d_fullres"),
            dataset_json,
        )
    Manifest(UNIVERSAL, {name: CasePresence("custom", ("liver",)) for name in cases}).save(
        dataset / "label_presence.json"
    )
    (dataset / "splits_final.json").write_text(json.dumps([{"train": [], "val": cases}]))
    assert main(["learn-postprocessing", "-m", str(model), "-device", "cpu"]) == 0
    assert "Kept 1 rules" in capsys.readouterr().out
    plans = json.loads((model / "plans.json").read_text())
    assert rules_of_plans(plans, model) == {"liver": Rule(largest_components=1)}
    assert plans["nnunetv2_clip"]["postprocessing"]["dice"]["liver"]["after"] == 1
    assert backend is None or backend.frame_count > 0
