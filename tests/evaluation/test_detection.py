"""Detection: lesions of drawings, and a study whose figures are known before it is run."""

import csv
import json
import math

import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.evaluation.bootstrap import interval, mean_interval
from nnunetv2_clip.evaluation.detection import CaseDetection, harmonic_mean, summarise_class
from nnunetv2_clip.evaluation.lesions import CaseLesions, LesionRule, class_lesions
from nnunetv2_clip.evaluation.paper.published import TABLE_4
from tests.evaluation.drawings import TABLE, dataset_json, manifest, presence, row, save, volume

ML = (10, 10, 10)  # one voxel is 1 ml


def lesions(truth: str, predicted: str, spacing_mm=ML, **rule) -> CaseLesions:
    """Lesions of a row drawn as text: # is the class, ? the ignore label."""
    reference, prediction = (row(*(".#?".index(letter) for letter in text)) for text in (truth, predicted))
    return class_lesions(
        volume(reference, ignore=2, spacing_mm=spacing_mm, t=(1,)),
        volume(prediction, spacing_mm=spacing_mm, t=(1,)),
        "t",
        LesionRule(**rule),
    )


def test_found_missed_and_false_lesions():
    found = lesions("##..##......", ".#.......##.")
    assert found.found == (True, False)
    assert (found.num_predicted, found.num_false) == (2, 1)


def test_small_components_are_no_lesions_on_either_side():
    found = lesions("##..#...", "..#....#", min_lesion_ml=1.5)
    assert found.lesion_ml == (2,)
    assert found.num_predicted == 0
    assert found.reference_voxels == 3


def test_component_of_exactly_the_smallest_size_is_a_lesion():
    assert lesions("##..#", ".....", min_lesion_ml=2).lesion_ml == (2,)
    assert lesions("###", "...", spacing_mm=(10, 10, 1), min_lesion_ml=0.3).lesion_ml == (pytest.approx(0.3),)


def test_prediction_on_a_lesion_too_small_to_count_is_no_false_alarm():
    found = lesions("#.....", "##....", min_lesion_ml=2)
    assert (found.found, found.num_predicted, found.num_false) == ((), 1, 0)


def test_fraction_rule_asks_how_much_of_the_lesion_is_covered():
    assert lesions("####", "#...", min_overlap=0.25).found == (True,)
    assert lesions("####", "#...", min_overlap=0.26).found == (False,)


def test_fraction_rule_adds_up_what_several_predictions_cover():
    assert lesions("####", "#..#", min_overlap=0.5).found == (True,)


def test_iou_rule_asks_one_predicted_lesion():
    assert lesions("####", "##.#", overlap_rule="iou", min_overlap=0.5).found == (True,)
    both_missed = lesions("####", "#..#", overlap_rule="iou", min_overlap=0.5)
    assert (both_missed.found, both_missed.num_false) == ((False,), 2)


def test_ignored_voxels_hold_no_lesion():
    found = lesions("##????..", "..##....")
    assert (found.lesion_ml, found.num_predicted) == ((2,), 0)


def test_diagonal_neighbours_are_one_lesion():
    drawing = np.eye(3, dtype=np.uint8)[:, :, None]
    found = class_lesions(volume(drawing, spacing_mm=ML, t=(1,)), volume(drawing * 0, t=(1,)), "t", LesionRule())
    assert found.lesion_ml == (3,)


# The study: 10 patients with tumour, of whom 7 are suspected; 4 known to be free, of whom 3 are not suspected.
TUMORS, DETECTED, FREE, SPARED = 10, 7, 4, 3


@pytest.fixture
def study(tmp_path):
    liver, both = TABLE.encode({"liver"}), TABLE.encode({"liver", "liver_tumor"})
    cases = {}
    for number in range(TUMORS):
        name = f"ill_{number}"
        save(row(liver, both, both, liver, both, liver), tmp_path / "labelsTr" / f"{name}.nii.gz", ML)
        painted = row(6, 27, 27, 6, 6, 6) if number < DETECTED else row(6, 6, 6, 6, 6, 6)
        save(painted, tmp_path / "pred" / f"{name}.nii.gz", ML)
        cases[name] = presence("liver", "liver_tumor")
    for number in range(FREE):
        name = f"free_{number}"
        save(row(liver, liver, liver, liver, 0, 0), tmp_path / "labelsTr" / f"{name}.nii.gz", ML)
        painted = row(6, 6, 6, 6, 0, 0) if number < SPARED else row(27, 6, 27, 6, 0, 0)
        save(painted, tmp_path / "pred" / f"{name}.nii.gz", ML)
        cases[name] = presence("liver", absent=("liver_tumor",))
    save(row(liver, liver, 0, 0, 0, 0), tmp_path / "labelsTr" / "unknown.nii.gz", ML)
    save(row(27, 27, 0, 0, 0, 0), tmp_path / "pred" / "unknown.nii.gz", ML)
    cases["unknown"] = presence("liver")
    (tmp_path / "dataset.json").write_text(json.dumps(dataset_json("liver", "liver_tumor")))
    manifest(**cases).save(tmp_path / "label_presence.json")
    return tmp_path


