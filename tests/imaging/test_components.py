"""Connected components: neighbours over corners belong together, thin masks are no exception."""

import numpy as np
import pytest

from nnunetv2_clip.imaging.components import connected_components


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    components, count = connected_components(mask)
    assert count == 2
    assert components[0, 0, 0] == components[1, 1, 1] != components[3, 3, 3]


@pytest.mark.parametrize("axis", range(3))
def test_masks_of_one_voxel_width_work(axis):
    line = np.array([1, 0, 1, 1, 0, 1, 0, 1], bool)
    shape = [1, 1, 1]
    shape[axis] = len(line)
    components, count = connected_components(line.reshape(shape))
    assert count == 4
    assert components.ravel().tolist() == [1, 0, 2, 2, 0, 3, 0, 4]


def test_empty_mask_has_none():
    assert connected_components(np.zeros((3, 3, 3), bool))[1] == 0
