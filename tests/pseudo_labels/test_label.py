"""`pseudo-label` on files: a new dataset whose truth is that of the old one, and that can be continued."""

import csv
import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip import load_model
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.evaluation.volumes import LabelCoding
from nnunetv2_clip.files import write_json
from nnunetv2_clip.imaging.scans import Case
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.inputs import read_case
from nnunetv2_clip.labels import LabelTable, label_sets, nnunet_labels, unknown_in
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.pseudo_labels import label
from nnunetv2_clip.pseudo_labels.label import pseudo_label
from tests.inference.conftest import make_ct, make_model, save_ct

SURE = {"max_uncertainty": 1.0, "device": "cpu", "use_mirroring": False}
TRUTH = {"a": ("liver", "liver_tumor"), "b": ("spleen",)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), untrained=("kidney_tumor",))


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """nnUNet_raw with one dataset of two cases; the second has a corner that is unknown for every class."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "nnUNet_raw" / "Dataset900_Partly"
    table = LabelTable.of()
    labels, order = nnunet_labels(table, UNIVERSAL, UNIVERSAL.names, ignore=True)
    for number, case_id in enumerate(TRUTH):
        path = save_ct(folder / "imagesTr" / f"{case_id}_0000.nii.gz", make_ct(seed=number))
        label_map = np.zeros((28, 30, 20), np.uint8)
        if case_id == "a":
            label_map[2:14, 4:20, 3:15] = table.encode(["liver"])
            label_map[5:8, 6:9, 5:8] = table.encode(["liver", "liver_tumor"])
        else:
            label_map[4:12, 5:15, 2:12] = table.encode(["spleen"])
            label_map[20:, 20:, :] = labels["ignore"]
        (folder / "labelsTr").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label_map, nib.load(path).affine), folder / "labelsTr" / f"{case_id}.nii.gz")
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": labels,
            "regions_class_order": order,
            "numTraining": 2,
            "file_ending": ".nii.gz",
        },
    )
    cases = {case_id: CasePresence(f"source_{case_id}", names, group=case_id) for case_id, names in TRUTH.items()}
    Manifest(UNIVERSAL, cases).save(folder / "label_presence.json")
    write_json(folder / "splits_final.json", [{"train": ["a"], "val": ["b"]}])
    return folder.parent


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def volumes(folder, case_id):
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    return LabelCoding.of(labels, UNIVERSAL, folder).read(folder / "labelsTr" / f"{case_id}.nii.gz")


@pytest.fixture
def completed(raw, model):
    before = contents(raw / "Dataset900_Partly")
    done = pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset910_Completed", **SURE)
    assert contents(raw / "Dataset900_Partly") == before, "the source is only read"
    return done


def test_a_class_that_is_found_in_no_case_is_refused_unless_it_is_named(raw, model, capsys):
    folders, blind = (raw / "Dataset900_Partly", model, raw / "Dataset910_Completed"), {**SURE, "threshold": 0.999999}
    with pytest.raises(UserError, match=r"hardly any spleen \(in 0 of 1 cases\).*--absent spleen"):
        pseudo_label(*folders, **blind)
    assert not (raw / "Dataset910_Completed" / "dataset.json").exists()
    command = ["pseudo-label", "-d", "900", "-m", str(model), "-o", "910", "-device", "cpu", "--disable_tta"]
    command += ["--threshold", "0.999999", "--max-uncertainty", "1", "--absent", "spleen", "Liver"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "hardly any" in error and "right_kidney (in 0 of 2 cases)" in error and "spleen" not in error
    assert main([*command, "right kidney", "liver tumour"]) == 0


def test_compiled_networks_complete_the_same_dataset(completed, raw, model, compiled):
    pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset911_Compiled", **SURE)
    assert compiled.frame_count == 1
    folders = [raw / name / "labelsTr" for name in ("Dataset910_Completed", "Dataset911_Compiled")]
    assert contents(folders[0]) == contents(folders[1])


def test_the_truth_is_that_of_the_source(completed, raw):
    for case_id, known in TRUTH.items():
        before, after = (volumes(raw / name, case_id) for name in ("Dataset900_Partly", "Dataset910_Completed"))
        for name in known:
            assert np.array_equal(before.mask(name), after.mask(name)), name
        ignored = ~before.known()
        assert np.array_equal(ignored, ~after.known())
        assert ignored.any() == (case_id == "b")


def test_the_rest_is_the_prediction_where_truth_and_rivals_leave_room(completed, raw, model):
    names = ("spleen", "right_kidney")
    predictor = CasePredictor(load_model(model, device="cpu", use_mirroring=False).predictor)
    predictor = predictor.for_classes(names, probabilities=names)
    image = read_case(Case("a", raw / "Dataset900_Partly" / "imagesTr" / "a_0000.nii.gz"))
    prediction = predictor.predict(predictor.preprocess(image))
    spleen, kidney = (prediction.masks[name].full(bool) for name in names)
    spleen_wins = prediction.probabilities["spleen"] >= prediction.probabilities["right_kidney"]
    after = volumes(raw / "Dataset910_Completed", "a")
    free = ~after.mask("liver")
    expected = (spleen & free & ~(kidney & ~spleen_wins), kidney & free & ~(spleen & spleen_wins))
    assert (spleen & kidney & free).any() and any(mask.any() for mask in expected)
    for name, mask in zip(names, expected, strict=True):
        assert np.array_equal(after.mask(name), mask), name


def test_the_manifest_tells_truth_and_pseudo_labels_apart(completed, raw):
    target = raw / "Dataset910_Completed"
    manifest = Manifest.load(target / "label_presence.json")
    assert manifest.case("a").annotated == TRUTH["a"]
    assert manifest.case("a").pseudo == {"spleen": 0.5, "right_kidney": 0.5}
    assert set(manifest.case("b").pseudo) == {"liver", "liver_tumor", "right_kidney"}
    training = raw.parent / "nnUNet_preprocessed" / target.name
    assert (training / "label_presence.json").read_bytes() == (target / "label_presence.json").read_bytes()
    assert json.loads((training / "splits_final.json").read_text()) == [{"train": ["a"], "val": ["b"]}]
    assert (target / "imagesTr" / "a_0000.nii.gz").is_symlink()


def test_scores_count_the_truth_only(completed, raw, tmp_path):
    labels = raw / "Dataset910_Completed" / "labelsTr"
    shutil.copytree(labels, tmp_path / "predictions")
    command = ["evaluate", "-ref", labels, "-pred", tmp_path / "predictions", "--label-values", "--overlap-only"]
    assert main([*map(str, command), "-np", "1", "-o", str(tmp_path / "scores")]) == 0
    scored = {(pair.case_id, pair.class_name) for pair in Evaluation.load(tmp_path / "scores").pairs}
    assert scored == {(case_id, name) for case_id, names in TRUTH.items() for name in names}


def test_the_table_has_a_line_for_every_unknown_pair(completed, raw):
    with open(raw / "Dataset910_Completed" / "pseudo_labels.csv") as file:
        rows = {(row["case"], row["class"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(result.case, result.name) for result in completed.results}
    assert {name for case, name in rows if case == "a"} == {"spleen", "right_kidney"}
    after = volumes(raw / "Dataset910_Completed", "a")
    assert int(rows["a", "right_kidney"]["voxels"]) == np.count_nonzero(after.mask("right_kidney")) > 0
    assert float(rows["a", "right_kidney"]["ml"]) == pytest.approx(
        int(rows["a", "right_kidney"]["voxels"]) * 0.025, abs=1e-3
    )


def test_uncertain_pairs_stay_unknown_and_are_listed(raw, model):
    done = pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset911_Sure", max_uncertainty=0.0, device="cpu")
    left = [result for result in done.results if not result.is_kept]
    assert left
    manifest = Manifest.load(raw / "Dataset911_Sure" / "label_presence.json")
    for result in left:
        assert result.name not in manifest.case(result.case).supervised
        assert not volumes(raw / "Dataset911_Sure", result.case).mask(result.name).any()
    text = (raw / "Dataset911_Sure" / "pseudo_labels.txt").read_text()
    assert all(f"{result.case}: {result.name}" in text for result in left)


def test_an_interrupted_run_goes_on_and_ends_as_an_undisturbed_one(completed, raw, model, monkeypatch):
    source, whole = raw / "Dataset900_Partly", raw / "Dataset910_Completed"
    seen = []
    real = label.complete_case

    def only_the_first(case, *arguments):
        seen.append(case)
        if case == "b":
            raise KeyboardInterrupt
        return real(case, *arguments)

    monkeypatch.setattr(label, "complete_case", only_the_first)
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(source, model, raw / "Dataset912_Completed", **SURE)
    assert not (raw / "Dataset912_Completed" / "dataset.json").exists()
    monkeypatch.setattr(label, "complete_case", lambda case, *more: seen.append(case) or real(case, *more))
    pseudo_label(source, model, raw / "Dataset912_Completed", **SURE)
    assert seen == ["a", "b", "b"]
    pseudo_label(source, model, raw / "Dataset912_Completed", **SURE)
    assert seen == ["a", "b", "b"], "what is complete is left alone"
    expected = contents(whole / "labelsTr") | contents(whole / "imagesTr")
    assert contents(raw / "Dataset912_Completed" / "labelsTr") | contents(
        raw / "Dataset912_Completed" / "imagesTr"
    ) == (expected)


def empty(path):
    path.unlink()  # a link must not be written through
    path.write_bytes(b"")


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.nii.gz")


def touched(path):
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("damage", "path"),
    [
        (empty, "Dataset910_Completed/.pseudo/cases/b.json"),
        (empty, "Dataset910_Completed/.pseudo/labels/b.nii.gz"),
        (empty, "Dataset910_Completed/labelsTr/b.nii.gz"),
        (dangling, "Dataset910_Completed/imagesTr/b_0000.nii.gz"),
        (touched, "Dataset900_Partly/imagesTr/b_0000.nii.gz"),
    ],
)
def test_a_case_with_a_broken_file_or_another_input_is_made_again(completed, raw, model, monkeypatch, damage, path):
    before = contents(completed.folder)
    damage(raw / path)
    seen, real = [], label.complete_case
    monkeypatch.setattr(label, "complete_case", lambda case, *more: seen.append(case) or real(case, *more))
    pseudo_label(raw / "Dataset900_Partly", model, completed.folder, **SURE)
    assert seen == ["b"]
    after = contents(completed.folder)
    assert {name for name in before if after.get(name) != before[name]} <= {".pseudo/cases/b.json"}  # other times
    assert set(before) == set(after)


def test_any_exception_of_a_case_is_named_with_case_and_file(raw, model, monkeypatch, capsys):
    real = label.complete_case

    def complete_case(case, *arguments):
        if case == "a":
            raise MemoryError
        return real(case, *arguments)

    monkeypatch.setattr(label, "complete_case", complete_case)
    command = ["pseudo-label", "-d", "900", "-m", str(model), "-o", "917", "-device", "cpu", "--disable_tta"]
    assert main(command) == 3
    error = capsys.readouterr().err
    assert "1 of 2 cases failed" in error and "a: " in error and "a_0000.nii.gz: not enough memory" in error
    assert (raw / "Dataset917_Completed" / ".pseudo" / "cases" / "b.json").is_file()


def test_other_options_and_foreign_folders_are_refused(completed, raw, model):
    source = raw / "Dataset900_Partly"
    with pytest.raises(UserError, match="was begun with other threshold"):
        pseudo_label(source, model, raw / "Dataset910_Completed", **SURE, threshold=0.6)
    with pytest.raises(UserError, match="is in use"):
        pseudo_label(raw / "Dataset900_Partly", model, source, **SURE)
    with pytest.raises(UserError, match="same dataset id"):
        pseudo_label(source, model, raw / "Dataset910_Other", **SURE)
    (raw.parent / "nnUNet_results" / "Dataset913_Old").mkdir()
    with pytest.raises(UserError, match="same dataset id"):
        pseudo_label(source, model, raw / "Dataset913_Again", **SURE)
    with pytest.raises(UserError, match="pseudo labels already"):
        pseudo_label(raw / "Dataset910_Completed", model, raw / "Dataset913_Again", **SURE)


def test_the_command_counts_the_pairs_that_stay_unknown_and_leaves_their_list_to_the_files(raw, model, capsys):
    options = ["--max-uncertainty", "0", "-device", "cpu", "--disable_tta"]
    assert main(["pseudo-label", "-d", "900", "-m", str(model), "-o", "915", *options]) == 0
    printed = capsys.readouterr().out
    assert "pairs stay unknown, because the prediction is too uncertain." in printed
    listed = (raw / "Dataset915_Completed" / "pseudo_labels.txt").read_text().partition("Still unknown")[2].splitlines()
    assert listed[1:] and not any(line in printed for line in listed[1:])


def test_the_command_limits_the_classes_and_says_what_it_did(raw, model, capsys):
    options = ["--classes", "spleen", "--max-uncertainty", "1", "--weight", "0.25", "-device", "cpu", "--disable_tta"]
    assert main(["pseudo-label", "-d", "900", "-m", str(model), "-o", "914", *options]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 unknown (case, class) pairs" in printed
    assert f"/{model.name}, fold" in printed, "which model made the labels is written down"
    manifest = Manifest.load(raw / "Dataset914_Completed" / "label_presence.json")
    assert [case.pseudo for case in manifest.cases.values()] == [{"spleen": 0.25}, {}]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--classes", "spleeen"], "Did you mean 'spleen'"),
        (["--classes", "aorta"], "was not trained on aorta"),
        (["--threshold", "1.5"], "--threshold"),
        (["--weight", "0"], "--weight"),
        (["-o", "9x"], "-o"),
        (["-o", "Dataset915_../x"], "-o"),
        (["--name", "a/b"], "--name"),
        (["--name", ""], "--name"),
        (["-step_size", "0"], "-step_size"),
        (["-step_size", "nan"], "-step_size"),
        (["-f", "7"], "fold"),
        (["-chk", "checkpoint_x.pth"], "checkpoint_x.pth"),
    ],
)
def test_wrong_options_are_answered_with_a_message(raw, model, capsys, option, message):
    command = ["pseudo-label", "-d", "900", "-m", str(model), "-o", "915", "-device", "cpu", *option]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not list(raw.glob("Dataset915*"))


def test_a_bad_case_is_named_and_the_others_are_kept(raw, model):
    image = raw / "Dataset900_Partly" / "imagesTr" / "a_0000.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    with pytest.raises(UserError, match="1 of 2 cases"):
        pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset916_Completed", **SURE)
    image.write_bytes(whole)
    done = pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset916_Completed", **SURE)
    assert {result.case for result in done.results} == {"a", "b"}


def test_an_incomplete_class_is_completed_and_its_drawn_voxels_stay(raw, model):
    path = raw / "Dataset900_Partly" / "label_presence.json"
    cases = Manifest.load(path).cases
    cases["a"] = replace(cases["a"], annotated=("liver",), incomplete=("liver_tumor",))
    Manifest(UNIVERSAL, cases).save(path)
    before = volumes(raw / "Dataset900_Partly", "a").mask("liver_tumor")
    pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset910_Completed", **SURE)
    case = Manifest.load(raw / "Dataset910_Completed" / "label_presence.json").case("a")
    assert "liver_tumor" in case.pseudo and case.incomplete == () and case.annotated == ("liver",)
    after = volumes(raw / "Dataset910_Completed", "a").mask("liver_tumor")
    assert before.any() and after[before].all() and after.sum() > before.sum()


def test_an_incomplete_class_of_which_the_model_is_too_unsure_stays_as_it_is(raw, model):
    path = raw / "Dataset900_Partly" / "label_presence.json"
    cases = Manifest.load(path).cases
    cases["a"] = replace(cases["a"], annotated=("liver",), incomplete=("liver_tumor",))
    Manifest(UNIVERSAL, cases).save(path)
    before = volumes(raw / "Dataset900_Partly", "a").mask("liver_tumor")
    pseudo_label(raw / "Dataset900_Partly", model, raw / "Dataset910_Completed", **{**SURE, "max_uncertainty": 0.0})
    case = Manifest.load(raw / "Dataset910_Completed" / "label_presence.json").case("a")
    assert case.incomplete == ("liver_tumor",) and "liver_tumor" not in case.pseudo
    assert (volumes(raw / "Dataset910_Completed", "a").mask("liver_tumor") == before).all()


def test_an_image_without_labels_is_completed_in_every_class(raw, model):
    folder = raw / "Dataset900_Partly"
    path = folder / "labelsTr" / "b.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((28, 30, 20), np.uint8), nib.load(path).affine), path)
    Manifest(UNIVERSAL, {"a": CasePresence("a", TRUTH["a"]), "b": CasePresence("unlabelled", ())}).save(
        folder / "label_presence.json"
    )
    pseudo_label(folder, model, raw / "Dataset910_Completed", **SURE)
    case = Manifest.load(raw / "Dataset910_Completed" / "label_presence.json").case("b")
    assert set(case.pseudo) == {"spleen", "liver", "liver_tumor", "right_kidney"} and not case.known
    after = volumes(raw / "Dataset910_Completed", "b")
    assert any(after.mask(name).any() for name in case.pseudo)


def test_what_is_unknown_for_a_class_stays_so(raw, model):
    """A part of the annotated liver is unknown."""
    folder = raw / "Dataset900_Partly"
    content = json.loads((folder / "dataset.json").read_text())
    unknown = content["labels"]["ignore"] + 1
    write_json(folder / "dataset.json", {**content, "unknown": {"liver": [unknown]}})
    path = folder / "labelsTr" / "a.nii.gz"
    image = nib.load(path)
    label_map = np.asanyarray(image.dataobj).copy()
    label_map[2:5, 4:20, 3:15] = unknown
    nib.save(nib.Nifti1Image(label_map, image.affine), path)
    pseudo_label(folder, model, raw / "Dataset910_Completed", **SURE)
    new = json.loads((raw / "Dataset910_Completed" / "dataset.json").read_text())
    values = np.asanyarray(nib.load(raw / "Dataset910_Completed" / "labelsTr" / "a.nii.gz").dataobj)
    sets = label_sets(new["labels"], unknown=new["unknown"])
    is_unknown = np.isin(values, [value for value, names in sets.items() if names and "liver" in unknown_in(names)])
    assert (is_unknown == (label_map == unknown)).all()
    assert not np.isin(values, new["labels"]["liver"])[is_unknown].any()
