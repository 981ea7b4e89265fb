"""DICOM in, DICOM segmentation out: read back voxel by voxel, by highdicom and by dcmqi; what cannot be referred to is
refused before it is predicted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.series import Series, inspect_series
from nnunetv2_clip.imaging.dicom.sources import source_slices
from nnunetv2_clip.imaging.nifti import Geometry
from nnunetv2_clip.imaging.pictures import color_of
from nnunetv2_clip.inference.dicom_seg import Algorithm, code_of, require_referable, segmentation, write_dicom_seg
from nnunetv2_clip.inference.loaded_model import load_model
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.phantom.layouts import write_source
from tests.imaging.test_dicom import write_enhanced
from tests.inference.conftest import make_ct, save_ct
from tests.inference.test_bad_input import write_series
from tests.inference.test_predict import predict

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_dicom"
ALGORITHM = Algorithm("Dataset900_Universal/Trainer__Plans__3d_fullres", {"fold_0/checkpoint_final.pth": "ab" * 32})


@pytest.fixture
def series(tmp_path) -> Path:
    """The folder of a few slices, as an archive keeps them."""
    identifiers = {"StudyInstanceUID": "1.2.1", "FrameOfReferenceUID": "1.2.2", "PatientID": "P", "PatientName": "P^Q"}
    return write_series(tmp_path / "patient", make_ct((20, 22, 12)), **identifiers)


def read_back(path: Path, series: Series) -> tuple[highdicom.seg.Segmentation, dict[str, np.ndarray]]:
    """The object, and class -> (X, Y, Z) bool on the grid of the series: every slice is asked for by its identifier."""
    seg = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in series.files]
    assert {uid for *_, uid in seg.get_source_image_uids()} == set(uids)
    frames = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    names = [each.segment_label for each in seg.SegmentSequence]
    return seg, {name: frames[..., k].T.astype(bool) for k, name in enumerate(names)}


def by_dcmqi(path: Path, folder: Path) -> dict[str, nib.Nifti1Image]:
    pytest.importorskip("dcmqi", reason="dcmqi is not installed")
    folder.mkdir()
    program = [sys.executable, "-c", "import dcmqi; dcmqi.segimage2itkimage()"]
    options = ["--inputDICOM", str(path), "--outputDirectory", str(folder), "--outputType", "nii"]
    subprocess.run([*program, *options], check=True, capture_output=True)
    attributes = json.loads((folder / "meta.json").read_text())["segmentAttributes"]
    return {one["SegmentLabel"]: nib.load(folder / f"{one['labelID']}.nii.gz") for [one] in attributes}


def on_grid(image: nib.Nifti1Image, grid: Geometry) -> np.ndarray:
    """(X, Y, Z) bool: a volume that may hold other slices, or lie in it the other way round, by its positions."""
    places = np.linalg.inv(grid.affine) @ image.affine @ np.insert(np.argwhere(image.get_fdata() > 0), 3, 1, axis=1).T
    assert np.allclose(places, np.rint(places), atol=1e-3)
    mask = np.zeros(grid.shape, bool)
    mask[tuple(np.rint(places[:3]).astype(int))] = True
    return mask


def assert_masks_are_read_back(out: Path, case: str, series: Path) -> None:
    masks = {path.name.removesuffix(".nii.gz"): nib.load(path) for path in (out / case).glob("*.nii.gz")}
    expected = {name: np.asarray(mask.dataobj) > 0 for name, mask in masks.items()}
    found = {name for name, mask in expected.items() if mask.any()}
    seg, back = read_back(out / f"{case}_seg.dcm", inspect_series(series))
    assert list(back) == [row.name for row in UNIVERSAL.subset(found)] and found  # in painting order
    assert all(np.array_equal(back[name], expected[name]) for name in found)
    assert seg.NumberOfFrames == sum(expected[name].any(axis=(0, 1)).sum() for name in found)
    for name, image in by_dcmqi(out / f"{case}_seg.dcm", out / "dcmqi").items():
        assert np.array_equal(on_grid(image, inspect_series(series).geometry), expected[name]), name


def test_a_series_gets_one_segmentation_that_readers_read_back(tmp_path, model, series):
    assert predict(series, tmp_path / "out", model, "--outputs", "masks", "dicom_seg") == 0
    assert_masks_are_read_back(tmp_path / "out", "patient", series)
    seg, first = (pydicom.dcmread(path) for path in (tmp_path / "out/patient_seg.dcm", min(series.iterdir())))
    for same in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert seg[same].value == first[same].value
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID and seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    one = seg.SegmentSequence[0]
    [algorithm] = one.SegmentationAlgorithmIdentificationSequence
    assert "Dataset900_Universal" in algorithm.AlgorithmName and one.SegmentAlgorithmType == "AUTOMATIC"
    weights = json.loads((tmp_path / "out" / "prediction.json").read_text())["weights"]
    assert weights["fold_0/checkpoint_final.pth"] in str(algorithm.AlgorithmParameters)
    assert str(tmp_path) not in str(seg)


@pytest.mark.parametrize("layout", ["chaos", "pancreas_ct", "ircadb"])
def test_organs_of_every_dicom_layout_are_read_back_where_they_lie(tmp_path, layout):
    source = write_source(layout, tmp_path, [5], [], spacing_mm=(12.0, 10.0, 14.0))
    [case] = source.cases.values()
    found = inspect_series(case.image)
    labels, truth = (json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"], nib.load(case.truth))
    turned = nib.orientations.ornt_transform(*map(nib.io_orientation, (truth.affine, found.geometry.affine)))
    on_slices = np.asarray(truth.as_reoriented(turned).dataobj)
    organs = {name: np.isin(on_slices, values) for name, values in labels.items() if name in UNIVERSAL.names}
    masks = {
        name: Mask.of(organ.shape, tuple(map(slice, [0] * 3, organ.shape)), organ) for name, organ in organs.items()
    }
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, source_slices(found), masks, UNIVERSAL.painting_order(), UNIVERSAL, ALGORITHM)
    back = read_back(path, found)[1]
    assert set(back) == {name for name, organ in organs.items() if organ.any()} and len(back) > 25
    assert all(np.array_equal(back[name], organs[name]) for name in back)
    for name, image in by_dcmqi(path, tmp_path / "dcmqi").items():
        assert np.array_equal(on_grid(image, found.geometry), organs[name]), name


def test_a_zip_of_a_series_is_referred_to_as_well(tmp_path, model, series):
    path = shutil.make_archive(str(tmp_path / "zipped" / "patient"), "zip", series)
    assert predict(path, tmp_path / "out", model, "--outputs", "masks", "dicom_seg") == 0
    assert_masks_are_read_back(tmp_path / "out", "patient", series)


def drawn(series: Path, **boxes) -> tuple:
    """Source and masks that fill boxes of a series."""
    found = inspect_series(series)
    shape = found.geometry.shape
    masks = {name: Mask(shape) for name in UNIVERSAL.names}
    for name, box in boxes.items():
        voxels_of_box = np.ones([part.stop - part.start for part in box], bool)
        masks[name] = Mask.of(shape, box, voxels_of_box)
    return source_slices(found), masks


def test_segments_may_overlap(tmp_path, series):
    whole, part = np.s_[2:9, 3:8, 1:6], np.s_[4:6, 4:7, 2:4]
    source, masks = drawn(series, liver=whole, liver_tumor=part)
    rows = UNIVERSAL.subset(["liver", "liver_tumor", "spleen"])
    write_dicom_seg(tmp_path / "seg.dcm", source, masks, rows, UNIVERSAL, ALGORITHM)
    seg, back = read_back(tmp_path / "seg.dcm", inspect_series(series))
    assert list(back) == ["liver", "liver_tumor"]  # nothing of a spleen was found
    for name, box in (("liver", whole), ("liver_tumor", part)):
        assert back[name][box].all() and back[name].sum() == masks[name].full().sum()
    assert seg.SegmentsOverlap == "YES" and seg.NumberOfFrames == 5 + 2


def test_where_nothing_was_found_the_segmentation_is_empty(tmp_path, series):
    source, masks = drawn(series)
    rows = UNIVERSAL.subset(["liver", "spleen"])
    write_dicom_seg(tmp_path / "seg.dcm", source, masks, rows, UNIVERSAL, ALGORITHM)
    _, back = read_back(tmp_path / "seg.dcm", inspect_series(series))
    assert list(back) == ["liver"] and not back["liver"].any()


def described(series, name, taxonomy=UNIVERSAL):
    source, masks = drawn(series)
    masks[name] = Mask.of(masks["liver"].shape, np.s_[0:1, 0:1, 0:1], np.ones((1, 1, 1), bool))
    [segment] = segmentation(source, masks, [taxonomy.find(name)], taxonomy, ALGORITHM).SegmentSequence
    return segment


def test_a_segment_tells_what_it_is_where_and_on_which_side(series):
    kidney = described(series, "left_kidney")
    [kind] = kidney.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert kidney.segmented_property_category == codes.cid7150.AnatomicalStructure
    assert "AnatomicRegionSequence" not in kidney
    lab = highdicom.color.CIELabColor.from_rgb(*color_of(UNIVERSAL.find("left_kidney")))
    assert list(kidney.RecommendedDisplayCIELabValue) == list(lab.value)
    tumor = described(series, "liver_tumor")
    assert tumor.segmented_property_type == codes.cid7159.Neoplasm
    assert tumor.segmented_property_category == codes.cid7150.MorphologicallyAbnormalStructure
    assert [region.CodeMeaning for region in tumor.AnatomicRegionSequence] == ["Liver"]
    cyst = described(series, "kidney_cyst")  # in one of two kidneys: the side is not known
    assert [region.CodeMeaning for region in cyst.AnatomicRegionSequence] == ["Kidney"]
    assert "AnatomicRegionModifierSequence" not in cyst.AnatomicRegionSequence[0]


def test_every_class_has_a_concept_that_the_standard_knows():
    known = {code.value for group in (codes.SCT,) for code in map(group.__getattr__, group.dir())}
    own = {row.name for row in UNIVERSAL if code_of(row).value not in known}
    assert own == {"portal_and_splenic_vein"}  # TotalSegmentator's code; the standard has each vein alone
    sides = {row.name: row.partner for row in UNIVERSAL if row.partner}
    assert all(code_of(UNIVERSAL.find(a)) == code_of(UNIVERSAL.find(b)) for a, b in sides.items())


def test_a_class_of_the_users_brings_its_concept_or_gets_a_private_one(tmp_path, series):
    table = tmp_path / "classes.yaml"
    table.write_text(
        "classes:\n- {index: 33, name: renal_vein, snomed: 56400007 |Renal vein|}\n"
        "- {index: 34, name: left_cyst, snomed: 367643001 |Cyst|, parents: [left_kidney]}\n- {index: 35, name: odd}\n"
    )
    taxonomy = UNIVERSAL.extended(table)
    assert Taxonomy.from_json(taxonomy.to_json(), "copy").rows == taxonomy.rows
    assert described(series, "renal_vein", taxonomy).segmented_property_type == codes.SCT.RenalVein
    [region] = described(series, "left_cyst", taxonomy).AnatomicRegionSequence
    assert region.CodeMeaning == "Kidney" and region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    [kind] = described(series, "odd", taxonomy).SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("35", "99NNUNETV2CLIP", "odd")


@pytest.mark.parametrize("concept", ["Renal vein", "123", "56400007", "56400007 Renal vein"])
def test_a_concept_without_number_or_term_is_refused(tmp_path, concept):
    (tmp_path / "classes.yaml").write_text(f"classes: [{{index: 33, name: renal_vein, snomed: {concept}}}]")
    with pytest.raises(UserError, match=r"56400007 \|Renal vein\|"):
        UNIVERSAL.extended(tmp_path / "classes.yaml")


def test_frames_of_an_enhanced_ct_are_referred_to_by_their_number(tmp_path):
    path = write_enhanced(tmp_path / "one.dcm")
    dataset = pydicom.dcmread(path)
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.4"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:  # as some scanners write it
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PlaneOrientationSequence
    dataset.save_as(path)
    source, masks = drawn(path, liver=np.s_[0:2, 1:4, 2:5])
    require_referable(path, source)
    write_dicom_seg(tmp_path / "seg.dcm", source, masks, UNIVERSAL.subset(["liver"]), UNIVERSAL, ALGORITHM)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    numbers = [row.frame + 1 for row in inspect_series(path).slices]
    frames = seg.get_pixels_by_source_frame(dataset.SOPInstanceUID, numbers, assert_missing_frames_are_empty=True)
    assert np.array_equal(frames[..., 0].T > 0, masks["liver"].full(bool))


def without(name):
    def change(dataset):
        del dataset[name]

    return change


def another(name, value):
    return lambda dataset: setattr(dataset, name, value)


@pytest.mark.parametrize(
    ("change", "files", "words"),
    [
        (without("FrameOfReferenceUID"), "all", "has no FrameOfReferenceUID"),
        (without("StudyInstanceUID"), "one", "has no StudyInstanceUID"),
        (another("SOPInstanceUID", ""), "one", "has no SOPInstanceUID"),
        (another("SOPInstanceUID", "1.2.3"), "all", "has the SOPInstanceUID of"),
        (another("StudyInstanceUID", "1.2.3"), "one", "cannot refer"),
    ],
)
def test_what_cannot_be_referred_to_is_refused_before_it_is_predicted(
    tmp_path, model, series, monkeypatch, capsys, change, files, words
):
    from nnunetv2_clip.inference.case_predictor import CasePredictor

    for path in sorted(series.iterdir())[: None if files == "all" else 1]:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    monkeypatch.setattr(CasePredictor, "predict", lambda *_: pytest.fail("was predicted"))
    outputs = ("--outputs", "labels", "statistics", "dicom_seg")
    assert predict(series, tmp_path / "out", model, *outputs) == 3
    error = capsys.readouterr().err
    assert words in error and "export the series again with its identifiers" in error
    assert not [path for path in (tmp_path / "out").rglob("*") if "patient" in path.name]


JAPANESE = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"}


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientID": None, "PatientName": None},
        {"PatientBirthDate": "unknown", "StudyTime": "99:99", "PatientSex": "MALE"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"},
        {"SpecificCharacterSet": "ISO 2022 IR 100", "PatientName": "Müller^Jörg"},
        {"SpecificCharacterSet": "ISO_IR 6"},
        {"SpecificCharacterSet": "WINDOWS-1252"},
        JAPANESE,
        {"SpacingBetweenSlices": "-3"},
    ],
    ids=["anonymous", "odd", "latin", "a lone code extension", "ascii", "no alphabet", "japanese", "wrong distance"],
)
@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:Unknown encoding")
def test_patients_and_studies_are_taken_over_as_they_are(tmp_path, series, elements):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            delattr(dataset, name) if value is None else dataset.add_new(name, dictionary_VR(name), value)
        dataset.save_as(path)
    source, masks = drawn(series, liver=np.s_[0:2, 1:4, 2:5])
    require_referable(series, source)
    write_dicom_seg(tmp_path / "seg.dcm", source, masks, UNIVERSAL.subset(["liver"]), UNIVERSAL, ALGORITHM)
    seg, back = read_back(tmp_path / "seg.dcm", inspect_series(series))
    assert back["liver"].sum() == 2 * 3 * 3
    assert seg.PatientName == (elements.get("PatientName", "P^Q") or "")
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 5


def test_directions_that_differ_by_rounding_are_one(series):
    for number, path in enumerate(sorted(series.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, number % 2 * 1e-5]
        dataset.save_as(path)
    source, _ = drawn(series)
    require_referable(series, source)
    assert len({str(header.ImageOrientationPatient) for header in source.headers}) == 1


def test_files_without_slices_are_refused_at_once_and_beside_a_series_one_by_one(tmp_path, model, ct, series, capsys):
    assert predict(ct, tmp_path / "none", model, "--outputs", "dicom_seg") == 2
    assert "holds no DICOM series" in capsys.readouterr().err and not (tmp_path / "none").exists()
    mixed = tmp_path / "mixed"
    save_ct(mixed / "a.nii.gz")
    series.rename(mixed / "b")
    assert predict(mixed, tmp_path / "out", model, "--outputs", "labels", "dicom_seg") == 3
    assert "a.nii.gz: is no DICOM series" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"b.nii.gz"}
    assert (tmp_path / "out" / "b_seg.dcm").is_file() and not (tmp_path / "out" / "a_seg.dcm").exists()


def test_a_segmentation_that_is_lost_is_written_again(tmp_path, model, series):
    assert predict(series, tmp_path / "out", model, "--outputs", "dicom_seg") == 0
    path = tmp_path / "out" / f"{series.name}_seg.dcm"
    before = read_back(path, inspect_series(series))[1]
    path.write_bytes(b"")
    assert predict(series, tmp_path / "out", model, "--outputs", "dicom_seg", "--continue_prediction") == 0
    after = read_back(path, inspect_series(series))[1]
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.filterwarnings("ignore:.*looks turned")
def test_results_in_python_are_saved_as_the_command_writes_them(tmp_path, model, series):
    loaded = load_model(model, "cpu")
    result = loaded.predict(series)
    assert result.save(tmp_path / "out", ["masks", "dicom_seg"])[0] == tmp_path / "out" / "patient_seg.dcm"
    assert_masks_are_read_back(tmp_path / "out", "patient", series)
    path = save_ct(tmp_path / "a.nii.gz")
    for other in (nib.load(path), (make_ct(), np.diag([3.0, 3, 3, 1])), path):
        with pytest.raises(UserError, match="is no DICOM series"):
            loaded.predict(other).save(tmp_path / "none", ["labels", "dicom_seg"])
    moved = loaded.predict(series)
    series.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is no DICOM series"):
        moved.save(tmp_path / "none", ["labels", "dicom_seg"])
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real series (shared/data/real_dicom) is not here")
def test_a_real_series_needs_the_identifiers_that_its_publisher_removed(tmp_path, model, capsys):
    quick = ("--outputs", "masks", "dicom_seg", "--disable_tta", "-step_size", 1)
    assert predict(REAL, tmp_path / "out", model, *quick) == 3
    assert "has no SOPClassUID, SOPInstanceUID, StudyInstanceUID, SeriesInstanceUID" in capsys.readouterr().err
    folder = tmp_path / "restored"
    folder.mkdir()
    for path in sorted(REAL.iterdir())[:8]:
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
            "1.2.826.0.1.3680043.8.498.1",
            "1.2.826.0.1.3680043.8.498.2",
        )
        dataset.save_as(folder / path.name)
    assert predict(folder, tmp_path / "out2", model, *quick) == 0
    assert_masks_are_read_back(tmp_path / "out2", "restored", folder)
