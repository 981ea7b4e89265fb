"""Are the voxels of a volume Hounsfield units: do air, fat, soft tissue and bone have the values that they must have.

Judged by shares of a sample of the voxels, never by single ones: padding of -2000 or -3024, metal and noise change
nothing. What a crop does not show (air, fat, bone) is not missed as long as what it shows lies where it belongs.
"""

# Shapes: X Y Z voxels in any axis order; N voxels of a sample.

from __future__ import annotations

import numpy as np

from nnunetv2_clip.imaging.nifti import Volume

CT_RANGE_HU = (-10_000, 40_000)  # beyond this no scanner's scale; metal and padding stay inside
MAX_SAMPLES = 48  # along each axis
PADDING_HU = -1100  # below it lies what the scanner did not see
FAT_HU, BODY_HU, BRIGHT_HU = (-150, -50), (-1050, 300), 300
SHIFTED_HU, MIN_SHIFTED = (850, 1250), 0.02  # fat and soft tissue of a CT without its intercept of -1024 or -1000
MIN_BELOW = 0.005  # air, lung and fat of a body, below FAT_HU's end
MIN_BODY, MIN_SOFT = 0.2, 0.003  # between air and contrast agent; above fat
SMALL, TAIL = 20, 0.1  # |value| of what was scaled; per cent that are no sign
MIN_DARK, MIN_CLIPPED, MIN_TWICE = 0.05, 0.01, 0.1
CLIPPED_HU = (-900, -50)  # a lower end in between leaves no air to be seen


def not_hounsfield(volume: Volume) -> str:
    """What tells that the voxels are not Hounsfield units, in words; empty if nothing does.

    Args:
        volume: of finite numbers.
    """
    data = volume.data
    low, high = data.min(), data.max()
    if low == high:
        return ""
    reason = _reason(data, float(low), float(high))
    return f"values from {low:g} to {high:g} are not Hounsfield units: {reason}" if reason else ""


def clipped(volume: Volume) -> str:
    """Hounsfield units cut off above the value of air, in words; empty if they are not.

    Such an image is still in Hounsfield units, but its air cannot be told from fat or lung.
    """
    sample = _sample(volume.data)
    low, high = sample.min(), sample.max()
    share = float((sample == low).mean())
    if not CLIPPED_HU[0] < low < CLIPPED_HU[1] or share < MIN_CLIPPED:
        return ""
    return f"values clipped to {low:g} to {high:g}: {100 * share:.0f} % of the voxels have the lowest one, air included"


def _reason(data: np.ndarray, low: float, high: float) -> str:
    if low < CT_RANGE_HU[0] or high > CT_RANGE_HU[1]:
        return "no scanner gives them"
    if data.dtype.itemsize == 1:
        return f"a picture of 8 bits ({data.dtype})"
    sample = _sample(data)
    is_seen = sample > PADDING_HU
    seen, below = sample[is_seen], sample[~is_seen]
    if len(below) > MIN_TWICE * len(sample) and (below == np.median(below)).mean() < 0.5:  # padding is one value
        return f"air at about {np.median(below):.0f}, as in a CT whose rescale intercept (-1024) was added twice"
    return (_scaled(seen) or _shifted(seen) or _without_air(seen) or _elsewhere(seen)) if len(seen) else ""


def _sample(data: np.ndarray) -> np.ndarray:
    """(N,) float32, evenly spread."""
    thinned = data[tuple(slice(None, None, -(-size // MAX_SAMPLES)) for size in data.shape)]
    return thinned.ravel().astype(np.float32)


def _scaled(seen: np.ndarray) -> str:
    low, high = np.percentile(seen, (TAIL, 100 - TAIL))
    if low < -SMALL or high > SMALL:
        return ""
    for first, last in ((0, 1), (-1, 1)):
        if first <= seen.min() and seen.max() <= last:
            return f"scaled to [{first}, {last}]"
    return "z-scored, or scaled in another way"


def _shifted(seen: np.ndarray) -> str:
    """Fat and soft tissue lie at about 900 to 1200, where a true CT has little more than its hardest bone."""
    bright = seen[(seen > BRIGHT_HU) & (seen < max(seen.max(), SHIFTED_HU[1]))]  # no bone that was clipped to 1000
    tissue = _count(bright, SHIFTED_HU)
    if tissue < max(MIN_SHIFTED * len(seen), 0.5 * len(bright), _count(seen, FAT_HU), 1):
        return ""
    centre = np.median(bright[(bright > SHIFTED_HU[0]) & (bright < SHIFTED_HU[1])])
    return f"soft tissue at about {centre:.0f}, as in a CT stored without its rescale intercept (-1024 or -1000)"


def _without_air(seen: np.ndarray) -> str:
    """Nothing below zero, but either a dark background or values above those of contrast agent."""
    if (seen < FAT_HU[1]).mean() >= MIN_BELOW:
        return ""
    top = float(np.percentile(seen, 100 - TAIL))
    is_dark = (seen < 0.1 * top).mean() >= MIN_DARK
    if is_dark and seen.min() >= 0 and seen.max() <= 255:
        return "neither air nor fat below zero, as in a picture of 8 bits (0 to 255)"
    if is_dark or top > BRIGHT_HU:
        return "neither air nor fat below zero, as in an MR, or in a CT stored without its rescale intercept"
    return ""


def _elsewhere(seen: np.ndarray) -> str:
    if _count(seen, BODY_HU) < MIN_BODY * len(seen):
        return "hardly anything lies between air (-1000) and contrast agent (300)"
    if (seen > FAT_HU[0]).mean() < MIN_SOFT:
        return "hardly anything is as bright as fat or soft tissue"
    return ""


def _count(values: np.ndarray, between: tuple[float, float]) -> int:
    return int(np.count_nonzero((values > between[0]) & (values < between[1])))
