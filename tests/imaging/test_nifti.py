"""Reading NIfTI: a file is read completely or refused with its name; grids are compared by where voxels lie."""

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import (
    Geometry,
    Volume,
    checksum,
    fingerprint,
    inspect,
    read_image,
    read_label_map,
    read_pair,
    stem,
    write_nifti,
)

SHAPE = (4, 5, 6)
AFFINE = np.array([[2.0, 0, 0, -10], [0, 3, 0, -20], [0, 0, 4, -30], [0, 0, 0, 1]])


def save(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def ct(tmp_path):
    data = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return save(tmp_path / "ct.nii.gz", data)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_truncated_file_is_refused_by_name(tmp_path, keep, name):
    data = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / name, data)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    for read in (inspect, read_image):
        with pytest.raises(UserError, match=name):
            read(path)


def test_damaged_gzip_content_is_refused(ct):
    content = bytearray(ct.read_bytes())
    content[-20] ^= 0xFF
    ct.write_bytes(bytes(content))
    with pytest.raises(UserError, match="ct.nii.gz"):
        read_image(ct)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x00\x05\x16\x07" + bytes(600)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_foreign_content_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        inspect(path)


def test_several_gzip_members_are_one_file(ct):
    content = gzip.decompress(ct.read_bytes())
    voxels = read_image(ct).data
    ct.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    assert inspect(ct).shape == SHAPE
    assert np.array_equal(read_image(ct).data, voxels)


def test_a_file_that_unpacks_to_more_than_its_shape_is_refused_and_not_unpacked(ct):
    content = gzip.decompress(ct.read_bytes())
    ct.write_bytes(gzip.compress(content + bytes(1 << 26), 1))  # 64 MB behind the voxels
    tracemalloc.start()
    for read in (inspect, read_image):
        with pytest.raises(UserError, match=f"ct.nii.gz: holds more than the {len(content)} bytes"):
            read(ct)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_four_axes_are_refused_and_a_last_axis_of_one_is_dropped(tmp_path):
    series = save(tmp_path / "series.nii.gz", np.zeros((*SHAPE, 2), np.int16))
    with pytest.raises(UserError, match=r"series.nii.gz: has shape \(4, 5, 6, 2\)"):
        inspect(series)
    single = save(tmp_path / "single.nii.gz", np.ones((*SHAPE, 1), np.int16))
    volume = read_image(single)
    assert volume.data.shape == inspect(single).shape == SHAPE
    assert volume.path is None  # nnU-Net could not read the file as it is


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_image_with_nan_is_refused(tmp_path, bad):
    data = np.zeros(SHAPE, np.float32)
    data[0, 0, :2] = bad
    with pytest.raises(UserError, match="2 voxels are NaN or infinite"):
        read_image(save(tmp_path / "a.nii.gz", data))


def test_coloured_voxels_are_refused(tmp_path):
    data = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UserError, match="plain numbers"):
        inspect(save(tmp_path / "a.nii.gz", data))


def test_scaled_float_labels_become_integers(tmp_path):
    image = nib.Nifti1Image(np.array([0, 1, 2, 255] * 30, np.float64).reshape(SHAPE), AFFINE)
    image.header.set_data_dtype(np.uint8)
    image.header.set_slope_inter(0.5, 0)
    image.header["scl_slope"] = 1.0
    nib.save(image, tmp_path / "a.nii.gz")
    label = read_label_map(tmp_path / "a.nii.gz").data
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1, 2, 255}


@pytest.mark.parametrize("value", [1.5, np.nan])
def test_label_that_is_no_integer_is_refused(tmp_path, value):
    data = np.ones(SHAPE, np.float32)
    data[1, 1, 1] = value
    with pytest.raises(UserError, match="1 voxels of the label map are no integers"):
        read_label_map(save(tmp_path / "a.nii.gz", data))


def test_geometry_counts_where_corners_lie():
    shifted, turned = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3] += 0.19  # a tenth of the smallest edge of 2 mm is 0.2 mm
    assert Geometry(SHAPE, AFFINE).difference(Geometry(SHAPE, shifted)) == ""
    shifted[0, 3] += 0.02
    assert "0.21 mm" in Geometry(SHAPE, AFFINE).difference(Geometry(SHAPE, shifted))
    turned[0, 0] = -2
    assert "axes RAS" in Geometry(SHAPE, AFFINE).difference(Geometry(SHAPE, turned))
    assert "shape" in Geometry(SHAPE, AFFINE).difference(Geometry((4, 5, 7), AFFINE))


def test_pair_takes_the_affine_of_the_image(ct, tmp_path):
    close = AFFINE.copy()
    close[2, 3] += 0.01
    label = save(tmp_path / "label.nii.gz", np.ones(SHAPE, np.uint8), close)
    image, label_map = read_pair(ct, label)
    assert np.array_equal(label_map.affine, image.affine)
    far = save(tmp_path / "far.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(UserError, match="far.nii.gz: does not lie on the grid of its image .*ct.nii.gz"):
        read_pair(ct, far)


def test_affine_without_volume_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
    image.header.set_sform(np.zeros((4, 4)), code=1)
    image.header["vox_offset"] = 352
    image._affine = None
    content = image.header.binaryblock + bytes(4) + bytes(240)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UserError, match="no usable voxel size"):
        inspect(tmp_path / "a.nii")


def test_written_bytes_depend_on_voxels_only(tmp_path):
    data = np.arange(120, dtype=np.uint8).reshape(SHAPE)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, data, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert checksum(tmp_path / "a.nii.gz") == checksum(tmp_path / "b.nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]
    back = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asanyarray(back.dataobj), data)
    assert np.allclose(back.affine, AFFINE)


def test_fingerprint_survives_orientation_and_number_type_only():
    data = np.random.default_rng(1).integers(-1000, 1000, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    turned = image.as_reoriented([[2, -1], [0, -1], [1, 1]])
    same = Volume(np.asanyarray(turned.dataobj).astype(np.float32), turned.affine)
    assert fingerprint(same) == fingerprint(Volume(data, AFFINE))
    mirrored = Volume(data[::-1], AFFINE)
    assert fingerprint(mirrored) != fingerprint(Volume(data, AFFINE))


def test_stem_drops_both_suffixes(tmp_path):
    assert [stem(tmp_path / name) for name in ("a.b.nii.gz", "a.nii", "a")] == ["a.b", "a", "a"]


@pytest.mark.parametrize(("field", "value"), [("vox_offset", np.nan), ("quatern_b", 24.0)])
def test_a_header_that_cannot_be_understood_is_damaged(tmp_path, field, value):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), None)
    image.header["qform_code"] = 1
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    content = bytearray(path.read_bytes())
    offset = nib.Nifti1Header.template_dtype.fields[field][1]
    content[offset : offset + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.nii: has a damaged header"):
        inspect(path)


@pytest.mark.parametrize("dtype", [np.uint64, np.float64])
def test_a_label_value_beyond_all_integers_is_refused(tmp_path, dtype):
    data = np.zeros(SHAPE, dtype)
    data[1, 2, 3] = 2**63
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=dtype), tmp_path / "label.nii.gz")
    with pytest.raises(UserError, match="label.nii.gz"):
        read_label_map(tmp_path / "label.nii.gz")


def test_nibabel_writes_nothing_of_its_own(ct, capfd):
    content = bytearray(gzip.decompress(ct.read_bytes()))
    content[76:80] = np.float32(7).tobytes()  # pixdim[0], which should be 1 or -1
    ct.write_bytes(gzip.compress(bytes(content)))
    read_image(ct)
    assert capfd.readouterr().err == ""
