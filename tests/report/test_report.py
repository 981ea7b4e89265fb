"""The report tells the truth of the files it is given, or says which file does not fit."""

from __future__ import annotations

import json
import math
import re

import nibabel as nib
import numpy as np
import pytest
from markupsafe import escape

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.scans import Case, read_voxels
from nnunetv2_clip.report.cases import describe_case
from nnunetv2_clip.report.find import find_files
from nnunetv2_clip.report.page import render_page
from tests.report.conftest import SHAPE, TABLE, save


def report(study, *more, references: bool = True) -> int:
    arguments = ["report", "-i", study.images, "-pred", study.predictions, "-o", study.root / "page.html", "-np", 1]
    arguments += ["-ref", study.references] if references else []
    return main([str(argument) for argument in (*arguments, *more)])


def page(study) -> str:
    return (study.root / "page.html").read_text(encoding="utf-8")


def cells(html: str, table: str, case_id: str) -> list[str]:
    body = re.search(rf'id="{table}".*?</table>', html, re.S)[0]
    row = next(row for row in re.findall(r"<tr>.*?</tr>", body, re.S) if f">{case_id}</a>" in row)
    return re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)


def test_dice_is_computed_over_regions_and_only_where_annotated(study):
    cases = {
        case.case_id: describe_case(case) for case in find_files(study.images, study.predictions, study.references)
    }
    # liver: 16 voxels on both sides, tumour included; tumour: 2 of 4 voxels, 2 * 2 / (4 + 2)
    assert cases["case_a"].dice == {"liver": 1.0, "liver_tumor": pytest.approx(2 / 3)}
    assert list(cases["case_b"].overlaps) == ["spleen"]
    assert math.isnan(cases["case_b"].mean_dice)


def test_volumes_are_in_ml_and_an_organ_holds_its_tumour(study):
    case = describe_case(find_files(study.images, study.predictions)[0])
    assert case.found["liver"].volume_ml == pytest.approx(16 * 2 * 2 * 5 / 1000)
    assert case.found["liver_tumor"].volume_ml == pytest.approx(2 * 20 / 1000)
    assert "spleen" not in case.found


def test_what_was_looked_for_and_not_found_is_named_if_it_is_known(study):
    assert report(study, references=False) == 0 and 'id="not-found"' not in page(study)
    (study.predictions / "dataset.json").write_text((study.raw / "dataset.json").read_text())
    learnt = {"classes": [], "datasets": {"a": {"supervised": {"liver": 1, "liver_tumor": 1, "spleen": 1}}}}
    (study.predictions / "plans.json").write_text(json.dumps({"nnunetv2_clip": learnt}))
    assert report(study, references=False) == 0
    assert re.findall('id="not-found">([^<]*)<', page(study)) == ["Looked for and not found in any case: spleen."]


def test_mean_hu_is_that_of_the_class_with_its_parts_and_a_class_at_the_border_is_marked(study):
    image = np.full(SHAPE, 40, np.int16)
    image[2:4, 1, 1] = 120  # the tumour
    save(study.images / "case_a_0000.nii.gz", image)
    found = describe_case(find_files(study.images, study.predictions)[0]).found
    assert found["liver_tumor"].mean_hu == 120 and found["liver"].mean_hu == (14 * 40 + 2 * 120) / 16
    assert not found["liver"].at_border
    painted = np.asanyarray(nib.load(study.predictions / "case_a.nii.gz").dataobj).copy()
    painted[0, 1, 1] = 6
    save(study.predictions / "case_a.nii.gz", painted)
    found = describe_case(find_files(study.images, study.predictions)[0]).found
    assert found["liver"].at_border and not found["liver_tumor"].at_border
    assert report(study, references=False) == 0
    assert cells(page(study), "volume-table", "case_a") == ["≥ 0.34", "0.04"]
    # cases, median of 17 and 16 voxels of 0.02 ml, smallest, largest, mean HU, cases at the border
    row = re.search(r'id="volumes-of-classes".*?</i>liver</th>(.*?)</tr>', page(study), re.S)[1]
    assert re.findall(r">([^<]*)</td>", row) == ["2", "≥ 0.33", "0.32", "≥ 0.34", "45", "1"]


def test_one_case_has_one_table_of_volumes(study):
    (study.predictions / "case_b.nii.gz").unlink()
    assert report(study, references=False) == 0
    assert 'id="volume-table"' not in page(study)
    row = re.search(r'id="volumes-of-classes".*?</i>liver</th>(.*?)</tr>', page(study), re.S)[1]
    assert re.findall(r">([^<]*)</td>", row) == ["0.32", "40"]


