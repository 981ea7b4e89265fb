"""Hounsfield units are told from what looks like them; a true CT, whatever it shows, is never called anything else."""

from functools import cache

import numpy as np
import pytest

from nnunetv2_clip.imaging.hounsfield import clipped, not_hounsfield
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.phantom.anatomy import make_phantom

INTERCEPT, EIGHT_BITS = "without its rescale intercept", "8 bits"


@cache
def patient():
    return make_phantom(1, (6.0, 6.0, 6.0))


def found(data: np.ndarray) -> str:
    return not_hounsfield(Volume(data, np.eye(4)))


def hu() -> np.ndarray:
    return patient().image.astype(np.float32)


def with_one(data: np.ndarray, value: float) -> np.ndarray:
    data[3, 4, 5] = value
    return data


def with_rim(data: np.ndarray, value: float) -> np.ndarray:
    data[:10] = value
    return data


def windowed(low: float, high: float, top: int = 1) -> np.ndarray:
    return np.clip((hu() - low) / (high - low), 0, 1) * top


def noise(deviation: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, deviation, hu().shape)


def box(name: str) -> tuple[slice, ...]:
    """The inner half of the box around an organ."""
    where = np.argwhere(patient().masks[name])
    middle, size = where.mean(axis=0), np.ptp(where, axis=0)
    return tuple(slice(int(m - s / 4), int(m + s / 4) + 1) for m, s in zip(middle, size, strict=True))


NOT_HU = {
    "without rescale intercept": (lambda: hu() + 1024, INTERCEPT),
    "without one of -1000": (lambda: hu() + 1000, INTERCEPT),
    "as stored": (lambda: np.clip(hu() + 1024, 0, 4095).astype(np.uint16), INTERCEPT),
    "one voxel below 0": (lambda: with_one(np.clip(hu() + 1024, 0, None), -5), INTERCEPT),
    "padding of -2000": (lambda: np.where(hu() < -800, -2000, hu() + 1024), INTERCEPT),
    "padding of -1024": (lambda: with_rim(hu() + 1024, -1024), INTERCEPT),
    "intercept added twice": (lambda: hu() - 1024, "twice"),
    "another offset": (lambda: hu() + 32768, "neither air nor fat"),
    "8 bits": (lambda: np.rint(windowed(-160, 240, 255)), EIGHT_BITS),
    "8 bits of a wide window": (lambda: np.rint(windowed(-1000, 1000, 255)), EIGHT_BITS),
    "8 bits as stored": (lambda: np.rint(windowed(-1000, 1000, 255)).astype(np.uint8), EIGHT_BITS),
    "z-scored": (lambda: (hu() - hu().mean()) / hu().std(), "z-scored"),
    "scaled to [-1, 1]": (lambda: 2 * windowed(-1000, 1000) - 1, "scaled to [-1, 1]"),
    "scaled to [0, 1]": (lambda: windowed(-160, 240), "scaled to [0, 1]"),
    "an MR": (lambda: np.abs(np.where(hu() < -300, 0, 500 - hu()) + noise(12)), "an MR"),
    "a single huge value": (lambda: with_one(hu(), 1e33), "no scanner"),
    "nothing but bone": (
        lambda: with_rim(np.full((30, 30, 30), 1500.0), 1300) + noise(20)[:30, :30, :30],
        "hardly anything lies",
    ),
    "air alone": (lambda: hu()[:, :2], "hardly anything"),
}


@pytest.mark.parametrize("kind", NOT_HU)
def test_what_is_not_in_hounsfield_units_is_named(kind):
    make, words = NOT_HU[kind]
    text = found(data := make())
    assert text.startswith(f"values from {data.min():g} to {data.max():g} are not Hounsfield units: ")
    assert words in text


TRUE_CTS = {
    "untouched": hu,
    "integers": lambda: patient().image,
    "padding of -2000": lambda: with_rim(hu(), -2000),
    "padding of -3024 in half of it": lambda: np.where(np.arange(hu().shape[0])[:, None, None] < 30, -3024, hu()),
    "metal": lambda: with_one(hu(), 30_000),
    "low dose": lambda: hu() + noise(80),
    "bone clipped to 1000": lambda: np.clip(2 * hu(), -1000, 1000),
    "air of the background set to 0": lambda: np.where(hu() < -300, 0, hu()),
    "a crop of the liver": lambda: hu()[box("liver")],
    "a crop of a lung": lambda: hu()[box("right_lung")],
    "a crop of a femur head": lambda: hu()[box("left_femur_head")],
    "the pelvis": lambda: hu()[:, :, :30],
    "the thorax": lambda: hu()[:, :, -25:],
    "every value the same": lambda: np.full((9, 9, 9), 7),
}


@pytest.mark.parametrize("kind", TRUE_CTS)
def test_a_true_ct_is_never_called_anything_else(kind):
    data = TRUE_CTS[kind]()
    assert found(data) == ""
    assert clipped(Volume(data, np.eye(4))) == ""


@pytest.mark.parametrize(("low", "high"), [(-160, 240), (-200, 300), (-500, 400)])
def test_values_clipped_above_air_are_hounsfield_units_and_named(low, high):
    data = np.clip(hu(), low, high)
    assert found(data) == ""
    assert clipped(Volume(data, np.eye(4))).startswith(f"values clipped to {low} to {high}: ")


def test_a_hard_bone_is_not_soft_tissue_with_an_offset():
    skull = np.random.default_rng(0).normal(900, 350, (30, 30, 30))
    skull[5:25, 5:25, 5:25] = 35 + noise(5)[:20, :20, :20]
    assert found(skull) == "" or "air" in found(skull)  # a crop without air: unlike a CT, but not with an offset
    assert INTERCEPT not in found(np.where(np.arange(30)[:, None, None] < 4, -1000, skull))


def test_a_large_volume_is_judged_by_a_sample():
    data = np.full((400, 400, 60), -1000, np.int16)
    data[100:300, 100:300] = np.random.default_rng(0).normal(40, 20, (200, 200, 60))
    assert found(data) == "" and INTERCEPT in found(data + 1024)
