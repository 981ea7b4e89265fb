"""The twenty patients whose voxel size was overwritten with 1 x 1 x 1 mm, in each set that inherited it."""

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.imaging.header_repairs import ircadb_patient

# Source, files of patient 1 of 3D-IRCADb-01 (129 slices of 0.57 x 0.57 x 1.6 mm), and the case.
COPIES = {
    "lits": ("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii", "lits_28"),
    "ct_org": ("volume-28.nii.gz", "labels-28.nii.gz", "ct_org_28"),
    "abdomenct_1k": ("Image/Case_00273_0000.nii.gz", "Mask/Case_00273.nii.gz", "abdomenct_1k_00273"),
}
UNIT = np.diag([-1.0, -1, 1, 1])


@pytest.fixture
def copy(folder):
    """copy(source, slices) writes the case with a voxel size of 1 x 1 x 1 mm; voxel (0, 0, 0) is liver."""

    def write(source, slices=129, affine=UNIT):
        image, label, _ = COPIES[source]
        data = np.random.default_rng(1).integers(-1000, 1000, (8, 9, slices)).astype(np.int16)
        liver = np.zeros(data.shape, np.uint8)
        liver[0, 0, 0] = 1
        folder.save(image, data, affine)
        folder.save(label, liver, affine)
        return f"{source}={folder.path}"

    return write


@pytest.mark.parametrize("source", COPIES)
def test_true_voxel_size_is_restored(source, copy, convert, converted):
    assert convert("--source", copy(source))[0] == 0
    case_id = COPIES[source][2]
    for file in (converted.image(case_id), converted.label(case_id)):
        assert np.allclose(np.linalg.norm(file.affine[:3, :3], axis=0), (0.57, 0.57, 1.6))
        assert nib.aff2axcodes(file.affine) == ("L", "P", "S")
    assert "1 x 1 x 1 mm" in converted.cases[case_id].geometry_fixes[0]
    assert np.argwhere(converted.mask(case_id, "liver")).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("source", COPIES)
def test_repair_can_be_switched_off(source, copy, convert, converted):
    assert convert("--source", copy(source), "--no-repair", "unit_spacing")[0] == 0
    assert np.allclose(converted.image(COPIES[source][2]).affine, UNIT)


@pytest.mark.parametrize("source", COPIES)
def test_right_voxel_size_is_left_alone(source, copy, convert, converted):
    affine = np.diag([-0.57, -0.57, 1.6, 1])
    assert convert("--source", copy(source, affine=affine))[0] == 0
    case = converted.cases[COPIES[source][2]]
    assert not [fix for fix in case.geometry_fixes if "1 x 1 x 1 mm" in fix]
    assert np.allclose(converted.image(COPIES[source][2]).affine, affine)


@pytest.mark.parametrize("source", COPIES)
def test_another_number_of_slices_is_refused(source, copy, convert):
    code, message = convert("--source", copy(source, slices=100))
    assert code == 3
    assert "129 slices" in message


@pytest.mark.parametrize(("number", "size"), [(28, 0.57), (44, 0.743), (47, 0.81)])
def test_voxel_sizes_of_the_table(number, size):
    assert ircadb_patient("lits", number).in_plane_mm == size