def test_the_table_leaves_unannotated_classes_empty_and_marks_both_empty_with_a_dash(study):
    assert report(study) == 0
    # dataset, mean, spleen, liver, liver tumour (painting order)
    assert cells(page(study), "dice-table", "case_a") == ["msd_liver", "0.833", "", "1.000", "0.667"]
    assert cells(page(study), "dice-table", "case_b") == ["msd_spleen", "", "–", "", ""]


def test_a_class_that_nobody_annotates_is_in_no_dice_table(study):
    assert report(study) == 0
    assert ">pancreas<" not in page(study)


def test_the_legend_names_what_is_painted_the_truth_too(study):
    assert report(study) == 0
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page(study), re.S)[1]
    assert re.findall(r"</i>(.*?)</li>", legend) == ["liver", "liver tumor"]  # the spleen is scored, and empty
    truth = np.zeros((8, 6, 4), np.uint8)
    truth[0, 0, 0] = TABLE.encode({"pancreas"})  # of no scored class
    save(study.references / "case_b.nii.gz", truth)
    assert report(study) == 0
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page(study), re.S)[1]
    assert "pancreas" not in legend  # nor is it in a slice that is shown
    truth[:, :, 1] = TABLE.encode({"pancreas"})
    save(study.references / "case_b.nii.gz", truth)
    assert report(study) == 0
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page(study), re.S)[1]
    assert re.findall(r"</i>(.*?)</li>", legend) == ["liver", "pancreas", "liver tumor"]


def test_every_figure_says_its_proportions_and_every_view_its_window(study):
    assert report(study) == 0
    ratios = re.findall(r'<figure [^>]*style="--ratio:([\d.]+);--sides:(\d)"', page(study))
    # case_a, overview: 8 x 6 x 4 voxels of 2 x 2 x 5 mm
    assert ratios[:3] == [("1.3333", "2"), ("0.8000", "2"), ("0.6000", "2")]
    assert "Overview · soft tissue window, −160 to 240 HU" in page(study)


def test_lungs_are_shown_in_their_window(study):
    for case in ("case_a", "case_b"):
        save(study.predictions / f"{case}.nii.gz", np.full((8, 6, 4), 16, np.uint8))
    assert report(study, references=False) == 0
    assert "Overview · lung window, −1350 to 150 HU" in page(study)


def test_planes_of_a_short_scan_stand_above_each_other(study):
    assert report(study) == 0
    assert 'class="planes flat"' not in page(study)
    for path in [*study.images.iterdir(), *study.predictions.iterdir()]:  # 16 x 12 x 4 mm
        save(path, np.asanyarray(nib.load(path).dataobj)[..., 1:3], np.diag([2.0, 2.0, 2.0, 1.0]))
    assert report(study, references=False) == 0
    assert 'class="planes flat"' in page(study)


def test_without_manifest_every_class_counts_and_the_page_says_so(study):
    (study.raw / "label_presence.json").unlink()
    assert report(study) == 0
    assert "every class counts as annotated" in page(study)
    # spleen, liver, pancreas, liver tumour
    assert cells(page(study), "dice-table", "case_b") == ["0.000", "–", "0.000", "–", "0.000"]


def test_without_reference_there_are_volumes_and_pictures_and_no_dice(study):
    assert report(study, references=False) == 0
    assert 'id="dice-table"' not in page(study)
    assert 'id="volume-table"' in page(study)
    # 2 cases x (overview, tumour detail) x 3 planes x (CT, prediction)
    assert page(study).count("<img ") == 2 * 2 * 3 * 2


def test_worst_cases_come_first_and_pictures_stop_at_the_limit(study):
    painted = np.zeros((8, 6, 4), np.uint8)
    painted[0, 0, 0] = 6
    nib.save(nib.Nifti1Image(painted, np.diag([2.0, 2.0, 5.0, 1.0])), study.predictions / "case_c.nii.gz")
    for source, target in (
        ("images/case_a_0000", "images/case_c_0000"),
        ("raw/labelsTr/case_a", "raw/labelsTr/case_c"),
    ):
        (study.root / f"{target}.nii.gz").write_bytes((study.root / f"{source}.nii.gz").read_bytes())
    content = json.loads((study.raw / "label_presence.json").read_text())
    content["cases"]["case_c"] = content["cases"]["case_a"]
    (study.raw / "label_presence.json").write_text(json.dumps(content))
    assert report(study, "--max-pictures", 1) == 0
    order = re.findall(r'<th scope="row"><a href="#case-(\w+)"', page(study))
    assert order[:3] == ["case_c", "case_a", "case_b"]
    assert re.findall(r'<article class="case" id="case-(\w+)"', page(study)) == ["case_c"]
    assert "Pictures of the 1 worst cases of 3" in page(study)


def test_the_page_needs_nothing_from_outside(study):
    assert report(study) == 0
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page(study))
    assert "@import" not in page(study)
    assert "http" not in page(study)


