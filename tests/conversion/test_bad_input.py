"""Bad input: each kind is refused by the file's name, with its exit code and no traceback, and leaves no dataset."""

import shutil

import nibabel as nib
import numpy as np
import pytest

IMAGE, LABEL = "imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"


def rewrite(path, change):
    image = nib.load(path)
    data, affine = change(np.asanyarray(image.dataobj).copy(), image.affine.copy())
    nib.save(nib.Nifti1Image(data, affine), path)


def set_voxel(value, dtype):
    def change(data, affine):
        data = data.astype(dtype)
        data[3, 3, 3] = value
        return data, affine

    return change


def moved(row, column, value):
    def change(data, affine):
        affine[row, column] = value
        return data, affine

    return change


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def rename(path):
    path.rename(path.with_name("liver_9.nii.gz"))


# Damage, the file that is damaged, what the message says, whether names alone tell it: then nothing is begun.
DAMAGES = {
    "truncated image": (truncate, IMAGE, "liver_1.nii.gz", False),
    "truncated label": (truncate, LABEL, "liver_1.nii.gz", False),
    "text instead of an image": (lambda path: path.write_text("not found"), IMAGE, "liver_1.nii.gz", False),
    "empty file": (lambda path: path.write_bytes(b""), LABEL, "liver_1.nii.gz", False),
    "image without label": (lambda path: path.unlink(), LABEL, "image without label: ", True),
    "label without image": (lambda path: path.unlink(), IMAGE, "label without image: ", True),
    "label under another number": (rename, LABEL, "image without label: ", True),
    "other origin": (lambda p: rewrite(p, moved(2, 3, 4)), LABEL, "does not lie on the grid of its image", False),
    "other spacing": (lambda p: rewrite(p, moved(2, 2, 4)), LABEL, "does not lie on the grid of its image", False),
    "mirrored axis": (lambda p: rewrite(p, moved(0, 0, 2)), LABEL, "does not lie on the grid of its image", False),
    "other shape": (lambda p: rewrite(p, lambda d, a: (d[:-1], a)), LABEL, "shape (7, 9, 10)", False),
    "four axes": (lambda p: rewrite(p, lambda d, a: (np.stack([d, d], 3), a)), IMAGE, "(8, 9, 10, 2)", False),
    "two axes": (lambda p: rewrite(p, lambda d, a: (d[:, :, 0], a)), LABEL, "has shape (8, 9)", False),
    "unknown label value": (lambda p: rewrite(p, set_voxel(3, np.uint8)), LABEL, "unknown label values [3]", False),
    "negative label value": (lambda p: rewrite(p, set_voxel(-1, np.int16)), LABEL, "label values [-1]", False),
    "float label": (lambda p: rewrite(p, set_voxel(0.5, np.float32)), LABEL, "are no integers", False),
    "NaN label": (lambda p: rewrite(p, set_voxel(np.nan, np.float32)), LABEL, "are no integers", False),
    "NaN image": (lambda p: rewrite(p, set_voxel(np.nan, np.float32)), IMAGE, "NaN", False),
    "empty image": (lambda p: rewrite(p, lambda d, a: (d * 0, a)), IMAGE, "the same value", False),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_by_name_and_mended_by_a_second_run(kind, msd, nnunet, convert, tmp_path):
    damage, name, message, names_tell = DAMAGES[kind]
    root = msd("msd_liver", 3, 1, 2)
    shutil.copytree(root, tmp_path / "intact")
    damage(root / name)
    code, text = convert("--source", f"msd_liver={root}")
    assert code == (2 if names_tell else 3)
    assert message in text
    assert "liver_1" in text
    assert "Traceback" not in text
    assert not nnunet.preprocessed.exists()
    assert not (nnunet.raw / "dataset.json").exists()
    assert nnunet.raw.exists() is not names_tell
    assert len(list((nnunet.raw / "labelsTr").glob("*"))) == (0 if names_tell else 2)
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "intact", root)
    assert convert("--source", f"msd_liver={root}")[0] == 0
    assert len(list((nnunet.raw / "labelsTr").iterdir())) == 3


def test_all_wrong_cases_are_listed_and_good_ones_kept(msd, folder, nnunet, convert):
    root = msd("msd_liver", 4, 1)
    folder.label("Task03_Liver/labelsTr/liver_1.nii.gz", 7)
    folder.label("Task03_Liver/labelsTr/liver_3.nii.gz", 8)
    code, text = convert("--source", f"msd_liver={root}")
    assert code == 3
    assert "2 of 4 cases failed" in text
    assert "unknown label values [7]" in text
    assert "unknown label values [8]" in text
    assert len(list((nnunet.raw / "labelsTr").iterdir())) == 2


def test_errors_of_headers_and_of_voxels_are_listed_together(msd, folder, nnunet, convert):
    root = msd("msd_liver", 4, 1)
    (root / IMAGE).write_bytes(b"")
    folder.label("Task03_Liver/labelsTr/liver_3.nii.gz", 8)
    code, text = convert("--source", f"msd_liver={root}")
    assert code == 3
    assert "2 of 4 cases failed" in text and "--skip msd_liver_1 --skip msd_liver_3" in text
    assert "unknown label values [8]" in text and "is not a NIfTI file" in text
    assert len(list((nnunet.raw / "labelsTr").iterdir())) == 2 and not (nnunet.raw / "dataset.json").exists()
    assert convert("--source", f"msd_liver={root}", "--skip", "msd_liver_1", "--skip", "msd_liver_3")[0] == 0


