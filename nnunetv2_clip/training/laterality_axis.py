"""The left-right axis of a patch, along which nothing may ever be mirrored: left and right are classes."""

from collections.abc import Sequence

from nnunetv2_clip.imaging.nifti import REORIENTING_READER

LEFT_RIGHT_OF_READER = 2  # the reader gives arrays (z, y, x) of a volume in RAS


def mirror_axes_without_left_right(
    mirror_axes: Sequence[int], transpose_forward: Sequence[int], reader: str
) -> tuple[int, ...]:
    """The axes of a patch that may be mirrored.

    Args:
        mirror_axes: what nnU-Net would mirror: (0, 1, 2) of a 3D patch or (0, 1) of a 2D patch.
        transpose_forward: of the plans.
        reader: class name of the image reader; without the re-orienting one no axis is known to be safe.
    """
    if reader != REORIENTING_READER:
        return ()
    left_right = list(transpose_forward).index(LEFT_RIGHT_OF_READER)
    num_missing = 3 - len(mirror_axes)  # a 2D patch lacks the first axis
    return tuple(axis for axis in mirror_axes if axis + num_missing != left_right)
