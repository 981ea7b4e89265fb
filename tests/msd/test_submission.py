"""A submission is complete, in the test images' geometry and in each task's label values, or it is not written."""

from __future__ import annotations

import gzip
import json
import zipfile

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.msd.masks import BadMask, painted_to_task
from nnunetv2_clip.msd.tasks import CT_TASKS, MRI_TASKS, TASKS, find_task
from tests.msd import tree
from tests.msd.tree import AFFINE, SHAPE, save


def export(painted, msd, output, *more) -> int:
    folders = "-pred", painted, "-i", msd, "-o", output
    return main(["msd", "export", *map(str, (*folders, "-np", 1, *more))])


def mask_of(zip_path, label) -> nib.Nifti1Image:
    with zipfile.ZipFile(zip_path) as archive:
        return nib.Nifti1Image.from_bytes(gzip.decompress(archive.read(label)))


@pytest.mark.parametrize(
    ("folder", "expected"),
    [  # painted: liver, vessel, liver tumour, vessel tumour, pancreas, its tumour, spleen, lung, lung and colon tumour
        ("Task03_Liver", [1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("Task06_Lung", [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        ("Task07_Pancreas", [0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0]),
        ("Task08_HepaticVessel", [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
        ("Task09_Spleen", [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("Task10_Colon", [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
    ],
)
def test_an_organ_takes_the_classes_inside_it_and_the_tumour_its_own_value(folder, expected):
    painted = np.array([6, 15, 27, 29, 11, 28, 1, 16, 30, 31, 2])
    assert painted_to_task(painted, find_task(folder, "")).tolist() == expected


def test_every_class_of_a_task_is_a_universal_class_whose_tumour_comes_after_its_organ():
    for task in CT_TASKS:
        names = [row.name for row in UNIVERSAL.subset(task.classes)]
        assert names == list(task.classes)
        assert [task.classes[name] for name in names] == list(task.values) == list(range(1, len(names) + 1))


def test_an_index_outside_the_taxonomy_is_refused():
    with pytest.raises(BadMask, match=r"\[33\]"):
        painted_to_task(np.array([6, 33]), find_task("Task03_Liver", ""))


def test_a_users_class_inside_the_liver_counts_as_liver(tmp_path):
    (tmp_path / "own.yaml").write_text("classes: [{index: 40, name: liver_cyst, parents: [liver]}]")
    taxonomy = UNIVERSAL.extended(tmp_path / "own.yaml")
    assert painted_to_task(np.array([40, 6, 0]), find_task("Task03_Liver", ""), taxonomy).tolist() == [1, 1, 0]


@pytest.mark.parametrize("per_task", [False, True])
def test_the_zip_holds_the_ten_tasks_and_nothing_else(tmp_path, msd, mri, per_task):
    painted = tree.write_painted(tmp_path / "p", [6, 27], per_task)
    assert export(painted, msd, tmp_path / "s.zip", "--mri", mri) == 0
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        names = archive.namelist()
    assert sorted(names) == sorted(f"{task.folder}/{name}" for task in TASKS for name in tree.case_names(task))
    assert mask_of(tmp_path / "s.zip", "Task03_Liver/liver_014.nii.gz").get_fdata().ravel()[:3].tolist() == [1, 2, 0]


@pytest.mark.parametrize("label", ["Task03_Liver/liver_001.nii.gz", "Task01_BrainTumour/braintumour_001.nii.gz"])
def test_a_mask_carries_the_header_of_its_test_image(tmp_path, msd, mri, painted, label):
    assert export(painted, msd, tmp_path / "s.zip", "--mri", mri) == 0
    task, name = label.split("/")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        ours = gzip.decompress(archive.read(label))[:348]
    theirs = gzip.decompress((msd / task / "imagesTs" / name).read_bytes())[:348]
    may_differ = [*range(70, 74), *range(112, 120), *range(124, 132)]  # datatype, bitpix; scl_*; cal_*
    if task == "Task01_BrainTumour":
        may_differ += [40, 41, 48, 49, *range(92, 96)]  # number of dimensions, dim[4], pixdim[4]
    differing = [position for position in range(348) if ours[position] != theirs[position]]
    assert set(differing) <= set(may_differ)
    mask = mask_of(tmp_path / "s.zip", label)
    assert (mask.shape, mask.get_data_dtype()) == (SHAPE, np.uint8)
    assert mask.header.get_slope_inter() in ((None, None), (1, 0))


def test_the_same_predictions_give_the_same_zip_with_any_number_of_workers(tmp_path, msd, mri, painted):
    assert export(painted, msd, tmp_path / "a.zip", "--mri", mri) == 0
    assert export(painted, msd, tmp_path / "b.zip", "--mri", mri, "-np", 2) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def refused(capsys, folder, code: int, expected: int = 2) -> str:
    """The message of a refusal, which left nothing behind."""
    assert code == expected
    assert not [path.name for path in folder.iterdir() if "zip" in path.name]
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_everything_missing_is_listed_at_once(tmp_path, msd, mri, painted, capsys):
    (painted / "liver_014.nii.gz").unlink()
    (mri / "Task02_Heart" / "heart_001.nii.gz").unlink()
    (msd / "Task09_Spleen" / "imagesTs" / "spleen_001.nii.gz").unlink()
    (msd / "Task10_Colon" / "dataset.json").unlink()
    error = refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--mri", mri))
    assert "4 problems" not in error  # MRI masks are looked at first, on their own
    assert "Task02_Heart/heart_001.nii.gz" in error
    save(mri / "Task02_Heart" / "heart_001.nii.gz", np.zeros(SHAPE, np.uint8))
    error = refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--mri", mri))
    assert "3 problems" in error
    for part in ("liver_014.nii.gz is missing", "spleen_001.nii.gz is missing", "Task10_Colon/dataset.json"):
        assert part in error


def moved(by_mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += by_mm
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((4, 3, 3), np.uint8), AFFINE, r"has shape (4, 3, 3); the test image has (4, 3, 2)"),
        (np.zeros((*SHAPE, 2), np.uint8), AFFINE, "has 4 dimensions"),
        (np.zeros(SHAPE, np.uint8), moved(0.8), "up to 0.8 mm apart"),
        (np.zeros(SHAPE, np.uint8), AFFINE @ np.diag([-1, 1, 1, 1]), "lies elsewhere in space"),
        (np.full(SHAPE, 0.5, np.float32), AFFINE, "no whole numbers"),
        (np.full(SHAPE, np.nan, np.float32), AFFINE, "no whole numbers"),
        (np.full(SHAPE, 77, np.uint8), AFFINE, "[77]"),
    ],
)
def test_a_mismatching_prediction_is_refused(tmp_path, msd, mri, painted, capsys, array, affine, message):
    save(painted / "colon_001.nii.gz", array, affine)
    voxels_tell = array.shape == SHAPE and np.array_equal(affine, AFFINE)
    code = export(painted, msd, tmp_path / "s.zip", "--mri", mri)
    error = refused(capsys, tmp_path, code, 3 if voxels_tell else 2)
    assert "Task10_Colon/colon_001.nii.gz" in error
    assert message in error


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"no nifti", mtime=0)])
def test_a_prediction_that_is_no_nifti_file_is_refused(tmp_path, msd, mri, painted, capsys, content):
    (painted / "lung_001.nii.gz").write_bytes(content)
    assert "cannot be read" in refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--mri", mri))


def test_a_truncated_prediction_is_refused(tmp_path, msd, mri, painted, capsys):
    path = painted / "lung_001.nii.gz"
    noise = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    save(path, noise)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))
    error = refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--mri", mri), 3)
    assert "cannot be read to its end" in error


def test_a_prediction_moved_by_rounding_only_is_written_with_the_image_affine(tmp_path, msd, mri, painted):
    save(painted / "liver_001.nii.gz", np.full(SHAPE, 6, np.float64), moved(0.001))
    assert export(painted, msd, tmp_path / "s.zip", "--mri", mri) == 0
    mask = mask_of(tmp_path / "s.zip", "Task03_Liver/liver_001.nii.gz")
    assert np.array_equal(mask.affine, nib.load(msd / "Task03_Liver/imagesTs/liver_001.nii.gz").affine)
    assert mask.get_fdata().min() == 1


def test_mri_masks_with_foreign_values_are_refused(tmp_path, msd, mri, painted, capsys):
    save(mri / "Task02_Heart" / "heart_001.nii.gz", np.full(SHAPE, 2, np.uint8))
    error = refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--mri", mri), 3)
    assert "holds the values [2]; the task has [0, 1]" in error


def test_the_mri_tasks_are_left_out_only_when_asked(tmp_path, msd, painted, capsys):
    assert "--mri" in refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip"))
    assert export(painted, msd, tmp_path / "s.zip", "--ct-only") == 0
    assert "rejects" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {task.folder for task in CT_TASKS}


def test_an_existing_zip_stays_unless_overwriting_is_asked(tmp_path, msd, painted, capsys):
    (tmp_path / "s.zip").write_bytes(b"mine")
    assert export(painted, msd, tmp_path / "s.zip", "--ct-only") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "s.zip").read_bytes() == b"mine"
    assert export(painted, msd, tmp_path / "s.zip", "--ct-only", "--overwrite") == 0


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"background": 0, "liver": [1], "spleen": [2]}, [1, 2], "does not paint universal indices for ['liver'"),
        ({"background": 0, "spleen": [1], "liver": [6, 15]}, [1, 6], "does not know liver_tumor (Task03_Liver)"),
    ],
)
def test_predictions_of_another_kind_of_model_are_refused(tmp_path, msd, painted, capsys, labels, order, message):
    (painted / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": order}))
    assert message in refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--ct-only"))


def test_the_published_numbers_of_test_images():
    assert {task.folder: task.num_test for task in MRI_TASKS} == {
        "Task01_BrainTumour": 266,
        "Task02_Heart": 10,
        "Task04_Hippocampus": 130,
        "Task05_Prostate": 16,
    }
    assert sum(task.num_test for task in CT_TASKS) == 70 + 32 + 139 + 140 + 20 + 64


@pytest.mark.parametrize("entry", ["/etc/passwd.nii.gz", "../x.nii.gz", "liver.mha", 3])
def test_a_test_list_that_leaves_its_folder_is_refused(tmp_path, msd, painted, capsys, entry):
    (msd / "Task03_Liver" / "dataset.json").write_text(json.dumps({"test": [entry]}))
    assert "lists the test image" in refused(capsys, tmp_path, export(painted, msd, tmp_path / "s.zip", "--ct-only"))


def test_post_processing_is_applied_to_the_tasks_that_name_it(tmp_path, msd, capsys):
    painted = tree.write_painted(tmp_path / "p", [27, 0, 1])
    (tmp_path / "rules.yaml").write_text("Task03_Liver: {min_ml: {liver_tumor: 1000}}")
    assert export(painted, msd, tmp_path / "s.zip", "--ct-only", "--rules", tmp_path / "rules.yaml") == 0
    assert mask_of(tmp_path / "s.zip", "Task03_Liver/liver_001.nii.gz").get_fdata().max() == 0
    assert mask_of(tmp_path / "s.zip", "Task09_Spleen/spleen_001.nii.gz").get_fdata().max() == 1
