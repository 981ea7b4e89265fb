"""The command 'evaluate' from files to tables."""

import csv
import gzip
import json
import math

import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.leaks import leaked_cases
from nnunetv2_clip.evaluation.results import Evaluation, PairScore, Statistic
from tests.evaluation.drawings import TABLE, dataset_json, manifest, presence, row, save

LIVER, BOTH = TABLE.encode({"liver"}), TABLE.encode({"liver", "liver_tumor"})


@pytest.fixture
def study(tmp_path):
    """Three cases as an nnU-Net raw dataset, and their painted predictions."""
    truth = {"a": row(LIVER, LIVER, BOTH, BOTH, 0), "b": row(LIVER, LIVER, 0, 0, 0), "c": row(1, 0, 0, 0, 0)}
    painted = {"a": row(6, 6, 6, 27, 0), "b": row(6, 0, 27, 1, 1), "c": row(1, 6, 6, 27, 0)}
    for case in truth:
        save(truth[case], tmp_path / "labelsTr" / f"{case}.nii.gz", (10, 10, 10))
        save(painted[case], tmp_path / "pred" / f"{case}.nii.gz", (10, 10, 10))
    (tmp_path / "dataset.json").write_text(json.dumps(dataset_json("spleen", "liver", "liver_tumor")))
    known = {
        "a": presence("liver", "liver_tumor", dataset="one"),
        "b": presence("liver", absent=("liver_tumor",), dataset="two"),
        "c": presence("spleen", dataset="two"),
    }
    manifest(**known).save(tmp_path / "label_presence.json")
    return tmp_path


def evaluate(folder, *options, code=0):
    folders = "-ref", str(folder / "labelsTr"), "-pred", str(folder / "pred")
    assert main(["evaluate", *folders, "-np", "1", *options]) == code
    return json.loads((folder / "pred" / "evaluation" / "evaluation.json").read_text()) if code == 0 else None


def pairs(found) -> dict:
    return {(pair["case_id"], pair["class_name"]): pair for pair in found["pairs"]}


def test_a_header_that_contradicts_itself_is_warned_of(study, capsys):
    path = study / "pred" / "b.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:92] = np.float32([5, 5, 5]).tobytes()  # pixdim[1] to pixdim[3]
    path.write_bytes(gzip.compress(bytes(content)))
    evaluate(study)
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == 1 and f"{path}: the header has two voxel sizes" in warned[0]


def test_values_of_another_meaning_are_warned_of(study, capsys):
    """The liver's index means something else; nothing overlaps."""
    assert not [note for note in evaluate(study)["notes"] if "no class overlaps" in note]
    for case in "abc":
        save(row(0, 0, 0, 0, 6), study / "pred" / f"{case}.nii.gz", (10, 10, 10))
    assert [note for note in evaluate(study)["notes"] if "no class overlaps in any case" in note]
    assert "no class overlaps" in capsys.readouterr().out


def test_only_supervised_pairs_are_in_the_table(study):
    found = pairs(evaluate(study))
    assert set(found) == {("a", "liver"), ("a", "liver_tumor"), ("b", "liver"), ("b", "liver_tumor"), ("c", "spleen")}
    assert found["b", "liver_tumor"]["state"] == "absent"


def test_numbers_of_a_case(study):
    metrics = pairs(evaluate(study))["b", "liver"]["metrics"]
    assert metrics["Dice"] == 0.5  # truth LL..., prediction L.L.. once the tumour is liver again
    assert (metrics["n_ref"], metrics["n_pred"], metrics["n_overlap"]) == (2, 2, 1)
    assert pairs(evaluate(study))["a", "liver_tumor"]["metrics"]["volume_difference_ml"] == -1  # one voxel of 1 ml


