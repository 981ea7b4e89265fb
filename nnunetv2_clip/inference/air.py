"""Which windows of a preprocessed CT hold nothing but the air around the patient."""

# Shapes: Z Y X voxels of the preprocessed image.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.body import BODY_HU


def air_bound(plans: Mapping, normalization: Sequence[str]) -> float:
    """The value of a preprocessed CT up to which a voxel counts as air: that of `BODY_HU`, or of the clip above it.

    Raises:
        UserError: the model is not trained on Hounsfield units.
    """
    if list(normalization) != ["CTNormalization"]:
        raise UserError("--skip-air", f"the model normalises with {', '.join(normalization)}", "CTNormalization")
    of_ct = plans["foreground_intensity_properties_per_channel"]["0"]
    lowest, highest = of_ct["percentile_00_5"], of_ct["percentile_99_5"]
    air = min(max(BODY_HU, lowest), highest)
    return float((np.float32(air) - np.float32(of_ct["mean"])) / np.float32(max(of_ct["std"], 1e-8)))


def air_windows(data: Tensor, slicers: Sequence[tuple], bound: float) -> frozenset[int]:
    """The numbers of the windows that hold only air around the patient: no voxel above `bound` in them or next to them.

    Around the patient: neighbouring windows of this kind form groups, and a group counts if it reaches the border of
    the image along two axes. So air inside the patient (bowel, pneumothorax) does not count, however large it is, not
    even where the first or last slice cuts it.

    Args:
        data: (1, Z, Y, X).
        slicers: of all windows; each is (all channels, Z, Y, X), in ascending order along every axis.
    """
    boxes = [[_span(part) for part in slicer[1:]] for slicer in slicers]
    starts = np.array([[begin for begin, _ in box] for box in boxes])
    places = np.stack([np.unique(column, return_inverse=True)[1] for column in starts.T], 1)
    is_clear = np.zeros(places.max(0) + 1, bool)
    for place, box in zip(places, boxes, strict=True):
        around = tuple(slice(max(begin - 1, 0), end + 1) for begin, end in box)
        is_clear[tuple(place)] = bool(data[(0, *around)].max() <= bound)
    groups, count = ndimage.label(is_clear)
    around_patient = [
        group for group in range(1, count + 1) if _reaches_border(np.argwhere(groups == group), groups.shape)
    ]
    return frozenset(np.flatnonzero(np.isin(groups[tuple(places.T)], around_patient)).tolist())


def _reaches_border(places: np.ndarray, shape: Sequence[int]) -> bool:
    """Do these (n, 3) places of windows touch the border along two axes or more."""
    return int(((places == 0) | (places == np.subtract(shape, 1))).any(0).sum()) >= 2


def _span(part: slice | int) -> tuple[int, int]:
    """First position and the one after the last; a 2d model looks at one slice."""
    return (part.start, part.stop) if isinstance(part, slice) else (part, part + 1)
