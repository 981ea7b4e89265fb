"""Left-right is found through the plans' transposition and never mirrored."""

import pytest

from nnunetv2_clip.imaging.nifti import REORIENTING_READER
from nnunetv2_clip.training.laterality_axis import mirror_axes_without_left_right


@pytest.mark.parametrize(
    ("axes", "transpose_forward", "expected"),
    [
        ((0, 1, 2), (0, 1, 2), (0, 1)),  # z, y, x: x is the last
        ((0, 1, 2), (2, 0, 1), (1, 2)),  # x first
        ((0, 1, 2), (1, 2, 0), (0, 2)),
        ((0, 1), (0, 1, 2), (0,)),  # axial slices (y, x)
        ((0, 1), (2, 0, 1), (0, 1)),  # sagittal slices (z, y): left-right is not in them
    ],
)
def test_left_right_is_left_out(axes, transpose_forward, expected):
    assert mirror_axes_without_left_right(axes, transpose_forward, REORIENTING_READER) == expected


def test_no_axis_is_safe_when_the_reader_does_not_reorient():
    assert mirror_axes_without_left_right((0, 1, 2), (0, 1, 2), "SimpleITKIO") == ()
