"""DICOM series: order by position, Hounsfield units, the grid in RAS, and how a folder fails to be one series."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom import inspect_series, read_mask_series, read_series, series_by_patient, slice_files

# Axial: columns to the left, rows to the back, 0.5 and 0.75 mm; slices 2 mm apart. X Y Z = 3 columns, 4 rows, 5 slices.
SHAPE, ORIGIN, STEP = (3, 4, 5), (-10.0, -20.0, 30.0), 2.0
UID = generate_uid(entropy_srcs=["series"])


def stored(k):
    """(4 rows, 3 columns) of slice k: 100 k + 10 row + column."""
    return (100 * k + 10 * np.arange(4)[:, None] + np.arange(3)).astype("<u2")


def write_slice(path, k, pixels=None, **changes):
    """Slice k of the series; `changes` overwrite elements, None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = stored(k) if pixels is None else pixels
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    elements = {
        "Modality": "CT",
        "SeriesInstanceUID": UID,
        "ImagePositionPatient": [ORIGIN[0], ORIGIN[1], ORIGIN[2] + STEP * k],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.75, 0.5],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": 0,
        "RescaleSlope": 2,
        "RescaleIntercept": -1024,
        "InstanceNumber": 99,
        **changes,
    }
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path):
    """A folder whose names are in another order than its slices, with what lies about in real ones."""
    folder = tmp_path / "series"
    for k, name in enumerate("caebd"):
        write_slice(folder / name, k)
    for junk in ("._a", ".DS_Store", "DICOMDIR", "LICENSE", "readme.txt"):
        (folder / junk).write_bytes(b"\x00\x05\x16\x07")
    return folder


def refused(folder, *words, **options):
    with pytest.raises(UserError) as caught:
        read_series(inspect_series(folder, **options))
    assert all(word in str(caught.value) for word in words), caught.value


def test_slices_are_sorted_by_position_and_not_by_name_or_number(series):
    found = inspect_series(series)
    assert [path.name for path in found.files] == list("caebd")
    data = read_series(found).data
    assert data.shape == SHAPE
    for k in range(SHAPE[2]):
        assert np.array_equal(data[:, :, k], stored(k).T.astype(int) * 2 - 1024)
    assert data.dtype == np.int16


def test_affine_leads_from_columns_rows_slices_to_ras(series):
    volume = read_series(inspect_series(series))
    assert np.allclose(volume.affine @ (0, 0, 0, 1), (10, 20, 30, 1))
    assert np.allclose(volume.affine @ (2, 3, 4, 1), (10 - 2 * 0.5, 20 - 3 * 0.75, 30 + 4 * 2, 1))


def test_coronal_series_counts_along_its_normal(tmp_path):
    for k in range(3):  # columns to the left, rows to the feet: the normal points to the back
        write_slice(
            tmp_path / f"{k}.dcm",
            k,
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            ImagePositionPatient=[0, 4.0 * (2 - k), 0],
        )
    found = inspect_series(tmp_path)
    assert [path.name for path in found.files] == ["2.dcm", "1.dcm", "0.dcm"]
    assert np.allclose(found.geometry.affine @ (1, 1, 1, 1), (-0.5, -4, -0.75, 1))


def test_each_slice_has_its_own_scale_and_fractions_survive(series):
    write_slice(series / "b", 3, RescaleSlope=0.5, RescaleIntercept=-0.25)
    data = read_series(inspect_series(series)).data
    assert data.dtype == np.float32
    assert data[1, 2, 3] == 321 * 0.5 - 0.25
    assert data[1, 2, 2] == 221 * 2 - 1024


def test_missing_slice_is_named_by_its_neighbours(series):
    (series / "e").unlink()  # the third of five
    refused(series, "a slice is missing", "lies 4 mm from a, the others 2 mm", str(series / "b"))


def test_uneven_spacing_is_named(series):
    write_slice(series / "d", 4, ImagePositionPatient=[ORIGIN[0], ORIGIN[1], 30 + 2 * 4 + 0.5])
    refused(series, "unevenly spaced", str(series / "d"))


def test_rounded_positions_are_even_enough(tmp_path):
    for k in range(9):
        write_slice(tmp_path / f"{k}.dcm", 0, ImagePositionPatient=[0, 0, round(0.625 * k, 1)])
    assert inspect_series(tmp_path).geometry.spacing_mm[2] == pytest.approx(0.625)