def detect(folder, *options, code=0):
    folders = "-ref", str(folder / "labelsTr"), "-pred", str(folder / "pred")
    assert main(["detect", *folders, "-np", "1", *options]) == code
    return json.loads((folder / "pred" / "evaluation" / "detection.json").read_text()) if code == 0 else None


def test_study_comes_out_exactly(study):
    found = detect(study)["classes"]["liver_tumor"]
    assert found["sensitivity"]["value"] == 0.7 and found["sensitivity"]["n"] == 10
    assert found["specificity"]["value"] == 0.75 and found["specificity"]["n"] == 4
    assert found["harmonic_mean"]["value"] == pytest.approx(2 * 0.7 * 0.75 / 1.45)
    assert found["lesion_recall"] == {"value": 7 / 20, "interval": found["lesion_recall"]["interval"], "n": 20}
    assert found["false_lesions_per_case"]["value"] == 2 / 14  # both in one free case


def test_case_that_neither_annotates_nor_excludes_the_tumour_is_not_scored(study):
    assert "unknown" not in {case["case_id"] for case in detect(study)["cases"]}


def test_overlap_rule_for_patients_wants_a_found_lesion(study):
    path = study / "pred" / "ill_0.nii.gz"
    save(row(27, 6, 6, 6, 6, 6), path, ML)  # suspected, but beside the lesions
    assert detect(study)["classes"]["liver_tumor"]["sensitivity"]["value"] == 0.7
    strict = detect(study, "--patient-rule", "overlap")["classes"]["liver_tumor"]
    assert strict["sensitivity"]["value"] == 0.6


def test_annotated_and_empty_cases_are_free_only_when_asked(study):
    cases = json.loads((study / "label_presence.json").read_text())
    for name in ("free_0", "free_3"):
        cases["cases"][name].update(annotated=["liver", "liver_tumor"], absent=[])
    (study / "label_presence.json").write_text(json.dumps(cases))
    assert detect(study)["classes"]["liver_tumor"]["specificity"]["n"] == 2
    asked = detect(study, "--empty-is-free")["classes"]["liver_tumor"]["specificity"]
    assert (asked["value"], asked["n"]) == (0.75, 4)


def test_size_threshold_silences_small_alarms(study):
    found = detect(study, "--min-lesion-ml", "1.5")["classes"]["liver_tumor"]
    assert found["specificity"]["value"] == 1  # both false components have 1 ml
    assert found["lesion_recall"]["n"] == 10  # the second lesion of each patient has 1 ml


def test_paper_rows_stand_beside_ours_and_are_marked(study):
    detect(study)
    text = (study / "pred" / "evaluation" / "detection.md").read_text()
    assert "| Universal Model * |" in text and "91.84" in text and "not measured again" in text
    assert "70.00" in text
    assert r"\begin{tabular}" in (study / "pred" / "evaluation" / "detection.tex").read_text()


def test_cases_seen_in_training_are_left_out_of_the_headline_and_reported_apart(study):
    """Two of the ill patients that are suspected and the free one that is wrongly suspected were seen."""
    cases = json.loads((study / "label_presence.json").read_text())
    for name in ("ill_0", "ill_1", f"free_{FREE - 1}"):
        cases["cases"][name]["group"] = f"scan_{name}"
    (study / "label_presence.json").write_text(json.dumps(cases))
    seen = {name: presence("liver", group=f"scan_{name}") for name in ("ill_0", "ill_1", f"free_{FREE - 1}")}
    manifest(**seen).save(study / "train.json")
    found = detect(study, "--train-manifest", str(study / "train.json"))
    assert set(found["leaked"]["cases"]) == set(seen)
    headline, apart = found["classes"]["liver_tumor"], found["leaked"]["classes"]["liver_tumor"]
    assert (headline["sensitivity"]["value"], headline["sensitivity"]["n"]) == (5 / 8, 8)
    assert (headline["specificity"]["value"], headline["specificity"]["n"]) == (1, 3)
    assert (apart["sensitivity"]["value"], apart["specificity"]["value"]) == (1, 0)
    text = (study / "pred" / "evaluation" / "detection.md").read_text()
    assert "Patients, cases seen in training" in text and "same scan group as training case ill_0" in text
    lines = (study / "pred" / "evaluation" / "detection.csv").read_text().splitlines()
    assert sum(line.split(",")[4] == "1" for line in lines) == 3


