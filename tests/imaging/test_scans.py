"""Which scans are found in files and folders of every kind, and that all kinds hold the same voxels."""

import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.conversion.source import relative_nifti_files
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging import scans
from nnunetv2_clip.imaging.scans import Case, find_scans, read_voxels
from tests.inference.test_bad_input import write_series

DATA = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)
OBLIQUE = np.array([[-1.9, 0.3, 0.1, 12], [0.3, 1.9, 0.2, -34], [-0.05, 0.2, -3.0, 56], [0, 0, 0, 1]])
STRAIGHT = np.diag([-2.0, -2, 5, 1])  # of the DICOM slices that `write_series` makes


def orthogonal(affine):
    axes, _ = np.linalg.qr(affine[:3, :3])
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = axes * (2, 1.5, 3), affine[:3, 3]
    return turned


def save(path: Path, affine=STRAIGHT, data=DATA) -> Path:
    """By the ending of the name; NRRD and MetaImage by SimpleITK from the NIfTI of the same volume."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name("plain.nii.gz")
    nib.save(nib.Nifti1Image(data, affine), plain)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        content = plain.read_bytes()
        if path.name.lower().endswith(".nii"):
            content = nib.Nifti1Image(data, affine).to_bytes()
        plain.unlink()
        path.write_bytes(content)
        return path
    sitk.WriteImage(sitk.ReadImage(str(plain)), str(path), useCompression=path.stem == "packed")
    plain.unlink()
    return path


def zipped(path: Path, *files: Path, prefix="") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(prefix + file.name, file.read_bytes())
    return path


def names(path, **options):
    return [case.name for case in find_scans(path, **options).cases]


@pytest.mark.parametrize("affine", [STRAIGHT, orthogonal(OBLIQUE)], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    "name", ["a.nii", "a.NII.GZ", "a.Nii", "a.nrrd", "packed.nrrd", "a.nhdr", "a.mha", "packed.mha", "a.mhd", "A.zip"]
)
def test_every_kind_of_file_holds_the_voxels_and_positions_of_the_nifti(tmp_path, name, affine):
    if name == "A.zip":
        path = zipped(tmp_path / name, save(tmp_path / "inner" / "ct.nii.gz", affine), prefix="folder/")
    else:
        path = save(tmp_path / name, affine)
    [case] = find_scans(path).cases
    seen = []
    found = read_voxels(case, lambda where, grid: seen.append(grid))
    assert np.array_equal(found.volume.data, DATA) and found.volume.data.dtype == np.int16
    assert np.allclose(found.volume.affine, affine, atol=1e-4)
    assert not seen[0].difference(found.volume.geometry)


def test_a_zipped_series_is_the_series(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "series", DATA)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = zipped(tmp_path / "ct.zip", *folder.iterdir(), prefix="study/series/")
    plain, packed = (read_voxels(case).volume for where in (folder, path) for case in find_scans(where).cases)
    assert np.array_equal(plain.data, packed.data) and np.allclose(plain.affine, packed.affine)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_bad_zip_is_named_and_nothing_of_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    one, two = save(tmp_path / "x" / "one.nii.gz"), save(tmp_path / "x" / "two.nii.gz")
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing")
    cut = save(tmp_path / "x" / "cut.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-50])
    for files, message in (
        ((one, two), "holds 2 CTs: one.nii.gz, two"),
        ((notes,), "holds 0 CTs"),
        ((cut,), "cut.nii"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_voxels(Case("a", zipped(tmp_path / "a.zip", *files)))
        assert str(tmp_path / "a.zip") in str(error.value) and "temporary" not in str(error.value)
    for evil in ("../", "/tmp/", "a/../../", "C:\\"):
        with pytest.raises(UserError, match="leave the folder"):
            read_voxels(Case("a", zipped(tmp_path / "a.zip", one, prefix=evil)))
    monkeypatch.setattr(scans, "LARGEST_ZIP_BYTES", 100)
    with pytest.raises(UserError, match="at most"):
        read_voxels(Case("a", zipped(tmp_path / "a.zip", one)))
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:80])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read_voxels(Case("a", tmp_path / "a.zip"))
    assert not list((tmp_path / "temporary").iterdir()) and not list(tmp_path.parent.glob("one.nii.gz"))


@pytest.mark.parametrize("name", ["a.nrrd", "packed.nrrd", "a.mha", "packed.mha", "a.mhd"])
def test_damaged_nrrd_and_metaimage_files_are_named(tmp_path, name):
    path = save(tmp_path / name)
    for part in (path, *tmp_path.glob("*.raw")):
        part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read") as error:
        read_voxels(Case("a", path))
    assert name in str(error.value) and error.value.remedy


def test_a_nrrd_without_a_position_in_the_body_is_refused(tmp_path):
    path = save(tmp_path / "a.nrrd")
    lines = path.read_bytes().replace(b"space: left-posterior-superior\n", b"").replace(b"space directions", b"# ")
    path.write_bytes(lines.replace(b"space origin", b"# "))
    with pytest.raises(UserError, match="where left, back and head are"):
        read_voxels(Case("a", path))


def test_colours_are_refused(tmp_path):
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "a.mha"))
    with pytest.raises(UserError, match="3 values in each voxel"):
        read_voxels(Case("a", tmp_path / "a.mha"))


def test_a_folder_of_all_kinds_gives_all_cases_and_names_the_rest(tmp_path):
    for name in ("a_0000.nii.gz", "b.NII.GZ", "c.mha", "d.mhd", "e.nrrd", "sub/mask.nii.gz"):
        save(tmp_path / name)
    zipped(tmp_path / "f.zip", tmp_path / "c.mha")
    write_series(tmp_path / "patient A" / "venous", DATA)
    write_series(tmp_path / "patient B", DATA)
    (tmp_path / "patient B" / "._1.dcm").write_bytes(b"")
    for name in ("notes.txt", ".DS_Store", "Thumbs.db", "patient B/report.pdf", "run", "sub/empty"):
        (tmp_path / name).write_bytes(b"x")
    found = find_scans(tmp_path)
    assert [case.name for case in found.cases] == ["a", "b", "c", "d", "e", "f", "patient_A_venous", "patient_B"]
    left_out = "\n".join(found.left_out)
    for name in ("notes.txt", "run", "report.pdf", "mask.nii.gz", "empty"):
        assert name in left_out
    for name in ("DS_Store", "Thumbs", "._1", "d.raw", "dcm"):
        assert name not in left_out
    assert all(read_voxels(case).volume.data.shape == DATA.shape for case in found.cases)


def test_kinds_of_one_name_are_refused(tmp_path):
    for name in ("a.nii.gz", "a.mha"):
        save(tmp_path / name)
    with pytest.raises(UserError, match="are the same case 'a'"):
        find_scans(tmp_path)


def test_a_series_is_chosen_in_every_folder(tmp_path):
    for uid in ("1.2.3", "1.2.4"):
        write_series(tmp_path / "both", DATA, uid)
    write_series(tmp_path / "other", DATA, "1.2.5")
    assert names(tmp_path) == ["both", "other"]
    with pytest.raises(UserError, match="holds 2 series of CT.*--series"):
        read_voxels(find_scans(tmp_path).cases[0])
    found = find_scans(tmp_path, "1.2.4")
    assert [case.name for case in found.cases] == ["both"] and "no series '1.2.4'" in found.left_out[0]
    assert any("1.2.3" in note for note in read_voxels(found.cases[0]).notes)
    with pytest.raises(UserError, match="no series '9'"):
        find_scans(tmp_path, "9")


def test_every_real_folder_gives_one_case(tmp_path):
    write_series(tmp_path / "in" / "patient", DATA)
    (tmp_path / "in" / "patient" / "loop").symlink_to(".")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "patient")
    save(tmp_path / "elsewhere" / "far.nii.gz")
    assert names(tmp_path / "in") == ["patient"]
    assert list(relative_nifti_files(tmp_path / "in")) == ["up/elsewhere/far.nii.gz"]


def test_links_to_nothing_are_named(tmp_path):
    folder = write_series(tmp_path / "patient", DATA)
    write_series(tmp_path / "good", DATA)
    slices = sorted(folder.iterdir())
    slices[-1].unlink()
    slices[-1].symlink_to("gone")
    (tmp_path / "ct.nii.gz").symlink_to("gone")
    (tmp_path / "odd").symlink_to("gone")
    found = find_scans(tmp_path)
    assert [case.name for case in found.cases] == ["ct", "good", "patient"]
    assert "odd (a link to nothing)" in found.left_out[0]
    for case, text in zip(found.cases, ("ct.nii.gz", "", slices[-1].name), strict=True):
        if text:
            with pytest.raises(UserError, match=text):
                read_voxels(case)
    assert read_voxels(found.cases[1]).volume.data.shape == DATA.shape


def test_names_that_are_not_utf8_are_named(tmp_path):
    odd = os.fsdecode(b"\xe4ngstlich")
    save(tmp_path / "in" / "good.nii.gz")
    write_series(tmp_path / "in" / odd, DATA)
    save(tmp_path / "in" / f"{odd}.nii.gz")
    found = find_scans(tmp_path / "in")
    assert [case.name for case in found.cases] == ["good"]
    assert len(found.left_out) == 1 and r"\udce4ngstlich" in found.left_out[0] and "UTF-8" in found.left_out[0]
    "\n".join(found.left_out).encode()
    with pytest.raises(UserError, match="not UTF-8") as error:
        relative_nifti_files(tmp_path / "in")
    str(error.value).encode()
