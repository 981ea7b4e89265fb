"""`predict`: stock masks, the input's geometry, and every output by choice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from tests.inference.conftest import CLASSES, TorchWithoutHalf, make_ct, make_model, reoriented, save_ct

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_ct" / "ct.nii.gz"


LEARNT = tuple(name for name in CLASSES if name != "kidney_tumor")  # by the fixture `model`


def predict(image: Path, output: Path, model: Path, *more: object) -> int:
    return main(["predict", "-i", str(image), "-o", str(output), "-m", str(model), "-device", "cpu", *map(str, more)])


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def stock_labels(image: Path, model: Path, folds=(0,)) -> np.ndarray:
    """nnU-Net's own prediction of one image, in the file's axes."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    output = image.parent / "stock"
    predictor.predict_from_files_sequential([[str(image)]], [str(output)], False)
    return voxels(output.with_suffix(".nii.gz"))


def dice_per_class(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    result = {}
    for row in UNIVERSAL.subset(CLASSES):
        a, b = first == row.index, second == row.index
        if (a | b).any():
            result[row.name] = 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
    return result


@pytest.mark.parametrize(
    ("dimensions", "transpose", "folds", "codes"),
    [
        (3, (0, 1, 2), (0,), "RAS"),
        (3, (2, 0, 1), (0, 1), "LPI"),
        (3, (1, 0, 2), (0,), "ASL"),
        (2, (0, 1, 2), (0,), "SPR"),
    ],
)
def test_masks_are_those_of_the_host_in_single_precision(tmp_path, dimensions, transpose, folds, codes, monkeypatch):
    monkeypatch.setattr(predict_from_raw_data, "torch", TorchWithoutHalf())
    model = make_model(tmp_path, dimensions=dimensions, transpose=transpose, folds=folds)
    image = reoriented(tmp_path / "ct.nii.gz", save_ct(tmp_path / "ras.nii.gz", make_ct((36, 30, 24))), codes)
    assert predict(image, tmp_path / "out", model) == 0
    dice = dice_per_class(voxels(tmp_path / "out" / "ct.nii.gz"), stock_labels(image, model, folds))
    assert len(dice) >= 3
    assert min(dice.values()) >= 0.9999


def test_only_our_own_words_are_printed(tmp_path, model, ct, capfd):
    assert predict(ct, tmp_path / "out", model) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'out'}: 1 of 1 cases are there.\n"


def test_a_script_reads_what_was_written_and_what_failed(tmp_path, model, capfd):
    (tmp_path / "in").mkdir()
    save_ct(tmp_path / "in" / "good.nii.gz", make_ct())
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image")
    assert predict(tmp_path / "in", tmp_path / "out", model, "--json") == 3
    shown = capfd.readouterr()
    found = json.loads(shown.out)
    assert found["output"] == str(tmp_path / "out") and found["written"] == ["good"]
    assert list(found["failed"]) == ["bad"]
    assert "1 of 2 cases failed" in shown.err and "bad" in shown.err


def test_the_hosts_half_precision_moves_single_voxels_at_the_surface_only(tmp_path, model, ct):
    assert predict(ct, tmp_path / "out", model) == 0
    ours, stock = voxels(tmp_path / "out" / "case.nii.gz"), stock_labels(ct, model)
    assert np.count_nonzero(ours != stock) <= 1e-3 * stock.size
    assert min(dice_per_class(ours, stock).values()) > 0.99