def test_other_classes_than_tumours_are_not_in_the_papers_table(study):
    detect(study, "--classes", "liver_tumor", "liver")
    text = (study / "pred" / "evaluation" / "detection.md").read_text()
    patients, paper = text.split("### Tumour detection")
    assert "| liver " in patients and "liver Sen." in paper and paper.count("liver Sen.") == 1


def test_classes_that_no_case_supervises_are_an_error(study, capsys):
    detect(study, "--classes", "colon_tumor", code=2)
    assert "colon_tumor" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--min-overlap", "0"), ("--min-overlap", "1.5"), ("--min-lesion-ml", "-1")])
def test_thresholds_out_of_range_are_refused(study, options, capsys):
    detect(study, *options, code=2)
    assert options[0] in capsys.readouterr().err


def case(truth, suspected) -> CaseDetection:
    return CaseDetection("x", "d", "t", truth, suspected, CaseLesions(0, (), (), 0, 0))


def test_figures_without_cases_are_not_defined():
    found = summarise_class([case("tumor", True)])
    assert found.sensitivity.value == 1
    assert math.isnan(found.specificity.value) and math.isnan(found.harmonic_mean.value)


def test_harmonic_mean_of_nothing_right_is_zero():
    assert summarise_class([case("tumor", False), case("free", True)]).harmonic_mean.value == 0
    assert harmonic_mean(np.array(0.0), np.array(0.0)) == 0


def test_harmonic_means_of_the_paper_follow_from_its_rates():
    """To the last digit but one: the paper rounds the rates first, in two cells to the other side."""
    for rows in TABLE_4.values():
        for sensitivity, specificity, printed in rows.values():
            assert harmonic_mean(np.array(sensitivity), np.array(specificity)) == pytest.approx(printed, abs=0.0101)


def test_interval_covers_the_binomial_one():
    """70 of 100: the normal approximation gives 0.7 ± 1.96 * sqrt(0.21 / 100)."""
    values = np.array([1.0] * 70 + [0.0] * 30)
    low, high = mean_interval(values)
    assert low == pytest.approx(0.7 - 1.96 * math.sqrt(0.0021), abs=0.015)
    assert high == pytest.approx(0.7 + 1.96 * math.sqrt(0.0021), abs=0.015)


def test_interval_is_the_same_every_time_and_a_point_without_spread():
    values = np.array([0.2, 0.9, 0.4])
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(np.ones(5)) == (1, 1)
    assert all(math.isnan(bound) for bound in interval(lambda drawn: drawn, 0))


def test_what_fails_is_named_and_in_no_figure(study, capsys):
    whole = detect(study)
    name = whole["cases"][0]["case_id"]
    (study / "pred" / f"{name}.nii.gz").write_bytes(b"")
    detect(study, code=3)
    assert f"{name}.nii.gz" in capsys.readouterr().err
    found = json.loads((study / "pred" / "evaluation" / "detection.json").read_text())
    assert found["cases"] == [case for case in whole["cases"] if case["case_id"] != name]
    assert list(found["settings"]["failed"]) == [name] and "failed" not in whole["settings"]


def test_of_an_incomplete_class_only_the_drawn_lesions_count(study):
    """Ill patient 0 (found) and free patient 3 (two alarms) have some lesions drawn; the alarms may be right."""
    content = json.loads((study / "label_presence.json").read_text())
    content["schema_version"] = 2
    for name in ("ill_0", "free_3"):
        content["cases"][name].update(annotated=["liver"], absent=[], incomplete=["liver_tumor"])
    (study / "label_presence.json").write_text(json.dumps(content))
    found = detect(study, "--empty-is-free")["classes"]["liver_tumor"]
    assert (found["sensitivity"]["value"], found["sensitivity"]["n"]) == (0.7, 10)
    assert found["lesion_recall"]["n"] == 20
    assert (found["specificity"]["value"], found["specificity"]["n"]) == (1, 3), "an empty drawing proves nothing"
    assert (found["false_lesions_per_case"]["value"], found["false_lesions_per_case"]["n"]) == (0, 12)
    with (study / "pred" / "evaluation" / "detection.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row["case"] == "free_3"]
    assert (row["incomplete"], row["false_lesions"], row["truth"]) == ("1", "", "other")
