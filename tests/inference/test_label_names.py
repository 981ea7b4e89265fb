"""Label maps tell the names of their values: in the header as TotalSegmentator does, and in tables beside them."""

from __future__ import annotations

import gzip
import json
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.imaging.nifti import Volume, inspect, read_label_map
from nnunetv2_clip.imaging.pictures import color_of
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.outputs import write_like
from tests.inference.conftest import AFFINE
from tests.inference.test_predict import LEARNT, predict, voxels

ROWS = UNIVERSAL.subset(["liver", "spleen", "kidney_cyst"])
LABELS = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6) % 33


def names_in(path) -> dict[int, str]:
    """As TotalSegmentator's reader finds them: Label elements of the first extension."""
    [extension] = nib.load(path).header.extensions
    assert extension.get_code() == 0
    root = ElementTree.fromstring(extension.content)
    assert root.tag == "CaretExtension"
    assert root.findtext("VolumeInformation/VolumeType") == "Label"
    return {int(each.get("Key")): each.text for each in root.iterfind("VolumeInformation/LabelTable/Label")}


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_label_map_with_names_is_the_same_file_but_for_them(tmp_path, kind, endianness):
    header = kind(endianness=endianness)
    header.set_data_shape(LABELS.shape)
    header.set_sform(AFFINE, 1)
    image = InputImage(Volume(LABELS, AFFINE), header)
    write_like(tmp_path / "plain.nii.gz", LABELS, image)
    write_like(tmp_path / "named.nii.gz", LABELS, image, named=ROWS)
    plain, named = (gzip.decompress((tmp_path / f"{name}.nii.gz").read_bytes()) for name in ("plain", "named"))
    longer = len(named) - len(plain)
    offset = len(plain) - LABELS.nbytes
    assert longer > 0 and longer % 16 == 0
    assert named[offset + longer :] == plain[offset:]
    before, after = (kind(content[: offset - 4], endianness=endianness) for content in (plain, named))
    assert after["vox_offset"] == offset + longer
    after["vox_offset"] = before["vox_offset"]
    assert before.binaryblock == after.binaryblock
    assert plain[offset - 4 : offset] == b"\0\0\0\0" and named[offset - 4 : offset] == b"\1\0\0\0"
    assert names_in(tmp_path / "named.nii.gz") == {1: "spleen", 6: "liver", 32: "kidney_cyst"}


def test_every_reader_finds_the_same_voxels_behind_the_names(tmp_path):
    path = tmp_path / "labels.nii.gz"
    write_like(path, LABELS, InputImage(Volume(LABELS, AFFINE), None), named=ROWS)
    assert np.array_equal(read_label_map(path).data, LABELS)
    assert np.array_equal(inspect(path).affine, AFFINE)
    assert np.array_equal(voxels(path), LABELS)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, LABELS)
    assert sitk.ReadImage(str(path)).GetSpacing() == (2.0, 2.5, 5.0)


def test_predictions_bring_their_names_and_tables_for_slicer_and_itksnap(tmp_path, model, ct):
    out = tmp_path / "out"
    assert predict(ct, out, model, "--outputs", "labels", "masks", "--classes", *LEARNT) == 0
    expected = {UNIVERSAL.find(name).index: name for name in LEARNT}
    assert names_in(out / "case.nii.gz") == expected
    assert not nib.load(out / "case" / "liver.nii.gz").header.extensions
    tables = [(out / name).read_text().splitlines() for name in ("labels.ctbl", "labels_itksnap.txt")]
    slicer, snap = ([line.split() for line in table if not line.startswith("#")] for table in tables)
    assert {int(index): name for index, name, *_ in slicer[1:]} == expected
    assert {int(index): name.strip('"') for index, *_, name in snap[1:]} == expected
    assert slicer[0][:2] == ["0", "background"] and snap[0][0] == "0"
    liver = color_of(UNIVERSAL.find("liver"))
    assert [line[2:5] for line in slicer if line[1] == "liver"] == [[str(part) for part in liver]]
    assert [line[1:4] for line in snap if line[-1] == '"liver"'] == [[str(part) for part in liver]]


def test_tables_stand_beside_label_maps_only(tmp_path, model, ct):
    assert predict(ct, tmp_path / "out", model, "--outputs", "statistics") == 0
    assert not list(tmp_path.rglob("labels*"))


def test_label_maps_with_names_are_evaluated_as_before(tmp_path, model, ct):
    assert predict(ct, tmp_path / "out", model) == 0
    both = ["-ref", str(tmp_path / "out"), "-pred", str(tmp_path / "out"), "-o", str(tmp_path / "scores")]
    assert main(["evaluate", *both, "-np", "1"]) in (0, None)
    pairs = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["pairs"]
    assert {pair["class_name"]: pair["metrics"]["Dice"] for pair in pairs} == dict.fromkeys(LEARNT, 1.0)
