"""summary.json: nnU-Net's format, metrics only where the reference knows the class."""

import math
import warnings

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.summary import masked_summary
from tests.evaluation.drawings import TABLE, dataset_json, manifest, presence, row, save

LIVER, BOTH = TABLE.encode({"liver"}), TABLE.encode({"liver", "liver_tumor"})


@pytest.fixture
def study(tmp_path):
    """Case a knows liver and tumour, case b the liver only, case c the spleen only."""
    truth = {"a": row(LIVER, LIVER, BOTH, BOTH, 0), "b": row(LIVER, LIVER, 0, 0, 0), "c": row(1, 0, 0, 0, 0)}
    painted = {"a": row(6, 6, 6, 27, 0), "b": row(6, 0, 27, 1, 1), "c": row(1, 6, 6, 27, 0)}
    for case in truth:
        save(truth[case], tmp_path / "ref" / f"{case}.nii.gz")
        save(painted[case], tmp_path / "pred" / f"{case}.nii.gz")
    known = manifest(a=presence("liver", "liver_tumor"), b=presence("liver"), c=presence("spleen"))
    return tmp_path, known, dataset_json("spleen", "liver", "liver_tumor", "pancreas")


def summarise(study, num_processes=1):
    folder, known, content = study
    return masked_summary(
        folder / "ref", folder / "pred", content, known, folder / "pred" / "summary.json", num_processes
    )


def test_metrics_of_annotated_pairs_are_those_of_the_unpainted_prediction(study):
    result = summarise(study)
    liver = tuple(TABLE.values_of("liver"))
    by_case = {case["prediction_file"][-8]: case["metrics"] for case in result["metric_per_case"]}
    assert by_case["a"][liver]["Dice"] == 1  # the tumour belongs to the liver again
    assert by_case["a"][tuple(TABLE.values_of("liver_tumor"))]["Dice"] == pytest.approx(2 / 3)
    assert by_case["b"][liver] == {
        "Dice": 0.5, "IoU": 1 / 3, "TP": 1, "FP": 1, "FN": 1, "TN": 2, "n_pred": 2, "n_ref": 2,
    }  # fmt: skip


def test_unannotated_pairs_are_nan_and_do_not_enter_the_mean(study):
    result = summarise(study)
    tumor, liver = tuple(TABLE.values_of("liver_tumor")), tuple(TABLE.values_of("liver"))
    case_c = result["metric_per_case"][2]["metrics"]
    assert all(math.isnan(value) for value in case_c[liver].values())
    assert result["mean"][liver]["Dice"] == pytest.approx((1 + 0.5) / 2)
    assert result["mean"][tumor]["Dice"] == pytest.approx(2 / 3)
    assert result["cases_per_class"] == {
        str(tuple(study[2]["labels"][name])): n
        for name, n in {"spleen": 1, "liver": 2, "liver_tumor": 1, "pancreas": 0}.items()
    }


def test_class_without_any_case_is_left_out_of_the_foreground_mean_without_warning(study):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = summarise(study)
    assert math.isnan(result["mean"][tuple(TABLE.values_of("pancreas"))]["Dice"])
    assert result["foreground_mean"]["Dice"] == pytest.approx((1 + 0.75 + 2 / 3) / 3)


def test_nnunet_reads_the_file_back(study):
    result = summarise(study)
    loaded = load_summary_json(str(study[0] / "pred" / "summary.json"))
    np.testing.assert_equal(loaded, result)


def test_structure_and_values_are_nnunets_own_when_all_is_annotated(study):
    """nnU-Net scores label values; a prediction written in label values is scored by it as ours unpainted."""
    folder, _, content = study
    known = manifest(**{case: presence("spleen", "liver", "liver_tumor", "pancreas") for case in "abc"})
    ours = masked_summary(folder / "ref", folder / "pred", content, known, None, 1)
    painted_to_value = {0: 0, 1: 1, 6: LIVER, 27: BOTH}
    import nibabel

    for path in (folder / "pred").glob("*.nii.gz"):
        painted = np.asarray(nibabel.load(path).dataobj)
        save(np.vectorize(painted_to_value.get)(painted).astype(np.uint8), folder / "values" / path.name)
    manager = LabelManager(content["labels"], content["regions_class_order"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nnU-Net's nanmean of nothing
        stock = compute_metrics_on_folder(
            str(folder / "ref"), str(folder / "values"), None, NibabelIOWithReorient(), ".nii.gz",
            manager.foreground_regions, None, 1,
        )  # fmt: skip
    for mine, theirs in zip(ours["metric_per_case"], stock["metric_per_case"], strict=True):
        np.testing.assert_equal(mine["metrics"], theirs["metrics"])
    np.testing.assert_equal(ours["mean"], stock["mean"])
    assert set(ours["foreground_mean"]) == set(stock["foreground_mean"])


def test_known_absent_class_counts_a_false_positive_as_zero(study):
    folder, _, content = study
    known = manifest(
        a=presence("liver"), b=presence("liver", absent=("liver_tumor",)), c=presence("spleen", absent=("pancreas",))
    )
    result = masked_summary(folder / "ref", folder / "pred", content, known, None, 1)
    assert result["mean"][tuple(TABLE.values_of("liver_tumor"))]["Dice"] == 0
    assert math.isnan(result["mean"][tuple(TABLE.values_of("pancreas"))]["Dice"])  # rightly empty: 0 / 0


def test_ignored_voxels_are_left_out(tmp_path):
    content = dataset_json("liver", "liver_tumor", ignore=True)
    save(row(LIVER, content["labels"]["ignore"], 0), tmp_path / "ref" / "a.nii.gz")
    save(row(6, 6, 0), tmp_path / "pred" / "a.nii.gz")
    result = masked_summary(tmp_path / "ref", tmp_path / "pred", content, manifest(a=presence("liver")), None, 1)
    liver = result["mean"][tuple(content["labels"]["liver"])]
    assert (liver["Dice"], liver["TP"], liver["FP"], liver["TN"]) == (1, 1, 0, 1)


def test_dataset_without_regions_is_keyed_by_label_value(tmp_path):
    content = {"labels": {"background": 0, "spleen": [1], "aorta": [2]}, "file_ending": ".nii.gz"}
    save(row(1, 2, 0), tmp_path / "ref" / "a.nii.gz")
    save(row(1, 2, 2), tmp_path / "pred" / "a.nii.gz")
    result = masked_summary(tmp_path / "ref", tmp_path / "pred", content, manifest(a=presence("spleen")), None, 1)
    assert result["mean"][1]["Dice"] == 1
    assert math.isnan(result["mean"][2]["Dice"])


def test_workers_give_the_same(study):
    np.testing.assert_equal(summarise(study, num_processes=2), summarise(study))


def test_prediction_without_reference_or_manifest_entry_is_refused_by_name(study):
    folder, known, content = study
    extra = save(row(0, 0, 0, 0, 0), folder / "pred" / "zebra.nii.gz")
    with pytest.raises(UserError, match="zebra.*no reference"):
        masked_summary(folder / "ref", folder / "pred", content, known, None, 1)
    save(row(0, 0, 0, 0, 0), folder / "ref" / extra.name)
    with pytest.raises(UserError, match="'zebra' is missing"):
        masked_summary(folder / "ref", folder / "pred", content, known, None, 1)


def test_regions_without_a_painted_value_for_each_are_refused(study):
    folder, known, content = study
    content = {**content, "regions_class_order": [1, 2, 3]}
    with pytest.raises(UserError, match="regions_class_order"):
        masked_summary(folder / "ref", folder / "pred", content, known, None, 1)
