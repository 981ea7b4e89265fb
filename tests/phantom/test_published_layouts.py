"""Each dataset beside MSD as its publisher packs it. The tables are written by hand from the fact sheet."""

import csv
import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.phantom.layouts import SourceTruth, layout_names, write_source

SPACING = (14.0, 12.0, 16.0)
SMALL = {"spacing_mm": SPACING}
PAIR = "left_kidney right_kidney"
BTCV = {
    1: "spleen",
    2: "right_kidney",
    3: "left_kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "postcava",
    10: "portal_and_splenic_vein",
    11: "pancreas",
    12: "right_adrenal_gland",
    13: "left_adrenal_gland",
}
AMOS = {
    **{value: BTCV[value] for value in range(1, 10)},
    10: "pancreas",
    11: "right_adrenal_gland",
    12: "left_adrenal_gland",
    13: "duodenum",
    14: "bladder",
    15: "prostate",
}
WORD = {
    1: "liver",
    2: "spleen",
    3: "left_kidney",
    4: "right_kidney",
    5: "stomach",
    6: "gallbladder",
    7: "esophagus",
    8: "pancreas",
    9: "duodenum",
    10: "colon",
    11: "intestine",
    12: "right_adrenal_gland left_adrenal_gland",
    13: "rectum",
    14: "bladder",
    15: "left_femur_head",
    16: "right_femur_head",
}
TWELVE = {
    1: "liver",
    2: PAIR,
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "postcava",
    7: "stomach",
    8: "gallbladder",
    9: "esophagus",
    10: "right_adrenal_gland",
    11: "left_adrenal_gland",
    12: "celiac_trunk",
}
FLARE = {
    1: "liver",
    2: "right_kidney",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "postcava",
    7: "right_adrenal_gland",
    8: "left_adrenal_gland",
    9: "gallbladder",
    10: "esophagus",
    11: "stomach",
    12: "duodenum",
    13: "left_kidney",
}
# layout -> (image, label, label value -> classes; "-x" is without x)
FIRST_CASE = {
    "btcv": ("RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz", BTCV),
    "lits": (
        "LiTS/Training Batch 1/volume-0.nii",
        "LiTS/Training Batch 1/segmentation-0.nii",
        {1: "liver -liver_tumor", 2: "liver_tumor"},
    ),
    "kits19": (
        "kits19/data/case_00000/imaging.nii.gz",
        "kits19/data/case_00000/segmentation.nii.gz",
        {1: f"{PAIR} -kidney_tumor", 2: "kidney_tumor"},
    ),
    "kits21": (
        "kits21/kits21/data/case_00000/imaging.nii.gz",
        "kits21/kits21/data/case_00000/aggregated_MAJ_seg.nii.gz",
        {1: f"{PAIR} -kidney_tumor -kidney_cyst", 2: "kidney_tumor", 3: "kidney_cyst"},
    ),
    "kits23": (
        "kits23/dataset/case_00000/imaging.nii.gz",
        "kits23/dataset/case_00000/segmentation.nii.gz",
        {1: f"{PAIR} -kidney_tumor -kidney_cyst", 2: "kidney_tumor", 3: "kidney_cyst"},
    ),
    "ct_org": (
        "PKG - CT-ORG/CT-ORG/OrganSegmentations/volume-0.nii.gz",
        "PKG - CT-ORG/CT-ORG/OrganSegmentations/labels-0.nii.gz",
        {1: "liver", 2: "bladder", 3: "left_lung right_lung", 4: PAIR, 5: "bone"},
    ),
    "word": ("WORD-V0.1.0/imagesTr/word_0002.nii.gz", "WORD-V0.1.0/labelsTr/word_0002.nii.gz", WORD),
    "abdomenct_1k": (
        "AbdomenCT-1K/Image/Case_00001_0000.nii.gz",
        "AbdomenCT-1K/Mask/Case_00001.nii.gz",
        {1: "liver", 2: PAIR, 3: "spleen", 4: "pancreas"},
    ),
    "amos22": ("AMOS/amos22/imagesTr/amos_0001.nii.gz", "AMOS/amos22/labelsTr/amos_0001.nii.gz", AMOS),
    "abdomenct_12organ": (
        "Organ-12-Subset/Image/Organ12_0001_0000.nii.gz",
        "Organ-12-Subset/Mask/Organ12_0001.nii.gz",
        TWELVE,
    ),
    "flare22": (
        "FLARE22/Training/FLARE22_LabeledCase50/images/FLARE22_Tr_0001_0000.nii.gz",
        "FLARE22/Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_0001.nii.gz",
        FLARE,
    ),
}