def test_every_output_has_the_geometry_of_the_input(tmp_path, model):
    data = make_ct()
    image = nib.Nifti1Image(data, None)
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, -0.2) @ np.diag([2, 2.5, 5]), [1, 2, 3])
    image.set_qform(oblique, 1)
    image.set_sform(oblique, 2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"scanner"
    nib.save(image, tmp_path / "ct.nii.gz")
    more = ["--outputs", "labels", "masks", "--probabilities", "liver"]
    assert predict(tmp_path / "ct.nii.gz", tmp_path / "out", model, *more) == 0
    names = ["ct.nii.gz", "ct/liver.nii.gz", "ct/probabilities/liver.nii.gz"]
    source = nib.load(tmp_path / "ct.nii.gz").header
    may_differ = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_min", "cal_max"}
    for header in (nib.load(tmp_path / "out" / name).header for name in names):
        for field in set(source) - may_differ:
            assert header[field].tobytes() == source[field].tobytes(), field


def test_all_outputs_of_one_pass_agree(tmp_path, model, ct):
    outputs = ["--outputs", "labels", "masks", "statistics", "preview", "--probabilities", "liver"]
    assert predict(ct, tmp_path / "out", model, *outputs) == 0
    folder = tmp_path / "out"
    masks = {name: voxels(folder / "case" / f"{name}.nii.gz").astype(bool) for name in LEARNT}
    painted = np.zeros(make_ct().shape, int)
    for row in UNIVERSAL.subset(LEARNT):
        painted[masks[row.name]] = row.index
    assert (painted == voxels(folder / "case.nii.gz")).all()
    probability = nib.load(folder / "case" / "probabilities" / "liver.nii.gz").get_fdata()
    assert ((probability > 0.5) == masks["liver"]).mean() > 0.9999
    assert {path.name for path in (folder / "case").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in LEARNT}

    with open(folder / "statistics.csv", newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    liver, spots = rows["liver"], np.argwhere(masks["liver"])
    assert float(liver["volume_ml"]) == pytest.approx(len(spots) * 2 * 2.5 * 5 / 1000, abs=1e-4)
    assert float(liver["mean_hu"]) == pytest.approx(make_ct()[masks["liver"]].mean(), abs=1e-3)
    assert [int(liver["x_first"]), int(liver["z_last"])] == [spots[:, 0].min(), spots[:, 2].max()]
    touches = any((spots[:, axis] == edge).any() for axis in range(3) for edge in (0, painted.shape[axis] - 1))
    assert liver["at_border"] == str(touches)
    assert set(rows) == set(LEARNT)  # a class that was never looked for has no volume
    from PIL import Image

    assert np.unique(np.asarray(Image.open(folder / "case_preview.png")).reshape(-1, 3), axis=0).shape[0] > 10


def test_chosen_classes_are_the_same_as_among_all(tmp_path, model, ct):
    assert predict(ct, tmp_path / "all", model, "--outputs", "masks") == 0
    assert predict(ct, tmp_path / "two", model, "--outputs", "masks", "--classes", "Liver Tumour", "kidney right") == 0
    assert {path.name for path in (tmp_path / "two" / "case").iterdir()} == {
        "liver_tumor.nii.gz",
        "right_kidney.nii.gz",
    }
    for name in ("liver_tumor", "right_kidney"):
        assert (
            voxels(tmp_path / "two/case" / f"{name}.nii.gz") == voxels(tmp_path / "all/case" / f"{name}.nii.gz")
        ).all()
    dataset_json = json.loads((tmp_path / "two" / "dataset.json").read_text())
    assert list(dataset_json["labels"]) == ["background", "right_kidney", "liver_tumor"]


def test_a_typo_gets_the_nearest_class(tmp_path, model, ct, capsys):
    assert predict(ct, tmp_path / "out", model, "--classes", "livr") == 2
    assert "Did you mean 'liver'?" in capsys.readouterr().err
    assert predict(ct, tmp_path / "out", model, "--classes", "pancreas") == 2
    assert "the model does not know pancreas" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_small_budget_means_more_passes_and_the_same_masks(tmp_path, model, ct, monkeypatch):
    from nnunetv2_clip.inference import case_predictor

    assert predict(ct, tmp_path / "all", model) == 0
    monkeypatch.setattr(case_predictor, "SLACK_BYTES", 0)
    monkeypatch.setattr(case_predictor, "used_bytes", lambda: 0)
    monkeypatch.setattr(case_predictor, "peak_bytes", lambda: 100_000_000)
    budgets = (f"{100 + tenth / 10}MB" for tenth in range(1, 20))  # the first that is enough for one class
    assert any(predict(ct, tmp_path / "some", model, "--max-ram", budget) == 0 for budget in budgets)
    record = json.loads((tmp_path / "some" / "prediction.json").read_text())
    assert record["cases"]["case"]["passes"] > 1
    assert (voxels(tmp_path / "all" / "case.nii.gz") == voxels(tmp_path / "some" / "case.nii.gz")).all()


def test_a_budget_below_one_class_names_the_smallest_one(tmp_path, model, ct, capsys):
    from nnunetv2_clip.inference.memory import used_bytes

    budget = used_bytes() + 50_000_000  # enough to read, not to predict
    assert predict(ct, tmp_path / "out", model, "--max-ram", f"{budget / 1e6}MB") == 3
    assert "at least" in capsys.readouterr().err


def test_parts_share_the_cases_and_a_second_run_predicts_what_is_missing(tmp_path, model, monkeypatch):
    from nnunetv2_clip.inference import folder as runner

    for name in ("a", "b_0000", "c"):
        save_ct(tmp_path / "in" / f"{name}.nii.gz")
    done = []
    original = runner.predict_case
    monkeypatch.setattr(runner, "predict_case", lambda p, case, job: done.append(case.name) or original(p, case, job))
    outputs = ("--outputs", "labels", "statistics")
    assert predict(tmp_path / "in", tmp_path / "out", model, *outputs, "-num_parts", 2, "-part_id", 1) == 0
    assert done == ["b"]
    assert predict(tmp_path / "in", tmp_path / "out", model, *outputs, "--continue_prediction") == 0
    assert done == ["b", "a", "c"]
    cases = {row["case"] for row in json.loads((tmp_path / "out" / "statistics.json").read_text())}
    assert cases == {"a", "b", "c"}


def test_a_folder_is_continued_with_the_choices_it_was_begun_with(tmp_path, model, ct, capsys):
    assert predict(ct, tmp_path / "out", model) == 0
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    assert predict(ct, tmp_path / "out", model, "--continue_prediction", "--classes", "liver") == 2
    assert "was begun with other classes" in capsys.readouterr().err
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
    assert predict(ct, tmp_path / "out", model, "--continue_prediction", "--outputs", "masks") == 0
    assert (tmp_path / "out" / "case" / "liver.nii.gz").is_file()


def test_a_folder_of_another_job_is_refused(tmp_path, model, ct, capsys):
    assert predict(ct, tmp_path / "out", model) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    elsewhere = save_ct(tmp_path / "elsewhere" / "case.nii.gz", make_ct(seed=3))
    retrained = make_model(tmp_path / "again")
    for image, other, what in ((elsewhere, model, "images"), (ct, retrained, "model and weights")):
        assert predict(image, tmp_path / "out", other) == 2
        assert f"was begun with other {what}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


@pytest.mark.parametrize("name", ["case.nii.gz", "dataset.json", "case/aorta.nii.gz"])
def test_a_folder_whose_files_nobody_recorded_is_refused(tmp_path, model, ct, capsys, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"drawn by hand")
    assert predict(ct, tmp_path / "out", model) == 2
    assert f"holds {path.name}, which no 'nnunetv2_clip predict' has written" in capsys.readouterr().err
    assert path.read_bytes() == b"drawn by hand"


def test_a_failed_case_leaves_nothing_and_is_not_done(tmp_path, model, capsys):
    for name in ("a", "b"):
        save_ct(tmp_path / "in" / f"{name}.nii.gz")
    outputs = ("--outputs", "labels", "masks", "statistics", "preview")
    assert predict(tmp_path / "in", tmp_path / "out", model, *outputs) == 0
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"no CT")
    for more in ((), ("--continue_prediction",)):
        assert predict(tmp_path / "in", tmp_path / "out", model, *outputs, *more) == 3
        assert "1 of 2 cases are there" in capsys.readouterr().out
        assert not [path for path in (tmp_path / "out").rglob("b*") if path.is_file()]
        assert {row["case"] for row in json.loads((tmp_path / "out/statistics.json").read_text())} == {"a"}
    assert set(json.loads((tmp_path / "out/prediction.json").read_text())["cases"]["b"]) == {"error"}


def test_statistics_are_those_of_the_recorded_cases(tmp_path, model, ct):
    (tmp_path / "out/statistics").mkdir(parents=True)
    (tmp_path / "out/statistics/old.json").write_text('[{"case": "old"}]')
    assert predict(ct, tmp_path / "out", model, "--outputs", "statistics") == 0
    assert {row["case"] for row in json.loads((tmp_path / "out/statistics.json").read_text())} == {"case"}


def empty(path):
    path.write_bytes(b"")


def without_cases(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "cases": ["a", "b"]}))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-9])


