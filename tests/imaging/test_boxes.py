"""Boxes of voxels at the border of a volume."""

from __future__ import annotations

import pytest

from nnunetv2_clip.imaging.boxes import at_border


@pytest.mark.parametrize("axis", range(3))
def test_a_box_is_at_the_border_on_either_end_of_any_axis(axis):
    inside, shape = [slice(1, 3)] * 3, (4, 5, 6)
    for part, expected in ((slice(0, 2), True), (slice(1, shape[axis]), True), (slice(1, 3), False)):
        box = tuple(inside[:axis] + [part] + inside[axis + 1 :])
        assert at_border(box, shape) == expected