def test_names_are_escaped():
    html = render_page("<script>alert(1)</script>", [], UNIVERSAL)
    assert str(escape("<script>alert(1)</script>")) in html
    assert "<script>alert" not in html


def test_images_of_any_orientation_are_turned_to_ras(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(data, np.diag([1, 2, 3, 1]))
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    nib.save(turned, tmp_path / "psl.nii.gz")
    found = read_voxels(Case("psl", tmp_path / "psl.nii.gz")).volume.turned_to_ras()
    assert np.array_equal(found.data, data)
    assert np.allclose(found.affine, image.affine)


def test_what_looks_wrong_in_a_ct_stands_on_the_page_and_on_stderr(study, capsys):
    assert report(study) == 0
    assert "Warning: case_a: all voxels have the same value" in capsys.readouterr().err
    assert "What looks wrong in the CTs" in page(study) and "<b>case_a</b>: all voxels" in page(study)


def test_a_missing_image_names_the_cases(study, capsys):
    (study.images / "case_b_0000.nii.gz").unlink()
    assert report(study) == 2
    assert "has no image of case_b" in capsys.readouterr().err
    assert not (study.root / "page.html").exists()


def test_a_prediction_on_another_grid_names_the_case(study, capsys):
    nib.save(nib.Nifti1Image(np.zeros((8, 6, 5), np.uint8), np.eye(4)), study.predictions / "case_a.nii.gz")
    assert report(study) == 3
    error = capsys.readouterr().err
    assert "case 'case_a'" in error
    assert "shape (8, 6, 5)" in error
    html = (study.root / "page.html").read_text()
    assert "Cases that failed" in html and "<b>case_a</b>" in html


def test_a_case_that_the_manifest_does_not_know_is_an_error(study, capsys):
    content = json.loads((study.raw / "label_presence.json").read_text())
    del content["cases"]["case_b"]
    (study.raw / "label_presence.json").write_text(json.dumps(content))
    assert report(study) == 2
    assert "case 'case_b' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.html"], "nothing to show"),
        (["-pred", "p", "-o", "x.html"], "belong together"),
        (["-i", "none", "-pred", "none", "-o", "x.html"], "is no folder"),
        (["--log-folder", "none", "-o", "x.pdf"], "ends in .html"),
        (["--log-folder", "none", "-o", "x.html"], "training_curves.json: cannot be read"),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_references_without_dataset_json_are_refused(study):
    (study.raw / "dataset.json").unlink()
    with pytest.raises(UserError, match="--dataset-json"):
        find_files(study.images, study.predictions, study.references)


def test_a_class_that_the_model_does_not_know_is_not_scored(study):
    (study.raw / "label_presence.json").unlink()
    content = json.loads((study.raw / "dataset.json").read_text())
    content["labels"] = {name: content["labels"][name] for name in ("background", "liver", "liver_tumor")}
    content["regions_class_order"] = [6, 27]
    (study.predictions / "dataset.json").write_text(json.dumps(content))
    case = find_files(study.images, study.predictions, study.references)[0]
    assert case.supervised == case.names == ("liver", "liver_tumor")


def test_stock_predictions_are_shown_in_their_own_label_values(study):
    stock = {"labels": {"background": 0, "liver": 1, "liver_tumor": 2}, "file_ending": ".nii.gz"}
    (study.predictions / "dataset.json").write_text(json.dumps(stock))
    painted = np.asanyarray(nib.load(study.predictions / "case_a.nii.gz").dataobj)
    values = np.where(painted == 6, 1, np.where(painted == 27, 2, 0)).astype(np.uint8)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 5.0, 1.0])), study.predictions / "case_a.nii.gz")
    case = describe_case(find_files(study.images, study.predictions, study.references)[0])
    assert case.dice["liver_tumor"] == pytest.approx(2 / 3) and case.found["liver"].volume_ml == pytest.approx(
        14 * 0.02
    )


def test_a_class_that_was_declared_and_never_trained_is_not_scored(study):
    (study.raw / "label_presence.json").unlink()
    (study.predictions / "dataset.json").write_text((study.raw / "dataset.json").read_text())
    plans = {"nnunetv2_clip": {"datasets": {"msd_liver": {"cases": 1, "supervised": {"liver": 1}}}}}
    (study.predictions / "plans.json").write_text(json.dumps(plans))
    assert find_files(study.images, study.predictions, study.references)[0].supervised == ("liver",)


def test_surface_dice_stands_beside_dice_when_asked_for(study):
    assert report(study) == 0
    assert "NSD" not in page(study)
    assert report(study, "--nsd") == 0
    # the surfaces of the tumour lie 2 mm apart at most: within the 7 mm of Task03
    assert cells(page(study), "nsd-table", "case_a") == ["msd_liver", "1.000", "", "1.000", "1.000"]
    assert cells(page(study), "nsd-table", "case_b") == ["msd_spleen", "", "–", "", ""]