def fails(path):
    record = json.loads(path.read_text())
    record["cases"]["b"] = {"error": "b: not enough memory."}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "path", "again"),
    [
        (empty, "out/b.nii.gz", ["b"]),
        (cut_off, "out/b.nii.gz", ["b"]),
        (empty, "out/statistics/b.json", ["b"]),
        (empty, "out/b/liver.nii.gz", ["b"]),
        (empty, "out/b_preview.png", ["b"]),
        (fails, "out/prediction.json", ["b"]),
        (empty, "out/prediction.json", ["a", "b"]),
        (without_cases, "out/prediction.json", ["a", "b"]),
        (lambda path: save_ct(path, make_ct(seed=5)), "in/b.nii.gz", ["b"]),
    ],
)
def test_what_is_broken_or_of_another_image_is_predicted_again(tmp_path, model, monkeypatch, damage, path, again):
    from nnunetv2_clip.inference import folder

    for name in ("a", "b"):
        save_ct(tmp_path / "in" / f"{name}.nii.gz")
    outputs = ("--outputs", "labels", "masks", "statistics", "preview", "--disable_tta")
    assert predict(tmp_path / "in", tmp_path / "out", model, *outputs) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.name != "prediction.json"}
    damage(tmp_path / path)
    done, real = [], folder.predict_case
    monkeypatch.setattr(folder, "predict_case", lambda p, case, job: done.append(case.name) or real(p, case, job))
    assert predict(tmp_path / "in", tmp_path / "out", model, *outputs, "--continue_prediction") == 0
    assert done == again
    if "in/" not in path:
        assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.name != "prediction.json"} == before


