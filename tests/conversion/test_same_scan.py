"""Fingerprints find a scan again through everything that publishers do to copies, and no other scan."""

from functools import cache

import numpy as np
import pytest

from nnunetv2_clip.conversion.same_scan import agreement, find_copies, fingerprint_of, relation
from nnunetv2_clip.imaging.nifti import Volume, fingerprint
from nnunetv2_clip.phantom.anatomy import make_phantom


@cache
def scan(seed: int) -> np.ndarray:
    return make_phantom(seed, (6.0, 6.0, 6.0)).image


CHANGES = {
    "saved again": lambda x: x.copy(),
    "float": lambda x: x.astype(np.float32) + 0.3,
    "unsigned and shifted": lambda x: (x + 1024).astype(np.uint16),
    "clipped": lambda x: np.clip(x, -175, 250),
    "clipped from above": lambda x: np.minimum(x, 400),
    "shifted and clipped": lambda x: np.clip(x + 24, -1000, 300),
    "flipped": lambda x: x[::-1, :, ::-1],
    "axes exchanged": lambda x: x.transpose(2, 1, 0),
    "everything": lambda x: np.clip(x.transpose(2, 0, 1)[:, ::-1] + 1000, 800, 1300).astype(np.float64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_and_its_array_laid_back_on_the_scan(change):
    copy = CHANGES[change](scan(1))
    found = relation(fingerprint_of(scan(1)), fingerprint_of(copy))
    assert found is not None
    copy = copy.astype(float)
    turned = found.apply(copy) + found.shift
    inside = (copy.min() + found.shift + 1 < turned) & (turned < copy.max() + found.shift - 1)
    assert np.abs(turned - scan(1))[inside].max() <= 1
    assert agreement(scan(1), found.apply(copy)) > 0.99


@pytest.mark.parametrize("change", CHANGES)
def test_another_patient_is_no_copy(change):
    other = CHANGES[change](scan(2))
    assert relation(fingerprint_of(scan(1)), fingerprint_of(other)) is None
    assert agreement(scan(1), scan(2)) < 0.3


def test_a_mirrored_copy_is_told_from_an_identical_one():
    assert relation(fingerprint_of(scan(1)), fingerprint_of(scan(1))).is_identity
    mirrored = relation(fingerprint_of(scan(1)), fingerprint_of(scan(1)[::-1]))
    assert mirrored.flips == (0,) and mirrored.axes == (0, 1, 2) and not mirrored.is_identity


def test_the_picks_of_a_flipped_image_are_the_flipped_picks():
    for shape in ((5, 16, 17), (31, 40, 100)):
        image = np.arange(np.prod(shape)).reshape(shape) % 3000
        flipped = fingerprint_of(np.flip(image, (0, 2)))
        assert np.array_equal(np.flip(fingerprint_of(image).picks, (0, 2)), flipped.picks)


def test_cropped_copies_are_not_claimed():
    assert relation(fingerprint_of(scan(1)), fingerprint_of(scan(1)[:, :, 1:])) is None


def test_all_copies_among_many_scans_are_found_and_nothing_else():
    scans = {f"a{seed}": scan(seed) for seed in range(4)}
    scans |= {"b1": np.clip(scan(1), -200, 300), "b3": scan(3)[::-1], "c3": scan(3) + 1024}
    pairs = {(first, second) for first, second, _ in find_copies({k: fingerprint_of(x) for k, x in scans.items()})}
    assert pairs == {("a1", "b1"), ("a3", "b3"), ("a3", "c3"), ("b3", "c3")}


def test_two_images_clipped_to_different_windows_are_still_copies():
    windows = (np.clip(scan(1), -175, 250), np.clip(scan(1), -100, 400))
    assert relation(*map(fingerprint_of, windows)) is not None


def noise(limit: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-limit, limit + 1, scan(1).shape)


def test_rounding_makes_no_other_scan_and_another_reconstruction_does():
    first = fingerprint_of(scan(1))
    assert relation(first, fingerprint_of(scan(1) + noise(1))).is_identity
    assert relation(first, fingerprint_of(scan(1) + noise(20))) is None
    assert agreement(scan(1), scan(1) + noise(1)) > 0.99
    assert agreement(scan(1), scan(1) + noise(20)) < 0.3


@pytest.mark.parametrize(("part", "is_copy"), [(0.05, True), (0.25, False)])
def test_nine_tenths_of_the_voxels_must_agree(part, is_copy):
    """A word burnt into a copy makes no other scan, another patient in a quarter of the slices does."""
    image = np.random.default_rng(0).integers(-900, 900, (16, 16, 16))  # every voxel is a pick
    changed = image.copy()
    changed[: round(16 * part)] = np.random.default_rng(1).integers(-900, 900, (round(16 * part), 16, 16))
    assert (relation(fingerprint_of(image), fingerprint_of(changed)) is not None) == is_copy


@pytest.mark.parametrize(("num_voxels", "is_copy"), [(40, False), (100, True)])
def test_a_few_voxels_between_the_limits_prove_nothing(num_voxels, is_copy):
    image = np.full((16, 16, 16), -1000)
    image.flat[: num_voxels + 1] = [*np.random.default_rng(0).integers(-900, 900, num_voxels), 1000]
    assert (relation(fingerprint_of(image), fingerprint_of(image.copy())) is not None) == is_copy


def test_of_several_ways_to_lay_a_symmetric_scan_the_one_without_turning_is_taken():
    half = np.random.default_rng(0).integers(-900, 900, (8, 16, 16))
    image = np.concatenate((half, half[::-1]))
    found = relation(fingerprint_of(image), fingerprint_of(image.copy()))
    assert found.is_identity and not found.is_only


def test_one_slice_is_not_taken_for_symmetric():
    image = np.random.default_rng(0).integers(-900, 900, (64, 48, 1))
    assert relation(fingerprint_of(image), fingerprint_of(image.copy())).is_only


def test_a_copy_is_laid_back_on_the_shape_of_the_scan_even_where_its_picks_say_nothing_of_the_axes():
    cube = np.random.default_rng(0).integers(-900, 900, (16, 16, 16))
    image = np.repeat(np.maximum(cube, cube.transpose(2, 1, 0)), 2, axis=2)
    found = relation(fingerprint_of(image), fingerprint_of(image.transpose(2, 1, 0)))
    assert np.array_equal(found.apply(image.transpose(2, 1, 0)), image)


@pytest.mark.parametrize("number", [60_000.0, -60_000.0, 1e30, 1e300])
def test_large_numbers_are_not_wrapped(number):
    picks = fingerprint_of(np.full((16, 16, 16), number)).picks
    assert np.isfinite(picks).all() and (np.sign(picks) == np.sign(number)).all() and np.abs(picks).min() >= 60_000


UNITS = {
    "z-scored": lambda x: ((x - x.mean()) / x.std()).astype(np.float32),
    "from 0 to 1": lambda x: (x - x.min()) / np.ptp(x),
    "from -1 to 1": lambda x: np.clip(x / 1000, -1, 1),
    "8 bits of a window": lambda x: (np.clip((x + 175) / 425, 0, 1) * 255).astype(np.uint8),
    "from 0 to 100": lambda x: np.clip((x + 1000) // 20, 0, 100),
    "from 0 to 10": lambda x: np.clip((x + 1000) // 200, 0, 10),
    "5 values": lambda x: np.digitize(x, [-500, -50, 20, 150]) / 4,
    "4 values": lambda x: np.digitize(x, [-500, -50, 20]),
    "3 values": lambda x: np.digitize(x, [-500, 200]),
    "2 values": lambda x: (x > -500).astype(np.int16),
}
TOO_FEW = ("3 values", "2 values")  # they could all be clipped: copies are told by their digest alone


@pytest.mark.parametrize("unit", UNITS)
def test_whatever_the_unit_copies_are_found_and_other_patients_are_not(unit):
    first, other = (UNITS[unit](scan(seed).astype(float)) for seed in (1, 2))
    found = relation(fingerprint_of(first), fingerprint_of(first[::-1].astype(np.float64)))
    assert (found is None) if unit in TOO_FEW else (found.flips == (0,) and found.is_only)
    assert relation(fingerprint_of(first), fingerprint_of(other)) is None
    assert agreement(first, other) < 0.9
    digests = {fingerprint(Volume(image, np.eye(4))) for image in (first, other, first.copy())}
    assert len(digests) == 2


def test_patients_laid_on_one_template_with_few_values_are_not_one():
    """They agree in 95 of 100 voxels, as different brains on an atlas do."""
    first = np.random.default_rng(0).integers(0, 5, (32, 32, 32)).astype(np.float32)
    second = np.where(np.random.default_rng(1).random(first.shape) < 0.05, first[::-1], first)
    assert relation(fingerprint_of(first), fingerprint_of(second)) is None and agreement(first, second) == 0