def in_ras(path):
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def region(phantom, text):
    """The voxels of classes by name; a name with a minus in front is taken away."""
    masks = {**phantom.masks, **phantom.extras}
    words = text.split()
    mask = np.any([masks[word] for word in words if not word.startswith("-")], axis=0)
    for word in words:
        if word.startswith("-"):
            mask = mask & ~masks[word[1:]]
    return mask


def read_series(folder):
    """HU volume in RAS, affine: slices sorted by position, as the standard wants."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    down = float(slices[0].ImageOrientationPatient[4])  # rows run to the back (1) or to the front (-1)
    stack = np.stack([dataset.pixel_array.T.astype(int) for dataset in slices], axis=2)
    first = slices[0]
    if "RescaleIntercept" in first:
        stack = stack * int(first.RescaleSlope) + int(first.RescaleIntercept)
    x, y, z = (float(value) for value in first.ImagePositionPatient)
    step_y, step_x = (float(value) for value in first.PixelSpacing)
    step_z = float(slices[1].ImagePositionPatient[2]) - z
    affine = np.array([[-step_x, 0, 0, -x], [0, -step_y * down, 0, -y], [0, 0, step_z, z], [0, 0, 0, 1]])
    canonical = nib.as_closest_canonical(nib.Nifti1Image(stack.astype(np.int32), affine))
    return np.asarray(canonical.dataobj), canonical.affine


@pytest.mark.parametrize("layout", FIRST_CASE)
def test_the_first_case_has_the_published_names_and_values(tmp_path, layout, drawn):
    image, label, values = FIRST_CASE[layout]
    source = write_source(layout, tmp_path / "out", [5], **SMALL)
    case = next(iter(source.cases.values()))
    assert (case.image, case.labels[0]) == (source.folder / image, source.folder / label)
    phantom = drawn(5, SPACING)
    assert np.array_equal(in_ras(case.image), phantom.image)
    label_map = in_ras(case.labels[0])
    for value, text in values.items():
        assert np.array_equal(label_map == value, region(phantom, text)), text
    assert label_map.max() == max(values)
    named = {word for text in values.values() for word in text.replace("-", " ").split()}
    assert set(case.annotated) == {name for name in named if name in UNIVERSAL.names} - (
        {"kidney_cyst"} if layout == "kits19" else set()
    )


@pytest.mark.parametrize("layout", [name for name in layout_names() if not name.startswith("msd_")])
def test_the_truth_lies_in_the_grid_of_the_image_and_tells_every_class(tmp_path, layout, drawn):
    source = write_source(layout, tmp_path / "out", [5], **SMALL)
    case = next(iter(source.cases.values()))
    labels = json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"]
    truth = nib.load(case.truth)
    if case.image.is_dir():
        image, affine = read_series(case.image)
        assert np.allclose(nib.as_closest_canonical(truth).affine, affine, atol=1e-3)
    else:
        image = in_ras(case.image)
        assert truth.shape == nib.load(case.image).shape
        assert np.allclose(truth.affine, nib.load(case.image).affine)
    phantom = drawn(5, SPACING, missing=without(layout))
    assert np.array_equal(image, np.clip(phantom.image, -1024 if case.image.is_dir() else -2000, None))
    values = in_ras(case.truth)
    for name, mask in phantom.masks.items():
        assert np.array_equal(np.isin(values, labels[name]), mask), name
    for name in case.absent:
        assert not np.isin(values, labels[name]).any()
    assert SourceTruth.load(source.folder) == source


def without(layout):
    return {
        "chaos": {"liver_tumor", "hepatic_vessel_tumor", "kidney_tumor", "kidney_cyst"},
        "pancreas_ct": {"pancreas_tumor"},
        "gibson_pancreas_ct": {"pancreas_tumor"},
        "ircadb": {"hepatic_vessel_tumor"},
    }.get(layout, set())


def test_lits_has_two_batches_and_its_later_volumes_lost_their_voxel_size(tmp_path):
    source = write_source("lits", tmp_path / "out", [1, 2], numbers=(3, 28), **SMALL)
    assert (source.root / "Training Batch 1" / "segmentation-3.nii").is_file()
    late = nib.load(source.root / "Training Batch 2" / "volume-28.nii")
    assert late.header.get_zooms() == (1, 1, 1)
    assert nib.load(source.cases["volume-28"].truth).header.get_zooms() == SPACING


def test_lits_segmentations_can_have_foreign_headers(tmp_path, drawn):
    source = write_source("lits", tmp_path / "out", [1], label_headers=True, **SMALL)
    volume, segmentation = (
        nib.load(path) for path in (source.cases["volume-0"].image, source.cases["volume-0"].labels[0])
    )
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    assert nib.aff2axcodes(segmentation.affine) == ("R", "A", "S")
    aligned = nib.Nifti1Image(np.asarray(segmentation.dataobj), volume.affine)
    liver = np.asarray(nib.as_closest_canonical(aligned).dataobj) > 0
    assert np.array_equal(liver, drawn(1, SPACING).masks["liver"])


def test_rotated_msd_headers_put_the_liver_on_the_wrong_side(tmp_path, drawn):
    source = write_source("msd_liver", tmp_path / "out", [1], rotated_headers=True, **SMALL)
    case = source.cases["liver_0"]
    wrong, right = in_ras(case.labels[0]) > 0, drawn(1, SPACING).masks["liver"]
    assert np.array_equal(wrong, right[::-1, ::-1, :])
    labels = json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"]
    assert np.array_equal(np.isin(in_ras(case.truth), labels["liver"]), right)


@pytest.mark.parametrize("layout", ["kits19", "kits21", "kits23"])
def test_kits_arrays_are_slice_row_column_at_the_origin(tmp_path, layout):
    source = write_source(layout, tmp_path / "out", [1, 2], **SMALL)
    for case in source.cases.values():
        for path in (case.image, *case.labels, case.truth):
            affine = nib.load(path).affine
            assert nib.aff2axcodes(affine) == ("I", "P", "L")
            assert np.allclose(affine[:3, 3], 0, atol=1e-4)


def test_kits19_case_15_is_uint16_with_qform_only(tmp_path):
    label = nib.load(write_source("kits19", tmp_path / "out", [1, 2], **SMALL).cases["case_00015"].labels[0])
    assert label.get_data_dtype() == np.uint16
    assert (int(label.header["qform_code"]), int(label.header["sform_code"])) == (1, 0)


def test_kits_versions_differ_in_what_they_add(tmp_path):
    kits21 = write_source("kits21", tmp_path / "21", [3], **SMALL)
    folder = kits21.root / "kits21" / "data" / "case_00000"
    maps = {name: in_ras(folder / f"aggregated_{name}_seg.nii.gz") for name in ("AND", "MAJ", "OR")}
    assert (maps["AND"] == 2).sum() < (maps["MAJ"] == 2).sum() < (maps["OR"] == 2).sum()
    kits23 = write_source("kits23", tmp_path / "23", [3], anatomy={3: {"missing": {"left_kidney"}}}, **SMALL)
    instances = kits23.root / "dataset" / "case_00000" / "instances"
    assert len(list(instances.glob("kidney_instance-*_annotation-1.nii.gz"))) == 1
    assert (kits23.root / "dataset" / "kits23.json").is_file()


def test_abdomenct_1k_has_images_without_label_and_skewed_directions(tmp_path):
    source = write_source("abdomenct_1k", tmp_path / "out", [1, 2], [3], **SMALL)
    assert (source.root / "Image" / "Case_00010_0000.nii.gz").is_file()
    assert not (source.root / "Mask" / "Case_00010.nii.gz").exists()
    image = source.root / "Image" / "Case_00011_0000.nii.gz"
    sitk = pytest.importorskip("SimpleITK")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(image))
    label = nib.load(source.root / "Mask" / "Case_00011.nii.gz")
    assert np.array_equal(label.affine, nib.load(image).affine)


def test_word_and_amos_have_a_labelled_validation_part(tmp_path):
    word = write_source("word", tmp_path / "word", [1, 2], [3], **SMALL)
    assert (word.root / "labelsVal" / "word_0001.nii.gz").is_file()
    assert [path.name for path in (word.root / "imagesTs").iterdir()] == ["word_0014.nii.gz"]
    assert int(nib.load(word.root / "imagesVal" / "word_0001.nii.gz").header["sform_code"]) == 0
    amos = write_source("amos22", tmp_path / "amos", [1, 2], [3], **SMALL)
    assert (amos.root / "labelsVa" / "amos_0008.nii.gz").is_file()
    assert (amos.root.parent / "__MACOSX" / "amos22" / "imagesTr" / "._amos_0001.nii.gz").is_file()
    listed = json.loads((amos.root / "dataset.json").read_text())
    assert [entry["image"] for entry in listed["training"]] == [
        "./imagesTr/amos_0001.nii.gz",
        "./imagesTr/amos_0507.nii.gz",
    ]
    assert in_ras(amos.root / "imagesTr" / "amos_0507.nii.gz").min() >= 0  # magnetic resonance


def test_amos_value_15_is_the_uterus_in_women(tmp_path):
    source = write_source("amos22", tmp_path / "out", [1, 2], female={8}, **SMALL)
    man, woman = source.cases["amos_0001"], source.cases["amos_0008"]
    assert "prostate" in man.annotated and "prostate" not in woman.annotated
    assert 15 in in_ras(woman.labels[0])
    prostate = json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"]["prostate"]
    assert not np.isin(in_ras(woman.truth), prostate).any()
    with (source.root.parent / "labeled_data_meta_0000_0599.csv").open(newline="") as stream:
        rows = [(row["amos_id"], row["Patient's Sex"]) for row in csv.DictReader(stream)]
    assert rows == [("1", "M"), ("8", "F"), ("500", "M"), ("500", "F"), ("507", "M")]


def test_ct_org_does_not_annotate_a_bladder_that_the_scan_does_not_show(tmp_path):
    anatomy = {2: {"missing": {"bladder"}}}
    cases = list(write_source("ct_org", tmp_path / "out", [1, 2], anatomy=anatomy, **SMALL).cases.values())
    assert ["bladder" in case.annotated for case in cases] == [True, False]
    assert [2 in in_ras(case.labels[0]) for case in cases] == [True, False]


def test_gibson_annotates_14_or_8_classes_within_a_box(tmp_path):
    source = write_source("gibson_btcv", tmp_path / "out", [1, 2], **SMALL)
    many, few = source.cases["label0001"], source.cases["label0061"]
    assert (len(many.annotated), len(few.annotated)) == (14, 8)
    assert few.image == source.root / "RawData" / "Testing" / "img" / "img0061.nii.gz"
    for case in (many, few):
        stored = np.asarray(nib.load(case.labels[0]).dataobj)
        inside = np.zeros(stored.shape, dtype=bool)
        inside[tuple(slice(*bounds) for bounds in case.box)] = True
        assert stored[inside].any() and not stored[~inside].any()
        truth = np.asarray(nib.load(case.truth).dataobj)
        liver = json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"]["liver"]
        assert np.array_equal((stored == 6)[inside], np.isin(truth, liver)[inside])
    rows = list(csv.reader((source.root / "cropping.csv").open(newline="")))[1:]
    assert len(rows) == 90
    row = next(row for row in rows[43:] if row[2] == "0061")
    assert tuple(int(value) for value in row[7:9]) == few.box[2]


def test_pancreas_ct_rows_run_to_the_front_and_labels_have_the_same_axes(tmp_path, drawn):
    source = write_source("pancreas_ct", tmp_path / "out", [1, 2], **SMALL)
    assert len(list((source.root / "TCIA_pancreas_labels-02-05-2017").iterdir())) == 4  # two without image
    for case in source.cases.values():
        slices = sorted((pydicom.dcmread(path) for path in case.image.iterdir()), key=lambda d: d.InstanceNumber)
        stack = np.stack([dataset.pixel_array.T.astype(int) - 1024 for dataset in slices], axis=2)
        label = nib.load(case.labels[0])
        assert slices[0].ImageOrientationPatient == [1, 0, 0, 0, -1, 0]
        assert nib.aff2axcodes(label.affine) == ("L", "A", "I")
        found = np.asarray(label.dataobj) == 1
        pancreas = drawn(case.seed, SPACING, missing={"pancreas_tumor"}).masks["pancreas"]
        assert found.sum() == pancreas.sum()
        assert np.array_equal(found[::-1, :, ::-1], pancreas)
        assert 40 < np.median(stack[found]) < 120
    assert label.header.get_zooms()[2] == 3 * SPACING[2]  # case 0007
    assert case.case_id == "PANCREAS_0007"


def test_chaos_pictures_count_from_the_head(tmp_path, drawn):
    source = write_source("chaos", tmp_path / "out", [1, 2], [3], **SMALL)
    for case in (source.cases["CT_1"], source.cases["CT_2"]):
        files = sorted(case.labels[0].iterdir())
        stack = np.stack([np.asarray(Image.open(path)).T > 0 for path in files], axis=2)
        liver = drawn(case.seed, SPACING, missing=without("chaos")).masks["liver"]
        assert np.array_equal(stack[::-1, ::-1, ::-1], liver)
    assert Image.open(source.cases["CT_1"].labels[0] / "liver_GT_000.png").mode == "1"
    assert (source.root / "Train_Sets" / "MR").is_dir()
    assert not (source.root / "Test_Sets" / "CT" / "3" / "Ground").exists()


@pytest.mark.parametrize("layout", ["pancreas_ct", "chaos"])
def test_label_flips_can_be_asked_for(tmp_path, layout):
    usual = write_source(layout, tmp_path / "usual", [1], **SMALL).cases
    flipped = write_source(layout, tmp_path / "flipped", [1], label_flip="yz", **SMALL).cases

    def stack(cases):
        path = next(iter(cases.values())).labels[0]
        if path.is_dir():
            return np.stack([np.asarray(Image.open(file)).T > 0 for file in sorted(path.iterdir())], axis=2)
        return np.asarray(nib.load(path).dataobj) > 0

    assert np.array_equal(stack(usual), stack(flipped)[:, ::-1, ::-1])


def test_ircadb_structures_are_series_of_their_own(tmp_path, drawn):
    source = write_source("ircadb", tmp_path / "out", [1, 2], **SMALL)
    rich, joint = source.cases["3Dircadb1.1"], source.cases["3Dircadb1.7"]
    masks = {path.name: read_series(path)[0] for path in rich.labels}
    phantom = drawn(1, SPACING, missing={"hepatic_vessel_tumor"})
    assert set(np.unique(masks["liver"])) == {0, 255}
    assert np.array_equal(masks["rightkidney"] > 0, phantom.masks["right_kidney"])
    both = (masks["livertumor01"] > 0) | (masks["livertumor02"] > 0)
    assert np.array_equal(both, phantom.masks["liver_tumor"])
    assert "kidneys" in {path.name for path in joint.labels}
    assert "liver_tumor" in rich.annotated and "liver_tumor" not in joint.annotated
    assert (rich.image / "image_0").is_file()


@pytest.mark.parametrize(
    ("layout", "count"), [("totalsegmentator_v1", 104), ("totalsegmentator_v2", 117), ("totalsegmentator_v3", 117)]
)
def test_totalsegmentator_has_all_its_structures(tmp_path, layout, count, drawn):
    source = write_source(layout, tmp_path / "out", [1], **SMALL)
    case = source.cases["s0000"]
    masks = {path.name.removesuffix(".nii.gz"): path for path in case.labels}
    assert len(masks) == len(set(masks)) == count
    phantom = drawn(1, SPACING)
    lobes = [in_ras(masks[f"lung_{part}_lobe_right"]) for part in ("upper", "middle", "lower")]
    assert np.array_equal(np.sum(lobes, axis=0), phantom.masks["right_lung"])
    assert np.array_equal(in_ras(masks["inferior_vena_cava"]), phantom.masks["postcava"])
    femur, head = in_ras(masks["femur_left"]) > 0, phantom.masks["left_femur_head"]
    assert not (head & ~femur).any() and femur.sum() > head.sum()
    if layout == "totalsegmentator_v2":
        parts = [in_ras(masks[name]) for name in ("kidney_left", "kidney_cyst_left")]
        assert np.array_equal(np.sum(parts, axis=0), phantom.masks["left_kidney"])
    assert ("vertebrae_S1" in masks, "vertebrae_L6" in masks) == (layout[-1] == "2", layout[-1] == "3")
    table = case.image.parents[1] / "meta.csv"
    header, row = list(csv.reader(table.open(newline="", encoding="utf-8-sig"), delimiter=";"))
    assert (header[0], row[0]) == ("image_id", "s0000")


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="rotated_headers"):
        write_source("btcv", tmp_path / "out", [1], rotated_headers=True, **SMALL)


def test_cases_without_label_are_refused_where_none_are_published(tmp_path):
    with pytest.raises(UserError, match="no cases without label"):
        write_source("ircadb", tmp_path / "out", [1], [2], **SMALL)


@pytest.mark.parametrize("layout", ["msd_spleen", "chaos", "kits23"])
def test_the_same_order_gives_the_same_bytes(tmp_path, layout):
    folders = [write_source(layout, tmp_path / name, [1], **SMALL).folder for name in ("one", "two")]
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert len(one) > 4 and one == two
