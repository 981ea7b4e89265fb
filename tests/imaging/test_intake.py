"""The gate: what is found in a scan, and what check, convert, predict and the readers do about it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.findings import KINDS, STAGES, ScanFinding, settle, table
from nnunetv2_clip.imaging.intake import header_findings, scan_warnings, voxel_findings
from nnunetv2_clip.imaging.nifti import Volume, inspect, read_image
from nnunetv2_clip.phantom.anatomy import make_phantom

SHAPE = (12, 13, 14)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, -2, 0, 8], [0, 0, 5, -20], [0, 0, 0, 1]])  # LPS
VOXELS = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
NUM_DAMAGED = 4000


def image(affine=AFFINE, data=VOXELS) -> nib.Nifti1Image:
    """As dcm2niix writes it: sform and qform say the same."""
    made = nib.Nifti1Image(data, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    return made


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def edited(path: Path, edit) -> Path:
    """A file whose header fields were changed after it was written."""
    content = bytearray(image().to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    edit(header)
    content[:348] = header.binaryblock
    return write(path, bytes(content))


def pixdim(*edges):
    return lambda header: header["pixdim"].__setitem__(slice(1, 4), edges)


def no_codes(header):
    header["sform_code"] = header["qform_code"] = 0


def other_side(header):
    header["srow_x"] = -header["srow_x"]


def origin_moved(header):
    header["srow_z"][3] += 30


HEADERS = {  # edit, kind, a part of what is found
    "never set": (pixdim(1, 1, 1), "unset voxel size", "(2, 2, 5) mm by its sform, (1, 1, 1) mm by pixdim"),
    "zero beside a sform": (pixdim(0, 0, 0), "unset voxel size", "(0, 0, 0) mm by pixdim"),
    "rounded": (pixdim(2.01, 2, 5), "unset voxel size", "2.01"),
    "contradiction": (pixdim(2, 2, 3), "two voxel sizes", "(2, 2, 3) mm by pixdim"),
    "no codes": (no_codes, "no position", "codes 0"),
    "mirrored sform": (other_side, "two positions", "mm apart"),
    "moved sform": (origin_moved, "two positions", "30 mm apart"),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_headers_that_contradict_themselves_are_found(tmp_path, name, ending):
    edit, kind, text = HEADERS[name]
    found = header_findings(edited(tmp_path / f"ct{ending}", edit))
    assert kind in [finding.kind for finding in found] and text in " ".join(map(str, found))


def test_a_sound_header_gives_no_finding(tmp_path):
    assert header_findings(write(tmp_path / "ct.nii.gz", image().to_bytes())) == ()
    assert header_findings(write(tmp_path / "ct.nii", image(np.diag([0.78125, 0.78125, 3, 1])).to_bytes())) == ()
    assert header_findings(tmp_path) == ()  # the folder of a DICOM series


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("vox_offset", 0, "voxels begin at byte 0"),
        ("vox_offset", np.nan, "ct.nii.gz"),
        ("magic", b"ni1", "magic b'ni1'"),
        ("dim", [3, 12, -13, 14, 1, 1, 1, 1], "shape"),
        ("datatype", 32, "complex64"),
        ("sform_code", 77, "sform code is 77"),
        ("qform_code", -1, "qform code is -1"),
    ],
)
def test_headers_of_which_nothing_can_be_made_are_refused(tmp_path, field, value, text):
    path = edited(tmp_path / "ct.nii.gz", lambda header: header.__setitem__(field, value))
    with pytest.raises(UserError, match="ct.nii.gz") as error:
        inspect(path)
    assert text in str(error.value) and error.value.remedy


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ((2, 2, 0), "2 x 2 x 0"),
        ((0.016, 0.016, 0.016), "0.016"),
        ((16_000, 16_000, 16_000), "1.6e"),
        ((0.0008, 0.0008, 0.003), "0.0008"),
    ],
)
def test_voxel_sizes_of_no_body_are_refused(tmp_path, edges, text):
    """Zero in one direction, micrometres, metres for millimetres."""

    def edit(header):
        pixdim(*edges)(header)
        header["sform_code"] = 0

    with pytest.raises(UserError, match="voxels of") as error:
        inspect(edited(tmp_path / "ct.nii.gz", edit))
    assert text.split(" ")[-1] in str(error.value) and "voxel size in the header" in error.value.remedy


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.full(SHAPE, 7, np.int16), "all voxels have the same value"),
        (VOXELS[:, :, :1], "single slice"),
        (np.where(VOXELS > 990, np.nan, VOXELS).astype(np.float32), "NaN or infinite"),
        (VOXELS.astype(np.int64) * 10**12, "values from"),
    ],
)
def test_voxels_of_which_nothing_can_be_made_are_refused(data, kind):
    with pytest.raises(UserError, match=kind):
        scan_warnings("ct.nii.gz", Volume(data, AFFINE), "predict")


def test_only_cts_are_asked_for_hounsfield_units():
    mr = Volume(np.maximum(VOXELS, 0), AFFINE)
    assert [finding.kind for finding in voxel_findings("a.nii.gz", mr)] == ["Hounsfield units"]
    assert voxel_findings("a.nii.gz", mr, "MRI") == ()
    assert voxel_findings("a.nii.gz", Volume(VOXELS, AFFINE), "ct") == ()


def test_a_body_of_a_few_centimetres_is_found():
    patient = make_phantom(3, (8.0, 8.0, 10.0))
    affine = patient.affine.copy()
    wide = np.pad(patient.image, ((6, 6), (6, 6), (0, 0)), constant_values=-1000)
    assert voxel_findings("ct", Volume(wide, affine)) == ()
    affine[:3] /= 10
    assert [row.kind for row in voxel_findings("ct", Volume(wide, affine))] == ["body size"]


@pytest.mark.parametrize("factor", [0, 3])
def test_a_factor_that_readers_take_for_one_is_no_finding(tmp_path, factor):
    assert header_findings(edited(tmp_path / "a.nii.gz", lambda header: header["pixdim"].__setitem__(0, factor))) == ()


def test_each_stage_does_what_the_table_says():
    finding = ScanFinding("two voxel sizes", "the header has two voxel sizes")
    with pytest.raises(UserError, match=r"ct\.nii: the header has two.*Expected.*Remedy"):
        settle((finding,), "ct.nii", "convert")
    assert settle((finding,), "ct.nii", "predict") == settle((finding,), "ct.nii", "read") == (finding,)
    assert settle((ScanFinding("wide integers", "int64"),), "ct.nii", "predict") == ()


def test_the_page_shows_the_table_of_the_code():
    page = Path(__file__).parents[2].joinpath("docs", "intake.md").read_text(encoding="utf-8")
    assert table() in page, "run 'make tables'"
    assert all(len(kind.actions) == len(STAGES) for kind in KINDS.values())


# ---------------------------------------------------------------- through the commands


def source_of(folder, **files) -> Path:
    """A custom source whose images are these files, each with a label map of the same grid."""
    for number, (name, write_file) in enumerate(files.items()):
        path = folder.image(f"images/{name}.nii.gz", number)
        write_file(path)
        folder.save(f"labels/{name}.nii.gz", np.eye(*SHAPE[:2], dtype=np.uint8)[..., None].repeat(SHAPE[2], 2))
    table_file = folder.path / "table.yaml"
    table_file.write_text(
        "name: k\nimages: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\nvalues: {1: liver_tumor}\n"
    )
    return table_file


def test_check_and_convert_repair_warn_and_refuse(folder, convert, nnunet, converted, tmp_path, capsys):
    from nnunetv2_clip.cli import main

    sound = lambda seed: lambda path: write(path, image(data=np.roll(VOXELS, seed, 0)).to_bytes())  # noqa: E731
    wide = lambda path: write(path, image(data=np.roll(VOXELS, 4, 2).astype(np.int32)).to_bytes())  # noqa: E731

    def as_int64(path):
        made = nib.Nifti1Image(np.roll(VOXELS, 5, 1).astype(np.int64), AFFINE, dtype=np.int64)
        nib.save(made, path)

    files = {
        "contradiction": lambda path: edited(path, pixdim(2, 2, 3)),
        "int64": as_int64,
        "sound": sound(3),
        "unset": lambda path: edited(path, pixdim(1, 1, 1)),
        "wide": wide,
    }
    source = source_of(folder, **files, nowhere=lambda path: edited(path, lambda h: (no_codes(h), pixdim(2, 2, 5)(h))))
    for name in ("nowhere",):  # its labels lie on the grid that nibabel makes up for it
        label = nib.load(folder.path / "labels" / f"{name}.nii.gz")
        grid = nib.load(folder.path / "images" / f"{name}.nii.gz").affine
        nib.save(nib.Nifti1Image(np.asanyarray(label.dataobj), grid), folder.path / "labels" / f"{name}.nii.gz")
    page = tmp_path / "check.html"
    assert main(["check", "--source", f"custom={source}", "-o", str(page)]) == 1
    shown = capsys.readouterr()
    said = shown.err + shown.out
    assert "k_contradiction: " in said and "two voxel sizes" in said
    assert "k_nowhere: the header says not how the patient lies" in said
    code, text = convert("--source", f"custom={source}")
    assert code == 3 and "k_contradiction" in text and "k_unset" not in text
    code, text = convert("--source", f"custom={source}", "--skip", "k_contradiction")
    assert code == 0
    assert converted.image("k_unset").header.get_zooms() == (2, 2, 5)
    assert converted.image("k_int64").get_data_dtype() == np.int32
    assert "pixdim" in " ".join(converted.cases["k_unset"].geometry_fixes)
    assert "int64" in " ".join(converted.cases["k_int64"].geometry_fixes)
    assert not converted.cases["k_sound"].geometry_fixes and not converted.cases["k_wide"].geometry_fixes
    report = json.loads(
        (Path(converted.image("k_sound").get_filename()).parents[1] / "conversion_report.json").read_text()
    )
    assert any(line.startswith("k_nowhere: ") for line in report["warnings"])


# ---------------------------------------------------------------- damaged headers


@pytest.mark.slow
def test_no_damaged_header_changes_the_geometry_unnoticed(tmp_path):
    """Random bytes of the header, extreme values and flipped bits: refused, found, or the same grid as before."""
    rng, counts = np.random.default_rng(1), Counter()
    content = image().to_bytes()
    true = inspect(write(tmp_path / "true.nii", content))
    extremes = [bytes(4), b"\xff" * 4, *(np.float32(x).tobytes() for x in (np.nan, np.inf, -1, 1e30, 1e-30, 2))]
    for number in range(NUM_DAMAGED):
        damaged = bytearray(content)
        place = int(rng.integers(0, 348))
        kind = number % 3
        if kind == 0:
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            damaged[place] = int(rng.integers(0, 256))
        else:
            place -= place % 4
            damaged[place : place + 4] = extremes[int(rng.integers(0, len(extremes)))]
        path = write(tmp_path / "damaged.nii", bytes(damaged))
        try:
            grid, volume, found = inspect(path), read_image(path), header_findings(path)
            settle(found, path, "convert")
        except UserError as error:
            assert str(path) in str(error)
            counts["refused"] += 1
            continue
        if found:
            counts["found"] += 1
        else:
            assert not grid.difference(true) and volume.data.shape == SHAPE, (place, bytes(damaged[place : place + 4]))
            counts["same grid"] += 1
    print(f"{NUM_DAMAGED} damaged headers: {dict(counts)}")
    assert sum(counts.values()) == NUM_DAMAGED


def test_a_clipped_ct_is_warned_of_before_a_prediction_and_accepted_in_a_dataset():
    phantom = make_phantom(0, (6, 6, 6))
    image = Volume(np.clip(phantom.image, -160, 240), phantom.affine)
    assert [finding.kind for finding in voxel_findings("a.nii.gz", image)] == ["clipped"]
    [warning] = scan_warnings("a.nii.gz", image, "predict")
    assert warning.startswith("values clipped to -160 to 240")
    assert scan_warnings("a.nii.gz", image, "convert") == ()