def test_classes_and_datasets_are_summarised_with_n(study):
    found = evaluate(study)
    assert found["classes"]["liver"]["Dice"] == {
        "n": 2, "mean": 0.75, "std": pytest.approx(0.5 / math.sqrt(2)), "median": 0.75,
    }  # fmt: skip
    assert found["classes"]["liver_tumor"]["Dice"]["mean"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["datasets"]["two"]["liver"]["Dice"]["mean"] == 0.5
    assert found["mean_over_classes"]["Dice"]["mean"] == pytest.approx((0.75 + 1 / 3 + 1) / 3)


def test_a_script_reads_the_summary(study, capsys):
    written = evaluate(study, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == {key: value for key, value in written.items() if key != "pairs"}


def test_without_manifest_every_declared_class_counts_as_annotated(study):
    (study / "label_presence.json").unlink()
    found = evaluate(study)
    assert len(found["pairs"]) == 9
    assert found["classes"]["spleen"]["Dice"]["n"] == 2  # neither truth nor prediction of case a has a spleen
    assert any("No manifest" in note for note in found["notes"])


def test_files_say_the_same(study, capsys):
    found = evaluate(study)
    folder = study / "pred" / "evaluation"
    lines = list(csv.DictReader((folder / "evaluation.csv").open()))
    assert {(line["case"], line["class"]): line["Dice"] for line in lines} == {
        (pair["case_id"], pair["class_name"]): "" if pair["metrics"]["Dice"] is None else str(pair["metrics"]["Dice"])
        for pair in found["pairs"]
    }
    markdown = (folder / "evaluation.md").read_text()
    assert "| liver             |     2 |   2 | 0.750 ± 0.354 |" in markdown
    assert "<td>0.750 ± 0.354</td>" in (folder / "evaluation.html").read_text()
    assert "0.750 ± 0.354" in capsys.readouterr().out


def test_evaluation_is_read_back_as_written(study):
    evaluate(study)
    loaded = Evaluation.load(study / "pred" / "evaluation")
    loaded.save(study / "again.json")
    assert json.loads((study / "again.json").read_text()) == json.loads(
        (study / "pred" / "evaluation" / "evaluation.json").read_text()
    )


def test_overlap_only_leaves_surface_metrics_out(study):
    metrics = pairs(evaluate(study, "--overlap-only"))["a", "liver"]["metrics"]
    assert "Dice" in metrics and "NSD" not in metrics and "HD95" not in metrics


def test_tolerances_decide_the_surface_dice(study):
    (study / "wide.yaml").write_text("default_mm: 1000")
    strict = pairs(evaluate(study))["b", "liver"]["metrics"]["NSD"]
    wide = pairs(evaluate(study, "--tolerances", str(study / "wide.yaml")))["b", "liver"]["metrics"]["NSD"]
    assert strict < wide == 1


def test_different_grids_are_refused_with_the_case(study, capsys):
    save(row(6, 6, 6, 27, 0, 0), study / "pred" / "a.nii.gz", (10, 10, 10))
    evaluate(study, code=3)
    assert "case 'a'" in (message := capsys.readouterr().err) and "different grids" in message
    save(row(6, 6, 6, 27, 0), study / "pred" / "a.nii.gz", (11, 10, 10))
    evaluate(study, code=3)
    assert "case 'a'" in capsys.readouterr().err


def test_what_fails_is_named_and_in_no_figure(study, capsys):
    whole = evaluate(study)
    (study / "pred" / "a.nii.gz").write_bytes(b"")
    evaluate(study, code=3)
    assert "1 of 3 cases failed" in capsys.readouterr().err
    found = json.loads((study / "pred" / "evaluation" / "evaluation.json").read_text())
    assert found["pairs"] == [pair for pair in whole["pairs"] if pair["case_id"] != "a"]
    assert [note for note in found["notes"] if "because it failed: case a" in note and "a.nii.gz" in note]
    assert "because it failed: case a" in (study / "pred" / "evaluation" / "evaluation.md").read_text()


def test_nothing_is_written_when_every_case_fails(study, capsys):
    for path in (study / "pred").glob("*.nii.gz"):
        path.write_bytes(b"")
    evaluate(study, code=3)
    assert "3 of 3 cases failed" in capsys.readouterr().err
    assert not (study / "pred" / "evaluation").exists()


def test_prediction_without_reference_is_refused(study, capsys):
    save(row(0), study / "pred" / "stranger.nii.gz")
    evaluate(study, code=2)
    assert "stranger" in capsys.readouterr().err


def test_references_without_prediction_are_counted(study):
    (study / "pred" / "c.nii.gz").unlink()
    found = evaluate(study)
    assert "spleen" not in found["classes"]
    assert any("1 of 3 references have no prediction" in note for note in found["notes"])


def test_class_that_the_model_does_not_know_is_not_scored_as_missed(study):
    (study / "pred" / "dataset.json").write_text(json.dumps(dataset_json("liver", "liver_tumor")))
    found = evaluate(study)
    assert "spleen" not in found["classes"]
    assert any("spleen" in note for note in found["notes"])


def test_cases_seen_in_training_are_reported_apart(study):
    known = {
        "a": presence("liver", "liver_tumor", dataset="one", group="scan_1"),
        "b": presence("liver", dataset="two", group="scan_2", checksums={"image": "abc"}),
        "c": presence("spleen", dataset="two", group="scan_3"),
    }
    manifest(**known).save(study / "label_presence.json")
    training = manifest(
        x=presence("liver", group="scan_1"), y=presence("liver", group="other", checksums={"image": "abc"})
    )
    training.save(study / "train.json")
    found = evaluate(study, "--train-manifest", str(study / "train.json"))
    assert set(found["leaked"]["cases"]) == {"a", "b"}
    assert set(found["classes"]) == {"spleen"}
    assert found["leaked"]["classes"]["liver"]["Dice"]["n"] == 2
    assert "Cases seen in training" in (study / "pred" / "evaluation" / "evaluation.md").read_text()


def test_mask_folders_give_the_same_numbers(study):
    expected = {key: pair["metrics"] for key, pair in pairs(evaluate(study)).items()}
    masks = {
        "a": {"liver": row(1, 1, 1, 1, 0), "liver_tumor": row(0, 0, 0, 1, 0), "spleen": row(0, 0, 0, 0, 0)},
        "b": {"liver": row(1, 0, 1, 0, 0), "liver_tumor": row(0, 0, 1, 0, 0), "spleen": row(0, 0, 0, 1, 1)},
        "c": {"liver": row(0, 1, 1, 1, 0), "liver_tumor": row(0, 0, 0, 1, 0), "spleen": row(1, 0, 0, 0, 0)},
    }
    for path in (study / "pred").glob("*.nii.gz"):
        path.unlink()
    for case, drawn in masks.items():
        for name, mask in drawn.items():
            save(mask, study / "pred" / case / f"{name}.nii.gz", (10, 10, 10))
    found = {key: pair["metrics"] for key, pair in pairs(evaluate(study)).items()}
    assert found == expected


def test_missing_mask_of_a_predicted_class_is_refused(study, capsys):
    for path in (study / "pred").glob("*.nii.gz"):
        path.unlink()
    for name in ("liver", "liver_tumor"):
        save(row(0, 0, 0, 0, 0), study / "pred" / "a" / f"{name}.nii.gz", (10, 10, 10))
    save(row(0, 0, 0, 0, 0), study / "pred" / "b" / "liver.nii.gz", (10, 10, 10))
    evaluate(study, code=2)
    assert "case 'b' has no mask file of liver_tumor" in capsys.readouterr().err


def test_predictions_in_label_values_are_taken_when_asked(study):
    for case in "abc":
        (study / "pred" / f"{case}.nii.gz").write_bytes((study / "labelsTr" / f"{case}.nii.gz").read_bytes())
    found = evaluate(study, "--label-values")
    assert {pair["metrics"]["Dice"] for pair in found["pairs"]} == {1, None}


@pytest.fixture
def stock(study):
    """The same study in the label values of an ordinary nnU-Net dataset, with stock predictions."""
    values = {"background": 0, "spleen": 1, "liver": 2, "liver_tumor": 3}
    stock = {"labels": values, "channel_names": {"0": "CT"}, "numTraining": 3, "file_ending": ".nii.gz"}
    drawn = {"a": row(2, 2, 3, 3, 0), "b": row(2, 2, 0, 0, 0), "c": row(1, 0, 0, 0, 0)}
    for case, label_map in drawn.items():
        for folder in ("labelsTr", "pred"):
            save(label_map, study / folder / f"{case}.nii.gz", (10, 10, 10))
    for folder in (study, study / "pred"):
        (folder / "dataset.json").write_text(json.dumps(stock))
    (study / "pred" / "plans.json").write_text("{}")
    return study


def test_stock_predictions_are_read_in_their_own_label_values(stock, tmp_path, capsys):
    assert {pair["metrics"]["Dice"] for pair in evaluate(stock)["pairs"]} == {1, None}
    folders = "-ref", str(stock / "labelsTr"), "-pred", str(stock / "pred"), "-np", "1"
    assert main(["detect", *folders, "--min-lesion-ml", "0", "-o", str(tmp_path / "found")]) == 0
    assert "| liver_tumor | 100.00" in capsys.readouterr().out


def test_predictions_are_scored_as_references_of_their_own_coding(study):
    """Painted on both sides: the liver holds its tumour on both."""
    (study / "pred" / "dataset.json").write_text((study / "dataset.json").read_text())
    (study / "pred" / "plans.json").write_text("{}")
    folders = "-ref", str(study / "pred"), "-pred", str(study / "pred"), "-np", "1", "-o", str(study / "out")
    assert main(["evaluate", *folders]) == 0
    found = pairs(json.loads((study / "out" / "evaluation.json").read_text()))
    assert {pair["metrics"]["Dice"] for pair in found.values()} == {1, None}
    assert found["a", "liver"]["metrics"]["n_ref"] == 4


def test_a_coding_that_nothing_tells_or_that_does_not_fit_is_refused(stock, capsys):
    save(row(2, 2, 27, 0, 0), stock / "pred" / "a.nii.gz", (10, 10, 10))
    evaluate(stock, code=3)
    assert "a.nii.gz: unknown label values [27]" in capsys.readouterr().err
    (stock / "pred" / "dataset.json").unlink()
    evaluate(stock, code=2)
    assert "copy dataset.json of the model into the folder" in capsys.readouterr().err


def test_validation_predictions_are_read_by_the_tables_of_their_model(stock):
    folder = stock / "model" / "fold_0" / "validation"
    folder.parent.mkdir(parents=True)
    (stock / "pred").rename(folder)
    for name in ("dataset.json", "plans.json"):
        (folder / name).rename(stock / "model" / name)
    folders = "-ref", str(stock / "labelsTr"), "-pred", str(folder), "-np", "1", "-o", str(stock / "out")
    assert main(["evaluate", *folders]) == 0
    found = json.loads((stock / "out" / "evaluation.json").read_text())
    assert {pair["metrics"]["Dice"] for pair in found["pairs"]} == {1, None}


def test_workers_give_the_same(study):
    assert evaluate(study, "-np", "2") == evaluate(study)


def test_statistic_leaves_out_what_is_not_defined():
    assert Statistic.of([1, float("nan"), 3]) == Statistic(2, 2, pytest.approx(math.sqrt(2)), 2)
    assert Statistic.of([float("nan")]).n == 0


def test_every_class_counts_the_same_in_the_mean():
    pairs = [PairScore("a", "d", "liver", "annotated", {"Dice": value}) for value in (0.2, 0.4, 0.6)]
    pairs.append(PairScore("a", "d", "spleen", "annotated", {"Dice": 1.0}))
    evaluation = Evaluation(tuple(pairs), ("spleen", "liver"))
    np.testing.assert_allclose(evaluation.mean_over_classes(pairs)["Dice"].mean, (0.4 + 1) / 2)


@pytest.mark.parametrize("content", ['"pairs": 5', '"pairs": [{"x": 1}]', '"pairs": []'])
def test_damaged_evaluation_is_refused(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(f'{{"schema_version": 1, {content}}}')
    with pytest.raises(UserError, match="is damaged"):
        Evaluation.load(path)


def test_cases_of_equal_names_are_not_one_scan():
    """A manifest written by hand names no groups; its cases may be called as others are called elsewhere."""
    named = manifest(case_001=presence("liver"), case_002=presence("liver", group="case_002"))
    assert leaked_cases(named, named) == {}


def test_scan_is_recognised_by_its_voxels_also_among_copies_that_a_case_took_over():
    evaluated = manifest(a=presence("liver", checksums={"voxels": "scan_1"}), b=presence("liver", group="scan_2"))
    training = manifest(x=presence("liver", group="scan_9", checksums={"voxels": "scan_9", "copy/voxels": "scan_1"}))
    assert leaked_cases(evaluated, training) == {"a": "same voxels as training case x"}
    turned = manifest(x=presence("liver", group="scan_9", checksums={"voxels": "scan_2"}))
    assert leaked_cases(evaluated, turned) == {"b": "same scan group as training case x"}


def test_equal_label_files_are_not_one_scan():
    empty = manifest(a=presence("liver", group="scan_1", checksums={"label": "abc"}))
    training = manifest(x=presence("liver", group="scan_2", checksums={"label": "abc", "copy/label": "abc"}))
    assert leaked_cases(empty, training) == {}


def test_no_workers_is_refused(study, capsys):
    evaluate(study, "-np", "0", code=2)
    assert "-np: 0" in capsys.readouterr().err


def test_paths_in_reports_are_those_that_were_given(study, monkeypatch):
    monkeypatch.chdir(study)
    assert main(["evaluate", "-ref", "labelsTr", "-pred", "pred", "-np", "1", "-o", "out"]) == 0
    assert json.loads((study / "out" / "evaluation.json").read_text())["settings"]["manifest"] == "label_presence.json"
    monkeypatch.chdir(study / "labelsTr")
    assert main(["evaluate", "-ref", ".", "-pred", "../pred", "-np", "1", "-o", "../out"]) == 0


def test_of_an_incomplete_class_only_the_recall_of_what_was_drawn_is_told(study, capsys):
    complete = evaluate(study)
    path = study / "label_presence.json"
    content = json.loads(path.read_text())
    content["schema_version"] = 2
    content["cases"]["a"].update(annotated=["liver"], incomplete=["liver_tumor"])
    path.write_text(json.dumps(content))
    capsys.readouterr()
    found = evaluate(study)
    pair = pairs(found)["a", "liver_tumor"]
    assert pair["state"] == "incomplete"
    assert pair["metrics"] == {"recall": 0.5, "n_ref": 2, "n_overlap": 1}
    assert found["incomplete"]["liver_tumor"]["mean"] == 0.5 and complete["incomplete"] == {}
    assert found["classes"]["liver"] == complete["classes"]["liver"]
    assert found["classes"]["liver_tumor"]["Dice"]["mean"] == 0, "case b alone, in which the class is absent"
    assert "Incomplete classes" in capsys.readouterr().out
    folder = study / "pred" / "evaluation"
    with (folder / "evaluation.csv").open() as file:
        rows = {(row["case"], row["class"]): row for row in csv.DictReader(file)}
    assert rows["a", "liver_tumor"]["recall"] == "0.5" and rows["a", "liver_tumor"]["n_pred"] == ""
    assert rows["a", "liver"]["recall"] == ""
    assert Evaluation.load(folder).recalls["liver_tumor"].mean == 0.5


def test_an_evaluation_of_incomplete_classes_alone(study):
    cases = {name: presence(incomplete=("liver_tumor",)) for name in "abc"}
    manifest(**cases).save(study / "label_presence.json")
    found = evaluate(study)
    assert found["classes"] == {} and found["incomplete"]["liver_tumor"]["n"] == 1