def test_any_exception_of_a_case_is_named_with_case_and_file(tmp_path, model, monkeypatch, capsys):
    from nnunetv2_clip.inference import folder

    for name in ("a", "b"):
        save_ct(tmp_path / "in" / f"{name}.nii.gz")
    real = folder.predict_case

    def predict_case(predictor, case, job):
        if case.name == "a":
            raise MemoryError
        return real(predictor, case, job)

    monkeypatch.setattr(folder, "predict_case", predict_case)
    assert predict(tmp_path / "in", tmp_path / "out", model) == 3
    assert f"a: {tmp_path / 'in' / 'a.nii.gz'}: not enough memory" in capsys.readouterr().err
    assert (tmp_path / "out" / "b.nii.gz").is_file() and not (tmp_path / "out" / "a.nii.gz").exists()


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_ct_is_never_replaced_by_its_label_map(tmp_path, model, capsys, whole_folder):
    ct = save_ct(tmp_path / "cts" / "case.nii.gz")
    before = ct.read_bytes()
    assert predict(ct.parent if whole_folder else ct, ct.parent, model) == 2
    assert "holds the input" in capsys.readouterr().err
    assert ct.read_bytes() == before and list(ct.parent.iterdir()) == [ct]


def test_a_class_that_was_never_learnt_is_named(tmp_path, model, ct, capsys):
    both = ("--classes", "kidney_tumor", "liver", "--probabilities", "kidney_tumor", "--outputs", "masks")
    assert predict(ct, tmp_path / "one", model, *both) == 0
    assert capsys.readouterr().err.count("never learnt kidney_tumor") == 1
    assert json.loads((tmp_path / "one" / "prediction.json").read_text())["never_learnt"] == ["kidney_tumor"]
    assert [path.name for path in (tmp_path / "one" / "case").iterdir()] == ["liver.nii.gz"]
    assert predict(ct, tmp_path / "none", model, "--classes", "kidney_tumor") == 2
    assert "never learnt kidney_tumor" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert predict(ct, tmp_path / "two", model, "--classes", "liver") == 0
    assert "never learnt" not in capsys.readouterr().err