@pytest.mark.parametrize("error", [MemoryError(), ValueError("unforeseen"), RecursionError("deep")])
def test_any_exception_of_a_case_is_named_with_case_and_file(msd, nnunet, convert, monkeypatch, error):
    from nnunetv2_clip.conversion import case as conversion

    real = conversion.load_case

    def load_case(source, case, taxonomy):
        if case.case_id == "msd_liver_1":
            raise error
        return real(source, case, taxonomy)

    monkeypatch.setattr(conversion, "load_case", load_case)
    root = msd("msd_liver", 3, 1)
    code, text = convert("--source", f"msd_liver={root}")
    assert code == 3 and f"msd_liver_1: {root / IMAGE}: " in text
    assert len(list((nnunet.raw / "labelsTr").iterdir())) == 2


@pytest.mark.parametrize(("highest", "code"), [(1000, 0), (2**40, 3)])
def test_images_of_64_bits_are_taken_when_their_values_fit(folder, nnunet, convert, highest, code):
    image = np.zeros((8, 9, 10), np.int64)
    image[0, 0, 0] = highest
    nib.save(nib.Nifti1Image(image, np.eye(4), dtype=np.int64), folder.image("images/a.nii", 1))
    folder.label("labels/a.nii.gz", 1, affine=np.eye(4))
    table = folder.path / "table.yaml"
    table.write_text("name: mine\nimages: images/{case}.nii\nlabels: labels/{case}.nii.gz\nvalues: {1: liver}\n")
    found, text = convert("--source", f"custom={table}")
    assert found == code
    assert code == 0 or "a.nii: values from 0 to 1099511627776" in text
    if code == 0:
        written = nib.load(next((nnunet.raw / "imagesTr").iterdir()))
        assert written.get_data_dtype() == np.int32 and np.array_equal(np.asanyarray(written.dataobj), image)


def test_values_that_a_table_of_ones_own_does_not_name_are_an_error_that_names_the_way_out(folder, nnunet, convert):
    nib.save(
        nib.Nifti1Image(np.arange(720, dtype=np.int16).reshape(8, 9, 10), np.eye(4)), folder.image("images/a.nii", 1)
    )
    folder.label("labels/a.nii.gz", 9, affine=np.eye(4))
    table = folder.path / "table.yaml"
    table.write_text("name: mine\nimages: images/{case}.nii\nlabels: labels/{case}.nii.gz\nvalues: {1: liver}\n")
    code, text = convert("--source", f"custom={table}")
    assert code == 3 and "unknown label values [9]" in text and "'other_values: background'" in text


def test_nothing_is_begun_when_no_case_is_sound(msd, nnunet, convert):
    root = msd("msd_liver", 2, 1)
    for path in (root / "imagesTr").glob("liver*"):
        path.write_bytes(b"")
    assert convert("--source", f"msd_liver={root}")[0] == 3
    assert not nnunet.raw.exists()


def test_errors_cross_the_border_of_worker_processes(msd, folder, nnunet, convert):
    root = msd("msd_liver", 2, 1)
    folder.label("Task03_Liver/labelsTr/liver_1.nii.gz", 7)
    code, text = convert("--source", f"msd_liver={root}", "-np", "2")
    assert code == 3
    assert "unknown label values [7]" in text


def test_folder_of_another_task_is_refused(msd, convert):
    code, text = convert("--source", f"msd_liver={msd('msd_spleen', 1, 1)}")
    assert code == 2
    assert "spleen_0.nii.gz" in text


def test_empty_folder_is_refused(convert, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text = convert("--source", f"msd_liver={tmp_path / 'empty'}")
    assert code == 2
    assert "is empty" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "Error: --source: no source is given"),
        (("--source", "msd_liver"), "NAME=PATH"),
        (("--source", "msd_livr=x"), "Did you mean 'msd_liver'"),
        (("--source", "msd_liver=nowhere"), "is no folder"),
        (("--sources", "nowhere.yaml"), "cannot be read"),
        (("--source", "msd_liver=x", "--taxonomy", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_wrong_option_is_answered(convert, arguments, message):
    code, text = convert(*arguments)
    assert code == 2
    assert message in text


@pytest.mark.parametrize("dataset", ["abc", "9 0", "Dataset9_x"])
def test_wrong_dataset_id_is_answered(convert, dataset):
    code, text = convert("--source", "msd_liver=x", dataset=dataset)
    assert code == 2
    assert dataset in text


def test_nnunet_variables_must_be_folders(msd, convert, monkeypatch, tmp_path):
    source = f"msd_liver={msd('msd_liver', 1, 1)}"
    monkeypatch.delenv("nnUNet_raw")
    assert "environment variable is not set" in convert("--source", source)[1]
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    assert "file: is a file" in convert("--source", source)[1]
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_preprocessed"))
    assert "same folder as nnUNet_preprocessed" in convert("--source", source)[1]


def test_source_given_twice_is_refused(msd, convert):
    source = f"msd_liver={msd('msd_liver', 1, 1)}"
    code, text = convert("--source", source, "--source", source)
    assert code == 2
    assert "'msd_liver_0' is also" in text


def test_sources_file_is_relative_to_itself(msd, nnunet, convert, tmp_path):
    msd("msd_liver", 1, 1)
    msd("msd_spleen", 1, 1, first_seed=5)
    sources = tmp_path / "sources.yaml"
    sources.write_text("- msd_liver: source/Task03_Liver\n- msd_spleen: source\n")
    assert convert("--sources", sources)[0] == 0
    assert sorted(path.name for path in (nnunet.raw / "labelsTr").iterdir()) == [
        "msd_liver_0.nii.gz",
        "msd_spleen_0.nii.gz",
    ]
    sources.write_text("- msd_liver\n")
    code, text = convert("--sources", sources)
    assert code == 2
    assert "is not a source" in text
