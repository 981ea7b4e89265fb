"""A submission made by anyone is checked without unpacking it to disk; every fault is named."""

from __future__ import annotations

import gzip
import zipfile

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.msd.tasks import TASKS
from nnunetv2_clip.msd.verify import verify
from tests.msd import tree
from tests.msd.tree import AFFINE, SHAPE


def packed(array: np.ndarray, affine: np.ndarray = AFFINE) -> bytes:
    return gzip.compress(nib.Nifti1Image(array, affine).to_bytes(), mtime=0)


def good_masks() -> dict[str, bytes]:
    labels = [f"{task.folder}/{name}" for task in TASKS for name in tree.case_names(task)]
    return dict.fromkeys(labels, packed(np.ones(SHAPE, np.uint8)))


def write_zip(path, masks: dict) -> object:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in masks.items():
            archive.writestr(name, content)
    return path


def problems(tmp_path, msd, masks) -> list[str]:
    return verify(write_zip(tmp_path / "s.zip", masks), msd)


def test_what_the_export_writes_is_right(tmp_path, msd, mri, painted, capsys):
    output = tmp_path / "s.zip"
    folders = ["-pred", str(painted), "-i", str(msd), "--mri", str(mri)]
    assert main(["msd", "export", *folders, "-o", str(output), "-np", "1"]) == 0
    assert main(["msd", "verify", "-pred", str(output), "-i", str(msd)]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_good_zip_has_no_problems(tmp_path, msd):
    assert problems(tmp_path, msd, good_masks()) == []


def test_the_command_lists_the_problems_and_exits_with_2(tmp_path, msd, capsys):
    masks = good_masks()
    del masks["Task03_Liver/liver_001.nii.gz"]
    write_zip(tmp_path / "s.zip", masks)
    assert main(["msd", "verify", "-pred", str(tmp_path / "s.zip"), "-i", str(msd)]) == 2
    assert "Task03_Liver/liver_001.nii.gz is missing" in capsys.readouterr().err


def test_a_missing_task_is_one_line(tmp_path, msd):
    masks = {name: mask for name, mask in good_masks().items() if not name.startswith("Task01")}
    assert problems(tmp_path, msd, masks) == ["Task01_BrainTumour is missing with all its 2 masks"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.nii.gz", "leaves the folder"),
        ("/etc/evil.nii.gz", "leaves the folder"),
        ("Task03_Liver/../../evil.nii.gz", "leaves the folder"),
        ("C:/evil.nii.gz", "leaves the folder"),
        ("Task03_Liver\\liver_001.nii.gz", "backslash"),
        ("Task03_Liver/._liver_001.nii.gz", "macOS"),
        ("__MACOSX/Task03_Liver/x", "macOS"),
        ("submission/Task03_Liver/liver_001.nii.gz", "wrapper folder; it must be 'Task03_Liver/liver_001.nii.gz'"),
        ("Task03_Liver/liver_001_0000.nii.gz", "must be named 'Task03_Liver/liver_001.nii.gz'"),
        ("Task03_liver/liver_001.nii.gz", "none of the task folders"),
        ("Task03_Liver/liver_002.nii.gz", "not in the task's test list"),
    ],
)
def test_a_file_that_does_not_belong_is_named(tmp_path, msd, name, message):
    found = problems(tmp_path, msd, {**good_masks(), name: packed(np.ones(SHAPE, np.uint8))})
    assert len(found) == 1
    assert message in found[0]


def test_a_link_is_refused(tmp_path, msd):
    info = zipfile.ZipInfo("Task03_Liver/link.nii.gz")
    info.external_attr = 0o120777 << 16
    path = write_zip(tmp_path / "s.zip", good_masks())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert verify(path, msd) == ["'Task03_Liver/link.nii.gz' is a link, not a file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "cannot be unpacked"),
        (gzip.compress(b"no nifti", mtime=0), "is no NIfTI file"),
        (packed(np.ones(SHAPE, np.uint8))[:-20], "cannot be unpacked"),
        (gzip.compress(gzip.decompress(packed(np.ones(SHAPE, np.uint8)))[:-3], mtime=0), "cannot be read to its end"),
        (gzip.compress(bytes(2_000_000), mtime=0), "larger than any mask"),
        (packed(np.ones((4, 3, 3), np.uint8)), "has shape (4, 3, 3)"),
        (packed(np.ones((*SHAPE, 1), np.uint8)), "has 4 dimensions"),
        (packed(np.ones(SHAPE, np.uint8), np.eye(4)), "lies elsewhere in space"),
        (packed(np.ones(SHAPE, np.float32)), "has the data type float32"),
        (packed(np.full(SHAPE, 3, np.uint8)), "holds the values [3]; the task has [0, 1, 2]"),
    ],
)
def test_a_bad_mask_is_named_with_its_fault(tmp_path, msd, content, message):
    found = problems(tmp_path, msd, {**good_masks(), "Task03_Liver/liver_001.nii.gz": content})
    assert len(found) == 1
    assert found[0].startswith("Task03_Liver/liver_001.nii.gz ")
    assert message in found[0]


def test_a_file_that_is_no_zip_is_a_user_error(tmp_path, msd, capsys):
    (tmp_path / "s.zip").write_bytes(b"PK nothing")
    assert main(["msd", "verify", "-pred", str(tmp_path / "s.zip"), "-i", str(msd)]) == 2
    assert "cannot be read as a zip file" in capsys.readouterr().err
