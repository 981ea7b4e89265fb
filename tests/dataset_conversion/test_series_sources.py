"""Sources whose images are DICOM or whose labels have no usable header: what the contract test does not reach."""

import csv
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.source import complete
from nnunetv2_clip.dataset_conversion.chaos import read_masks
from nnunetv2_clip.dataset_conversion.gibson import outside_box, read_boxes
from nnunetv2_clip.dataset_conversion.ircadb import meaning
from nnunetv2_clip.dataset_conversion.registry import find_source
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.phantom.layouts import write_source

SPACING_MM = (9.0, 9.0, 14.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Phantoms that were written before, by layout and options; nobody changes them."""
    return tmp_path_factory.mktemp("originals"), {}


@pytest.fixture
def written(originals, tmp_path):
    """written(layout, number of cases, **options) gives a copy of phantoms with their truth."""
    folder, known = originals

    def write(layout, count=1, **options):
        key = (layout, count, *sorted(options.items()))
        if key not in known:
            known[key] = write_source(
                layout, folder / str(len(known)), range(1, count + 1), spacing_mm=SPACING_MM, **options
            )
        root = tmp_path / layout
        shutil.copytree(known[key].root, root)
        return replace(known[key], root=root)

    return write


def without_repair(source, name):
    return replace(source, switched_off=frozenset({name}))


def masks_of(loaded, name):
    """(X, Y, Z) bool, organs with their parts."""
    return loaded.labels.where(lambda classes: name in complete(classes, loaded.annotated, UNIVERSAL))


def drawn(truth, name):
    return np.isin(np.asanyarray(nib.load(truth.truth).dataobj), LabelTable.of().values_of(name))


def spoil_header(path, scale_z):
    image = nib.load(path)
    affine = image.affine @ np.diag([1, 1, scale_z, 1])
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


# Pancreas-CT


@pytest.mark.parametrize("flip", ["", "y", "z", "yz"])
def test_pancreas_labels_are_found_whichever_way_round_they_lie(written, flip):
    source, found = find_source("pancreas_ct"), written("pancreas_ct", label_flip=flip)
    [case] = source.find_cases(found.root)
    loaded = source.load_case(case)
    [truth] = found.cases.values()
    assert np.array_equal(masks_of(loaded, "pancreas"), drawn(truth, "pancreas"))
    assert [f"along {flip}," in fix for fix in loaded.fixes] == ([True] if flip else [])


def test_wrong_slice_distance_of_a_label_is_replaced_by_that_of_dicom(written):
    source, found = find_source("pancreas_ct"), written("pancreas_ct", 2)
    right, wrong = source.find_cases(found.root)
    assert [case.case_id[-4:] for case in (right, wrong)] == ["0001", "0007"]
    loaded = source.load_case(wrong)
    assert "distance of slices 14 mm from DICOM, not 42 mm" in loaded.fixes
    assert np.allclose(loaded.image.geometry.spacing_mm, SPACING_MM)
    with pytest.raises(UserError, match="0007.*repair z_spacing"):
        without_repair(source, "z_spacing").check_case(wrong)


def test_an_unknown_deviation_of_the_voxel_size_is_refused(written):
    source, found = find_source("pancreas_ct"), written("pancreas_ct")
    [case] = source.find_cases(found.root)
    source.check_case(case)
    spoil_header(case.labels["label"], 2)
    with pytest.raises(UserError, match="label0001.*9 x 9 x 28 mm"):
        source.check_case(case)


def test_a_flip_can_be_forbidden_and_the_known_absence_switched_off(written):
    source, found = find_source("pancreas_ct"), written("pancreas_ct", label_flip="z")
    [case] = source.find_cases(found.root)
    assert source.load_case(case).absent == ("pancreas_tumor",)
    assert without_repair(source, "known_absent").load_case(case).absent == ()
    with pytest.raises(UserError, match="only when it is flipped along z"):
        without_repair(source, "label_flip").load_case(case)


def test_withdrawn_patients_are_left_out_and_gibsons_labels_are_not_taken(written):
    found = written("pancreas_ct")
    patient = found.root / "Pancreas-CT" / "PANCREAS_0001"
    shutil.copytree(patient, patient.with_name("PANCREAS_0025"))
    label = found.root / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz"
    for folder in ("label_tcia_multiorgan", "label_tciapancreasct_multiorgan/label_tcia_multiorgan"):
        other = found.root / folder / "label0002.nii.gz"
        other.parent.mkdir(parents=True)
        shutil.copy(label, other)
    [case] = find_source("pancreas_ct").find_cases(found.root)
    assert case.labels["label"] == label


def test_a_patient_without_label_is_named(written):
    found = written("pancreas_ct")
    (found.root / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz").unlink()
    with pytest.raises(UserError, match="image without label.*PANCREAS_0001"):
        find_source("pancreas_ct").find_cases(found.root)


def test_labels_in_a_folder_of_another_name_are_missed_and_the_name_is_told(written, convert):
    found = written("pancreas_ct")
    (found.root / "TCIA_pancreas_labels-02-05-2017").rename(found.root / "labels")
    code, message = convert("--source", f"pancreas_ct={found.root}")
    assert code == 2 and "a folder whose name begins with TCIA_pancreas_labels" in message


def test_a_missing_slice_shows_before_anything_is_converted(written):
    source, found = find_source("pancreas_ct"), written("pancreas_ct")
    [case] = source.find_cases(found.root)
    (case.image / "1-005.dcm").unlink()
    with pytest.raises(UserError, match="a slice is missing"):
        source.check_case(case)


# CHAOS


@pytest.mark.parametrize("flip", ["", "y", "z", "yz"])
def test_chaos_pictures_are_stacked_as_the_image_tells(written, flip):
    source, found = find_source("chaos"), written("chaos", 2, label_flip=flip)
    for case, truth in zip(source.find_cases(found.root), found.cases.values(), strict=True):
        assert np.array_equal(masks_of(source.load_case(case), "liver"), drawn(truth, "liver"))


def test_chaos_healthy_organs_are_known_absent(written):
    source, found = find_source("chaos"), written("chaos")
    [case] = source.find_cases(found.root)
    assert source.load_case(case).absent == ("kidney_tumor", "liver_tumor")
    assert without_repair(source, "known_absent").load_case(case).absent == ()


def test_chaos_takes_the_folder_of_the_ct_in_small_letters_and_no_test_sets(tmp_path):
    found = write_source("chaos", tmp_path / "chaos", [1], [2], spacing_mm=SPACING_MM)
    (found.root / "Train_Sets" / "CT").rename(found.root / "Train_Sets" / "ct")
    for root in (found.root, found.root / "Train_Sets", found.root / "Train_Sets" / "ct"):
        assert [case.case_id for case in find_source("chaos").find_cases(root)] == ["chaos_01"]
    shutil.rmtree(found.root / "Train_Sets" / "ct" / "1" / "Ground")
    with pytest.raises(UserError, match="has no folder Ground"):
        find_source("chaos").find_cases(found.root)


def test_chaos_pictures_that_do_not_fit_are_named(written):
    source, found = find_source("chaos"), written("chaos")
    [case] = source.find_cases(found.root)
    masks = case.labels["label"]
    picture = masks / "liver_GT_010.png"
    grey = np.asarray(Image.open(picture).convert("L")).copy()
    grey[0], grey[1] = 63, 126
    spoilt = {"values": grey, "pixels instead of": grey[1:] * 0, "shape": np.stack([grey] * 3, axis=2)}
    for words, pixels in spoilt.items():
        Image.fromarray(pixels).save(picture)
        with pytest.raises(UserError, match=rf"liver_GT_010\.png.*{words}"):
            read_masks(masks)
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(UserError, match=r"liver_GT_010\.png: cannot be read"):
        read_masks(masks)
    picture.unlink()
    with pytest.raises(UserError, match="no PNG of number 10"):
        source.check_case(case)
    (masks / "liver_GT_010.png").symlink_to(masks / "liver_GT_011.png")
    (masks / sorted(path.name for path in masks.iterdir())[-1]).unlink()
    with pytest.raises(UserError, match="PNG files for"):
        source.check_case(case)


# Gibson


def test_a_box_counts_to_the_left_to_the_back_and_to_the_head(tmp_path):
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:3, 2:5, 1:6] = 6
    box = ((1, 4), (2, 6), (1, 7))
    outside, words = outside_box(label, LPS, box, "case")
    expected = np.ones(label.shape, bool)
    expected[1:4, 2:6, 1:7] = False
    assert np.array_equal(outside, expected) and words == ()
    flipped, _ = outside_box(label[:, :, ::-1], LPS @ np.diag([1, 1, -1, 1]), box, "case")
    assert np.array_equal(flipped, expected[:, :, ::-1])
    turned, _ = outside_box(label.transpose(2, 0, 1), LPS[:, [2, 0, 1, 3]], box, "case")
    assert np.array_equal(turned, expected.transpose(2, 0, 1))


def test_a_box_that_counts_from_the_other_end_is_noticed_by_the_labels():
    label = np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:5, 5:8] = 6
    outside, words = outside_box(label, LPS, ((0, 6), (0, 7), (0, 4)), "case")
    assert words == ("crop box counted from the other end along z, as the labels tell",)
    assert np.array_equal(np.flatnonzero(~outside.any(axis=(0, 1))), [4, 5, 6, 7])


def test_a_box_that_does_not_hold_the_organs_is_refused():
    label = np.zeros((6, 7, 8), np.uint8)
    label[:, :, :] = 6
    with pytest.raises(UserError, match="50% of liver, spleen and kidneys lie outside"):
        outside_box(label, LPS, ((0, 6), (0, 7), (0, 4)), "case")


def test_boxes_are_read_by_the_names_of_their_columns(tmp_path):
    path = tmp_path / "cropping.csv"
    head = "extent_sup,extent_inf,publisher,original_id,extent_ant,extent_post,extent_right,extent_left"
    path.write_text(f"{head}\n90,10,TCIA,2,20,30,50,40\n9,1,BTCV,2,2,3,5,4\n")
    assert read_boxes(path, is_tcia=True) == {2: ((40, 50), (20, 30), (10, 90))}
    assert read_boxes(path, is_tcia=False) == {2: ((4, 5), (2, 3), (1, 9))}
    for text, words in {
        "a,b\n1,2\n": "has the columns",
        f"{head}\n90,x,TCIA,2,20,30,50,40\n": "is no box",
        f"{head}\n90,90,TCIA,2,20,30,50,40\n": "start before stop",
        "": "has the columns",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_boxes(path, is_tcia=True)


@pytest.mark.parametrize("layout", ["gibson_btcv", "gibson_pancreas_ct"])
def test_outside_the_box_nothing_is_known_unless_as_in_the_paper(written, layout):
    source, found = find_source(layout), written(layout)
    [case], [truth] = source.find_cases(found.root), found.cases.values()
    loaded = source.load_case(case)
    inside = np.prod([stop - start for start, stop in truth.box])
    assert loaded.labels.known().sum() == inside
    assert replace(source, as_paper=True).load_case(case).labels.known() is None
    assert without_repair(source, "crop_box").load_case(case).labels.known() is None


def test_gibson_cases_annotate_14_or_8_classes(written):
    source, found = find_source("gibson_btcv"), written("gibson_btcv", 2)
    many, few = source.find_cases(found.root)
    assert len(source.load_case(many).annotated) == 14
    annotated = source.load_case(few).annotated
    assert len(annotated) == 8 and "right_kidney" not in annotated and "left_kidney" in annotated
    label = nib.load(few.labels["label"])
    data = np.asanyarray(label.dataobj).copy()
    data[5, 5, 5] = 2
    nib.save(nib.Nifti1Image(data, label.affine), few.labels["label"])
    with pytest.raises(UserError, match=r"label0061.*values \[2\]"):
        source.load_case(few)


def test_gibson_label_with_another_header_is_laid_on_its_image(written):
    source, found = find_source("gibson_btcv"), written("gibson_btcv")
    [case] = source.find_cases(found.root)
    before = source.load_case(case)
    label = nib.load(case.labels["label"])
    flipped = np.ascontiguousarray(np.asanyarray(label.dataobj)[:, :, ::-1])
    nib.save(nib.Nifti1Image(flipped, np.eye(4)), case.labels["label"])
    loaded = source.load_case(case)
    assert np.array_equal(loaded.labels.values, before.labels.values)
    assert np.array_equal(loaded.labels.known(), before.labels.known())
    assert any("flipped along z" in fix for fix in loaded.fixes) and before.fixes == ()


def test_gibson_without_boxes_or_with_a_missing_row_is_refused(written):
    source, found = find_source("gibson_btcv"), written("gibson_btcv")
    boxes = found.root / "cropping.csv"
    rows = list(csv.reader(boxes.open(newline="")))
    with boxes.open("w", newline="") as stream:
        csv.writer(stream).writerows(row for row in rows if row[1:3] != ["BTCV", "0001"])
    [case] = source.find_cases(found.root)
    with pytest.raises(UserError, match="no row for label 0001"):
        source.check_case(case)
    boxes.unlink()
    with pytest.raises(UserError, match="holds 0 files cropping.csv"):
        source.find_cases(found.root)


def test_patients_without_gibsons_label_are_passed_over(written):
    found = written("gibson_pancreas_ct")
    patient = found.root / "Pancreas-CT" / "PANCREAS_0002"
    shutil.copytree(patient, patient.with_name("PANCREAS_0081"))
    assert [case.case_id for case in find_source("gibson_pancreas_ct").find_cases(found.root)] == [
        "gibson_pancreas_ct_0002"
    ]


# 3D-IRCADb-01


def one_patient(written, *structures):
    """Source, its only case with these structures alone, and the truth."""
    found = written("ircadb")
    for folder in (found.root / "3Dircadb1.1" / "MASKS_DICOM").iterdir():
        if folder.name not in structures:
            shutil.rmtree(folder)
    source = find_source("ircadb")
    [case], [truth] = source.find_cases(found.root), found.cases.values()
    return source, case, truth


@pytest.mark.parametrize(
    ("folder", "classes"),
    [
        ("livertumor", ("liver_tumor",)),
        ("livertumor07", ("liver_tumor",)),
        ("LiverTumors", ("liver_tumor",)),
        ("tumor", ()),  # of an adrenal gland
        ("metastasectomie", ()),
        ("leftsurretumor", ()),
        ("livercyst", ()),
        ("rightkidney", ("right_kidney",)),
        ("kidneys", ("right_kidney", "left_kidney")),
        ("surrenalgland", ("right_adrenal_gland", "left_adrenal_gland")),
        ("LeftSurrenalGland", ("left_adrenal_gland",)),
        ("venacava", ("postcava",)),
        ("portalvein", ()),  # its branches in the liver as well
        ("venoussystem", ()),
        ("artery", ()),
        ("stomachoesophage", ()),
        ("sigmoid", ("colon",)),
        ("skin", ()),
    ],
)
def test_folder_names_mean_classes(folder, classes):
    assert meaning(folder) == classes


def test_zips_inside_a_patient_are_named(written):
    found = written("ircadb")
    masks = found.root / "3Dircadb1.1" / "MASKS_DICOM"
    shutil.rmtree(masks)
    masks.with_suffix(".zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"3Dircadb1\.1: MASKS_DICOM\.zip is not unpacked.*unpack PATIENT_DICOM\.zip"):
        find_source("ircadb").find_cases(found.root)


def test_folders_unpacked_into_folders_of_their_name_are_found(written):
    source, found = find_source("ircadb"), written("ircadb")
    patient = found.root / "3Dircadb1.1"
    for name in ("PATIENT_DICOM", "MASKS_DICOM"):
        (patient / name).rename(patient / "moved")
        (patient / name).mkdir()
        (patient / "moved").rename(patient / name / name)
    patient.rename(found.root / "moved")
    patient.mkdir()
    (found.root / "moved").rename(patient / patient.name)
    (found.root / "3Dircadb2.1").mkdir()
    [case] = source.find_cases(found.root)
    assert case.image == patient / patient.name / "PATIENT_DICOM" / "PATIENT_DICOM"
    source.check_case(case)


def test_one_side_alone_says_nothing_about_the_other(written):
    source, case, _ = one_patient(written, "liver", "leftkidney")
    assert source.load_case(case).annotated == ("left_kidney", "liver")


def test_a_gland_without_side_is_annotated_on_the_side_where_it_was_drawn(written):
    """Patient 7: the folder surrenalgland holds the left gland alone; a folder of both kidneys tells of both."""
    source, found = find_source("ircadb"), written("ircadb", 2)
    loaded = source.load_case(source.find_cases(found.root)[1])
    assert {"left_adrenal_gland", "right_kidney", "left_kidney"} <= set(loaded.annotated)
    assert "right_adrenal_gland" not in loaded.annotated
    left = drawn(found.cases["3Dircadb1.7"], "left_adrenal_gland")
    assert np.array_equal(masks_of(loaded, "left_adrenal_gland"), left)


def test_five_patients_are_known_to_have_no_liver_tumour(written):
    cases = find_source("ircadb").find_cases(written("ircadb", 2).root)  # patients 1 and 7
    assert [find_source("ircadb").load_case(case).absent for case in cases] == [(), ("liver_tumor",)]
    assert without_repair(find_source("ircadb"), "known_absent").load_case(cases[1]).absent == ()


def test_a_patient_without_tumour_folder_may_still_have_a_tumour(written):
    source, case, _ = one_patient(written, "liver")  # patient 1
    assert source.load_case(case).absent == ()


def test_liver_tumours_are_liver_and_part_masks_do_not_hide_each_other(written):
    source, case, truth = one_patient(written, "liver", "livertumor01", "livertumor02", "portalvein")
    loaded = source.load_case(case)
    assert loaded.annotated == ("liver", "liver_tumor")
    assert masks_of(loaded, "liver_tumor").any()
    for name in loaded.annotated:
        assert np.array_equal(masks_of(loaded, name), drawn(truth, name)), name


def test_masks_that_lie_the_other_way_round_are_flipped_or_refused(written):
    source, case, truth = one_patient(written, "liver", "leftkidney")
    for folder in case.labels.values():  # the pixels of the slices, in the opposite order
        slices = [pydicom.dcmread(folder / f"image_{k}") for k in range(len(list(folder.iterdir())))]
        for k, pixels in enumerate([dataset.PixelData for dataset in slices][::-1]):
            slices[k].PixelData = pixels
            slices[k].save_as(folder / f"image_{k}")
    loaded = source.load_case(case)
    assert loaded.fixes[0].startswith("label flipped along z")
    for name in ("liver", "left_kidney"):
        assert np.array_equal(masks_of(loaded, name), drawn(truth, name)), name
    with pytest.raises(UserError, match="only when it is flipped along z"):
        without_repair(source, "label_flip").load_case(case)


def test_a_mask_with_fewer_slices_is_named(written):
    source, case, _ = one_patient(written, "liver", "spleen")
    (case.labels["spleen"] / "image_3").unlink()
    with pytest.raises(UserError, match="spleen: holds"):
        source.check_case(case)