def test_classes_of_an_extended_model_are_the_same_alone_and_among_all(tmp_path, ct):
    model = make_model(tmp_path, extensions=(("kidney_tumor", "liver_tumor"),))
    outputs = ("--outputs", "masks")
    assert predict(ct, tmp_path / "all", model, *outputs) == 0
    for names in (("liver_tumor",), ("liver",), ("spleen", "kidney_tumor")):
        assert predict(ct, tmp_path / names[0], model, *outputs, "--classes", *names) == 0
        for name in names:
            alone = voxels(tmp_path / names[0] / "case" / f"{name}.nii.gz")
            assert alone.any()
            assert (alone == voxels(tmp_path / "all" / "case" / f"{name}.nii.gz")).all()


def test_half_written_files_do_not_stay(tmp_path, model, ct):
    assert predict(ct, tmp_path / "out", model, "--outputs", "labels", "masks", "preview") == 0
    assert not [path for path in (tmp_path / "out").rglob(".*")]


@pytest.mark.skipif(not REAL_CT.is_file(), reason="the real CT (shared/data/real_ct) is not here")
def test_real_ct_in_three_orientations_gives_identical_masks(tmp_path, model):
    quick = ("--disable_tta", "-step_size", 1)
    upright = reoriented(tmp_path / "RAS.nii.gz", REAL_CT, "RAS")
    assert predict(upright, tmp_path / "out", model, *quick) == 0
    expected = voxels(tmp_path / "out" / "RAS.nii.gz")
    assert len(np.unique(expected)) > 2
    for codes in ("LPI", "SAL"):
        image = reoriented(tmp_path / f"{codes}.nii.gz", REAL_CT, codes)
        assert predict(image, tmp_path / "out", model, *quick) == 0
        back = reoriented(tmp_path / "back.nii.gz", tmp_path / "out" / f"{codes}.nii.gz", "RAS")
        assert (voxels(back) == expected).all()


def test_task_label_maps_hold_the_values_of_the_decathlon(tmp_path):
    model, ct = make_model(tmp_path), save_ct(tmp_path / "liver_7.nii.gz", make_ct((36, 30, 24)))
    assert predict(ct, tmp_path / "out", model, "--outputs", "masks", "msd") == 0
    masks = {name: voxels(tmp_path / "out" / "liver_7" / f"{name}.nii.gz") > 0 for name in CLASSES}
    assert any(mask.any() for mask in masks.values())
    expected = np.where(masks["liver_tumor"], 2, masks["liver"].astype(int))
    assert np.array_equal(voxels(tmp_path / "out" / "Task03_Liver" / "liver_7.nii.gz"), expected)
    assert np.array_equal(voxels(tmp_path / "out" / "Task09_Spleen" / "liver_7.nii.gz"), masks["spleen"])
    assert {path.name for path in (tmp_path / "out").glob("Task*")} == {"Task03_Liver", "Task09_Spleen"}


def test_task_label_maps_need_every_class_of_a_task(tmp_path, capsys):
    model, ct = make_model(tmp_path), save_ct(tmp_path / "ct.nii.gz", make_ct((36, 30, 24)))
    assert predict(ct, tmp_path / "out", model, "--classes", "liver", "--outputs", "msd") == 2
    assert "Task03_Liver: liver, liver_tumor" in capsys.readouterr().err


def test_a_model_whose_class_names_leave_the_output_folder_is_refused(tmp_path, ct, capsys):
    model = make_model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    plans["nnunetv2_clip"]["classes"].append({"index": 33, "name": "../../renal"})
    (model / "plans.json").write_text(json.dumps(plans))
    assert predict(ct, tmp_path / "out", model, "--outputs", "masks") == 2
    assert "row 33, name: '../../renal'. Expected: at most 64 small letters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path, model, ct, capsys):
    for device in ("gpu", "cuda:99"):
        assert predict(ct, tmp_path / "out", model, "-device", device) == 2
        assert f"-device {device}: is not available" in capsys.readouterr().err
