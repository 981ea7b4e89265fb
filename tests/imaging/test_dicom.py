"""DICOM series: order by position, Hounsfield units, the grid in RAS, and how a folder fails to be one series."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.series import (
    inspect_series,
    read_mask_series,
    read_series,
    series_by_patient,
    slice_files,
)

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


def other_series(folder, name="venous", number=7, count=5, **changes):
    """Slices of another series in the same folder."""
    uid = generate_uid(entropy_srcs=[name])
    changes = {"SeriesInstanceUID": uid, "SeriesDescription": name, "SeriesNumber": number, **changes}
    for k in range(count):
        write_slice(folder / f"{name}{k}", k, **changes)
    return uid


def test_several_series_are_named_and_one_can_be_chosen(series):
    uid = other_series(series)
    refused(series, "holds 2 series of CT", "'venous'", "5 slices", "2 mm apart", uid, "--series")
    for wanted in ("7", uid[:-3], "Ven"):
        found = inspect_series(series, wanted=wanted)
        assert {path.name[:-1] for path in found.files} == {"venous"}
        assert any(note.startswith("left out series") for note in found.notes)
    refused(series, "has no series 'late'", "'venous'", wanted="late")
    refused(series, "same place", one_uid=False)


def test_a_series_that_is_no_volume_is_left_out_and_said(series):
    uid = other_series(series, "stray", count=1)
    other_series(series, "tracking", count=4, ImagePositionPatient=[0, 0, 0])
    found = inspect_series(series)
    assert [path.name for path in found.files] == list("caebd")
    assert any(uid in note for note in found.notes) and any("tracking" in note for note in found.notes)


def test_broken_identifiers_can_be_overlooked(series):
    write_slice(series / "f", 5, SeriesInstanceUID=generate_uid(entropy_srcs=["other"]))
    assert len(inspect_series(series, one_uid=False).files) == 6


@pytest.mark.parametrize("name", ["AcquisitionNumber", "ConvolutionKernel", "KVP", "TemporalPositionIdentifier"])
def test_two_acquisitions_between_each_other_are_never_one_volume(tmp_path, name):
    values = ("sharp", "soft") if name == "ConvolutionKernel" else (1, 2)
    for k in range(10):
        write_slice(tmp_path / str(k), k, **{name: values[k % 2]})
    refused(tmp_path, "holds 2 series of CT", f"{name} {values[0]}", f"{name} {values[1]}", "4 mm apart")
    assert [path.name for path in inspect_series(tmp_path, wanted="/2").files] == list("13579")
    assert len(inspect_series(tmp_path, one_uid=False).files) == 10


@pytest.mark.parametrize("number_of", [lambda k: k, lambda k: k // 5])
def test_acquisitions_that_follow_each_other_are_one_volume(tmp_path, number_of):
    for k in range(10):
        write_slice(tmp_path / str(k), k, AcquisitionNumber=number_of(k))
    assert len(inspect_series(tmp_path).files) == 10


def test_two_grids_in_one_series_are_two_stacks(series):
    for k in range(3):
        write_slice(series / f"x{k}", k, np.zeros((6, 6), "<u2"))
    refused(series, "holds 2 series of CT", "another grid", "of 5 slices", "of 3 slices")


def directory(path):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["directory"])
    FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128).save_as(path)


def no_image(path, modality, storage):
    write_slice(path, 0)
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "PixelSpacing"):
        delattr(dataset, name)
    dataset.Modality, dataset.SOPClassUID = modality, storage
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.save_as(path)


def test_what_is_no_slice_of_a_ct_is_left_out_and_said(series):
    directory(series / "DIRFILE")
    no_image(series / "rs", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")
    no_image(series / "sr", "SR", "1.2.840.10008.5.1.4.1.1.88.22")
    no_image(series / "page", "CT", "1.2.840.10008.5.1.4.1.1.104.1")  # a PDF
    for name in ("scout1", "scout2"):
        write_slice(series / name, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], PixelSpacing=[9, 9])
    write_slice(series / "mr", 5, Modality="MR")
    write_slice(series / "seg", 5, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="OT")
    found = inspect_series(series)
    assert [path.name for path in found.files] == list("caebd")
    notes = "\n".join(found.notes)
    for text in ("DICOMDIR", "RTSTRUCT", "SR", "LOCALIZER)): scout1, scout2", "MR", "SEG", "page"):
        assert text in notes
    for path in "caebd":
        (series / path).unlink()
    refused(series, "no DICOM slices of a CT", "RTSTRUCT")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelSpacing": [0.75, 0.6]}, "another pixel size"),
        ({"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}, "another direction"),
        ({"pixels": np.zeros((4, 5), "<u2")}, "(5, 4) pixels instead of (3, 4)"),
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


def jpeg_lossless(path, stored):
    """A slice whose pixels are compressed as those of most archives: by SimpleITK, for pydicom alone cannot."""
    import SimpleITK as sitk

    dataset, packed = pydicom.dcmread(path), path.with_name(f"{path.name}.packed")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(packed))
    writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(stored)[None]))
    other = pydicom.dcmread(packed)
    packed.unlink()
    dataset.file_meta.TransferSyntaxUID = other.file_meta.TransferSyntaxUID
    assert other.file_meta.TransferSyntaxUID in ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
    dataset["PixelData"] = other["PixelData"]
    dataset.save_as(path)


@pytest.mark.parametrize("kind", ["unsigned", "signed", "12 bits", "12 bits signed"])
def test_lossless_jpeg_holds_the_same_hounsfield_units(tmp_path, kind):
    rng, signed = np.random.default_rng(0), kind.endswith("signed") and kind != "unsigned"
    limit = 2048 if "12" in kind else 30000
    changes = {"PixelRepresentation": int(signed), "RescaleSlope": 1, "RescaleIntercept": -1000}
    if "12" in kind:
        changes |= {"BitsStored": 12, "HighBit": 11}
    for folder in ("plain", "packed"):
        rng = np.random.default_rng(0)
        for k in range(3):
            pixels = rng.integers(-limit if signed else 0, limit, (40, 30)).astype("<i2" if signed else "<u2")
            path = write_slice(tmp_path / folder / f"{k}.dcm", k, pixels, **changes)
            if folder == "packed":
                jpeg_lossless(path, pixels)
    plain, packed = (read_series(inspect_series(tmp_path / name)).data for name in ("plain", "packed"))
    assert plain.dtype == packed.dtype and np.array_equal(plain, packed) and np.unique(plain).size > 1000
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "packed", str(path), "cannot be read")


def write_enhanced(path, num_frames=5, **top):
    """The stack of `series` as one enhanced CT; frames stand in another order than their positions."""
    order = np.random.default_rng(0).permutation(num_frames)
    write_slice(path, 0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, RescaleSlope=None)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    shared, measures, direction = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, direction.ImageOrientationPatient = [0.75, 0.5], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    frames = []
    for k in order:
        place, scale, content, frame = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + STEP * int(k)]
        scale.RescaleSlope, scale.RescaleIntercept = 2, -1024
        content.FrameAcquisitionNumber = top.get("acquisition", lambda k: 1)(int(k))
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frame.FrameContentSequence = [content]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    dataset.NumberOfFrames = num_frames
    dataset.PixelData = np.stack([stored(int(k)) for k in order]).tobytes()
    dataset.save_as(path)
    return path


def test_an_enhanced_ct_is_the_series_of_its_frames(series, tmp_path):
    truth = read_series(inspect_series(series))
    path = write_enhanced(tmp_path / "enhanced" / "one.dcm")
    for place in (path, path.parent):
        found = read_series(inspect_series(place))
        assert np.array_equal(found.data, truth.data) and np.allclose(found.affine, truth.affine)
    write_enhanced(path, 10, acquisition=lambda k: k % 2)
    refused(path, "holds 2 series of CT", "AcquisitionNumber 0", "AcquisitionNumber 1")
    path.write_bytes(path.read_bytes()[:1500])
    refused(path, str(path))


def test_a_link_to_nothing_among_the_slices_is_named(series):
    (series / "d").unlink()
    (series / "d").symlink_to(series / "gone")
    refused(series, str(series / "d"), "is a link to a file that is not there")


def test_link_loops_and_second_names_of_a_folder_are_no_second_series(tmp_path):
    write_slice(tmp_path / "P_1" / "study" / "1.dcm", 0)
    for place in (tmp_path, tmp_path / "P_1", tmp_path / "P_1" / "study"):
        (place / "loop").symlink_to(".")
        (place / "up").symlink_to(tmp_path)
    (tmp_path / "P_1" / "again").symlink_to(tmp_path / "P_1" / "study")
    no_image(tmp_path / "P_1" / "structures" / "rs", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")
    assert series_by_patient(tmp_path, r"P_(?P<case>\d)") == {"1": tmp_path / "P_1" / "study"}


REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_dicom"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real series (shared/data/real_dicom) is not here")
def test_a_real_series_of_jpeg_2000_is_read_as_simpleitk_reads_it():
    import SimpleITK as sitk

    found = inspect_series(REAL)
    volume = read_series(found)
    assert volume.data.shape == (512, 512, 20) and found.notes == ()
    other = sitk.ReadImage([str(path) for path in found.files])
    assert np.array_equal(volume.data, sitk.GetArrayFromImage(other).T)
    assert np.allclose(volume.geometry.spacing_mm, other.GetSpacing(), atol=1e-3)


def test_the_writer_of_this_test_writes_dicom(series):
    assert pydicom.dcmread(series / "a").pixel_array.shape == (4, 3)
