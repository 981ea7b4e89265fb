"""Every layout, as written to disk, decodes to the drawn patient."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (12.0, 10.0, 14.0)}
# Written out by hand from the publishers' documents, not taken from the writers.
MSD = {
    "msd_liver": ("Task03_Liver", ["liver_0", "liver_1"], "liver_131", {1: "liver", 2: "liver_tumor"}),
    "msd_lung": ("Task06_Lung", ["lung_002", "lung_003"], "lung_001", {1: "lung_tumor"}),
    "msd_pancreas": (
        "Task07_Pancreas",
        ["pancreas_002", "pancreas_003"],
        "pancreas_001",
        {1: "pancreas", 2: "pancreas_tumor"},
    ),
    "msd_hepaticvessel": (
        "Task08_HepaticVessel",
        ["hepaticvessel_002", "hepaticvessel_003"],
        "hepaticvessel_001",
        {1: "hepatic_vessel", 2: "hepatic_vessel_tumor"},
    ),
    "msd_spleen": ("Task09_Spleen", ["spleen_2", "spleen_3"], "spleen_1", {1: "spleen"}),
    "msd_colon": ("Task10_Colon", ["colon_002", "colon_003"], "colon_001", {1: "colon_tumor"}),
}


def in_ras(path):
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


def assert_truth(source, phantom, case_id):
    """The truth file tells all 32 classes by its own dataset.json, in the grid of the image."""
    case = source.cases[case_id]
    values, affine = in_ras(case.truth)
    labels = json.loads((source.folder / "truth" / "dataset.json").read_text())["labels"]
    assert len(labels) == 33
    for name, mask in phantom.masks.items():
        assert np.array_equal(np.isin(values, labels[name]), mask), name
    assert np.allclose(affine, phantom.affine)


@pytest.mark.parametrize("layout", MSD)
def test_msd_files_decode_to_the_truth_in_any_orientation(tmp_path, layout, drawn):
    folder, names, test_name, values = MSD[layout]
    orientations = ("IPL", "LPS", "RAS")
    source = write_source(layout, tmp_path / "out", [5, 6], [7], orientation=orientations, **SMALL)
    assert source.root == tmp_path / "out" / folder
    for name, seed, orientation in zip([*names, test_name], [5, 6, 7], orientations, strict=True):
        phantom = drawn(seed, SMALL["spacing_mm"])
        image_file = source.root / ("imagesTs" if name == test_name else "imagesTr") / f"{name}.nii.gz"
        assert "".join(nib.aff2axcodes(nib.load(image_file).affine)) == orientation
        image, affine = in_ras(image_file)
        assert np.array_equal(image, phantom.image)
        assert np.allclose(affine, phantom.affine)
        assert_truth(source, phantom, name)
        if name == test_name:
            assert not (source.root / "labelsTr" / f"{name}.nii.gz").exists()
            continue
        label_file = source.root / "labelsTr" / f"{name}.nii.gz"
        assert np.array_equal(nib.load(label_file).affine, nib.load(image_file).affine)
        label, _ = in_ras(label_file)
        for value, class_name in values.items():
            children = [other for other in values.values() if other == f"{class_name}_tumor"]
            expected = phantom.masks[class_name].copy()
            for child in children:
                expected &= ~phantom.masks[child]  # MSD's organ value excludes its tumour
            assert np.array_equal(label == value, expected), class_name
        assert set(np.unique(label)) == {0, *values}
        assert source.cases[name].annotated == tuple(values.values())


def test_each_msd_file_and_folder_has_its_apple_double_twin(tmp_path):
    root = write_source("msd_spleen", tmp_path / "out", [1], [2], **SMALL).root
    named = [path for path in root.rglob("*") if not path.name.startswith("._")]
    assert len(named) == 7  # three folders, three images and labels, dataset.json
    for path in named:
        assert path.with_name(f"._{path.name}").read_bytes()[:4] == bytes([0, 5, 22, 7])


def test_msd_dataset_json_lists_what_is_there(tmp_path):
    root = write_source("msd_liver", tmp_path / "out", [1, 2], [3], **SMALL).root
    content = json.loads((root / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "liver", "2": "cancer"}
    assert content["modality"] == {"0": "CT"}
    assert (content["numTraining"], content["numTest"]) == (2, 1)
    for pair in content["training"]:
        assert (root / pair["image"]).is_file() and (root / pair["label"]).is_file()
    assert [(root / path).is_file() for path in content["test"]] == [True]


def test_orientations_can_differ_from_case_to_case(tmp_path):
    source = write_source("custom", tmp_path / "out", [1, 2, 3], orientation=("LPS", "IPL"), **SMALL)
    found = ["".join(nib.aff2axcodes(nib.load(case.image).affine)) for case in source.cases.values()]
    assert found == ["LPS", "IPL", "LPS"]


def test_custom_takes_any_label_values(tmp_path, drawn):
    recipe = ((9, ("liver",)), (200, ("right_kidney", "left_kidney")))
    source = write_source("custom", tmp_path / "out", [4], recipe=recipe, **SMALL)
    phantom = drawn(4, SMALL["spacing_mm"])
    label, _ = in_ras(source.root / "labels" / "case_001.nii.gz")
    assert np.array_equal(label == 9, phantom.masks["liver"])
    assert np.array_equal(label == 200, phantom.masks["right_kidney"] | phantom.masks["left_kidney"])
    assert source.cases["case_001"].annotated == ("right_kidney", "left_kidney", "liver")


def test_the_same_seed_is_the_same_scan_in_two_sources(tmp_path):
    one = write_source("msd_liver", tmp_path / "a", [11], **SMALL).cases["liver_0"]
    two = write_source("msd_spleen", tmp_path / "b", [11], orientation="LPS", **SMALL).cases["spleen_2"]
    assert np.array_equal(in_ras(one.image)[0], in_ras(two.image)[0])


def test_anatomy_can_be_set_for_single_cases(tmp_path):
    source = write_source("custom", tmp_path / "out", [1, 2], anatomy={2: {"missing": {"spleen"}}}, **SMALL)
    has_spleen = [7 in in_ras(case.labels[0])[0] for case in source.cases.values()]
    assert has_spleen == [True, False]


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(AssertionError):
        write_source("custom", tmp_path / "out", [1, 2], anatomy={2: {"missing": {"nonsense"}}}, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        write_source("custom", tmp_path, [1], **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("orientation", ["RSS", "RA", "XYZ"])
def test_impossible_orientations_are_refused(tmp_path, orientation):
    with pytest.raises(UserError, match="three axis codes"):
        write_source("custom", tmp_path / "out", [1], orientation=orientation, **SMALL)
