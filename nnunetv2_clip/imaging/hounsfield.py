"""Are the voxels of a volume Hounsfield units: do air, fat, soft tissue and bone have the values that they must have.

Judged by shares of a sample of the voxels, never by single ones: padding of -2000 or -3024, metal and noise change
nothing. What a crop does not show (air, fat, bone) is not missed as long as what it shows lies where it belongs.
"""

# Shapes: X Y Z voxels in any axis order; N voxels of a sample.

from __future__ import annotations

import numpy as np

from nnunetv2_clip.imaging.nifti import Volume

CT_RANGE_HU = (-32_768, 40_000)  # beyond this no scanner's scale; metal and padding stay inside
MAX_SAMPLES = 48  # along each axis
PADDING_HU, MIN_TWICE = -1100, 0.1  # below it lies what the scanner did not see, unless it is much and varies
SMALL, TAIL = 20, 0.1  # |value| of what was scaled; per cent of the voxels that are no sign
# Fat and soft tissue without the intercept lie at 900 to 1200.
BRIGHT_HU, SHIFTED_HU, MIN_SHIFTED = 300, (850, 1250), 0.02
FAT_HU, MIN_BELOW, DARK, MIN_DARK = (-150, -50), 0.005, 0.04, 0.05
CT_HU, MIN_CT, AIR_HU, MIN_NOT_AIR = (-1050, 1000), 0.2, -900, 0.003
CLIPPED_HU, MIN_CLIPPED = (-900, -50), 0.01  # a lowest value in between leaves no air to be seen


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
    if tissue < max(MIN_SHIFTED * len(seen), 0.5 * len(bright), 2 * _count(seen, FAT_HU), 1):
        return ""
    centre = np.median(bright[(bright > SHIFTED_HU[0]) & (bright < SHIFTED_HU[1])])
    return f"soft tissue at about {centre:.0f}, as in a CT stored without its rescale intercept (-1024 or -1000)"


def _without_air(seen: np.ndarray) -> str:
    """Nothing below zero, but a dark background."""
    low, high = np.percentile(seen, (TAIL, 100 - TAIL))
    is_dark = seen < low + DARK * (high - low)
    if (seen < FAT_HU[1]).mean() >= MIN_BELOW or is_dark.mean() < MIN_DARK:
        return ""
    if seen.min() >= 0 and seen.max() <= 255:
        return "neither air nor fat below zero, as in a picture of 8 bits (0 to 255)"
    return "neither air nor fat below zero, as in an MR, or in a CT stored without its rescale intercept"


def _elsewhere(seen: np.ndarray) -> str:
    if _count(seen, CT_HU) < MIN_CT * len(seen):
        return f"hardly anything lies between air and bone ({CT_HU[0]} to {CT_HU[1]})"
    return "hardly anything but air" if (seen > AIR_HU).mean() < MIN_NOT_AIR else ""


def _count(values: np.ndarray, between: tuple[float, float]) -> int:
    return int(np.count_nonzero((values > between[0]) & (values < between[1])))