def test_two_slices_at_one_place_are_named(series):
    write_slice(series / "f", 2)
    refused(series, "same place", "/f", " e ")


def test_mixed_series_are_named(series):
    write_slice(series / "f", 5, SeriesInstanceUID=generate_uid(entropy_srcs=["other"]))
    refused(series, str(series / "f"), "another series")
    assert len(inspect_series(series, one_uid=False).files) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelSpacing": [0.75, 0.6]}, "another pixel size"),
        ({"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}, "another direction"),
        ({"pixels": np.zeros((4, 5), "<u2")}, "(5, 4) pixels instead of (3, 4)"),
        ({"Modality": "MR"}, "modality MR"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "direction cosines"),
        ({"PixelSpacing": [0, 0.5]}, "no usable position"),
        ({"RescaleIntercept": None}, "RescaleIntercept"),
    ],
)
def test_a_slice_that_does_not_fit_is_named(series, changes, words):
    write_slice(series / "f", 5, **changes)
    refused(series, str(series / "f"), words)


def test_signed_values_without_scale_are_hounsfield_units(tmp_path):
    for k in range(2):
        pixels = np.full((4, 3), -7, "<i2")
        write_slice(tmp_path / str(k), k, pixels, PixelRepresentation=1, RescaleSlope=None, RescaleIntercept=None)
    assert set(read_series(inspect_series(tmp_path)).data.ravel()) == {-7}


def test_tilted_gantry_is_refused(series):
    for k, name in enumerate("caebd"):
        write_slice(series / name, k, ImagePositionPatient=[ORIGIN[0], ORIGIN[1] + 0.3 * k, ORIGIN[2] + STEP * k])
    refused(series, "shifted sideways by 1.2 mm")


def test_damaged_files_are_named(series):
    whole = (series / "b").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-4], b"no dicom", b""):
        (series / "b").write_bytes(content)
        refused(series, str(series / "b"))


def test_a_folder_without_slices_and_one_with_a_single_one_are_refused(series):
    for path in slice_files(series)[1:]:
        path.unlink()
    refused(series, "only slice")
    slice_files(series)[0].unlink()
    refused(series, "holds no DICOM slices")


def test_masks_lie_on_the_grid_of_their_image(series, tmp_path):
    image = inspect_series(series)
    for k in range(SHAPE[2]):
        mask = np.zeros((4, 3), np.uint8)
        mask[k % 4, 1] = 255
        write_slice(tmp_path / "mask" / str(9 - k), k, mask, RescaleSlope=None, RescaleIntercept=None)
    found = read_mask_series(tmp_path / "mask", image)
    assert np.argwhere(found).tolist() == [[1, 0, 0], [1, 0, 4], [1, 1, 1], [1, 2, 2], [1, 3, 3]]
    (tmp_path / "mask" / "9").unlink()
    with pytest.raises(UserError, match="grid of its image"):
        read_mask_series(tmp_path / "mask", image)
    write_slice(tmp_path / "mask" / "9", 0, np.array([[1, 2, 0]] * 4, np.uint8))
    with pytest.raises(UserError, match="a mask of 0 and one other value"):
        read_mask_series(tmp_path / "mask", image)


def test_series_of_patients_lie_any_number_of_folders_deep(tmp_path):
    write_slice(tmp_path / "a" / "P_1" / "study" / "series" / "1.dcm", 0)
    write_slice(tmp_path / "P_2" / "1.dcm", 0)
    assert series_by_patient(tmp_path, r"P_(?P<case>\d)") == {
        "1": tmp_path / "a" / "P_1" / "study" / "series",
        "2": tmp_path / "P_2",
    }
    write_slice(tmp_path / "P_2" / "other" / "1.dcm", 0)
    with pytest.raises(UserError, match="holds 2 folders of DICOM slices"):
        series_by_patient(tmp_path, r"P_(?P<case>\d)")


def test_a_patient_that_is_there_twice_is_refused(tmp_path):
    for parent in "ab":
        write_slice(tmp_path / parent / "P_1" / "1.dcm", 0)
    with pytest.raises(UserError, match="is the same patient"):
        series_by_patient(tmp_path, r"P_(?P<case>\d)")


def test_the_writer_of_this_test_writes_dicom(series):
    assert pydicom.dcmread(series / "a").pixel_array.shape == (4, 3)
