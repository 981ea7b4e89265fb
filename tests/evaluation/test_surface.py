"""Surface metrics: numbers from drawings, and equality with the surface-distance library."""

import math

import numpy as np
import pytest
from scipy import ndimage
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from nnunetv2_clip.evaluation.surface import mask_metrics, neighbour_codes, surface_distances, surface_metrics
from tests.evaluation.drawings import volume


def block(shape, *corners) -> np.ndarray:
    """A box of True from the first corner up to, not including, the second."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(low, high) for low, high in zip(*corners, strict=True))] = True
    return mask


def library(reference, prediction, spacing_mm, tolerance_mm):
    distances = compute_surface_distances(reference, prediction, spacing_mm)
    nsd = compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return nsd, compute_robust_hausdorff(distances, 95)


def blobs(seed, shape=(17, 15, 13)) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth random shapes, like organs, that overlap in part and touch the borders."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 2, 2, 2))
    return noise[0] > 0, (noise[0] + 0.5 * noise[1]) > 0


def test_equal_masks_agree_at_any_tolerance():
    mask = block((9, 9, 9), (2, 2, 2), (6, 5, 7))
    assert mask_metrics(mask, mask, (1, 1, 1), 0.001) == (1, 0)


def test_slabs_two_voxels_apart_agree_only_from_twice_the_spacing_on():
    """Two plates over the whole plane: only their faces count apart from the rims, 2 voxels of 1.5 mm apart."""
    reference = block((12, 40, 40), (4, 0, 0), (6, 40, 40))
    prediction = block((12, 40, 40), (6, 0, 0), (8, 40, 40))
    assert mask_metrics(reference, prediction, (1.5, 1, 1), 3.0)[0] == 1
    assert mask_metrics(reference, prediction, (1.5, 1, 1), 2.9)[0] < 0.6
    assert mask_metrics(reference, prediction, (1.5, 1, 1), 2.9)[1] == 3


def test_spacing_is_that_of_the_axes():
    reference, prediction = block((9, 9, 9), (2, 2, 2), (5, 5, 5)), block((9, 9, 9), (2, 2, 4), (5, 5, 7))
    assert mask_metrics(reference, prediction, (1, 1, 5), 1)[1] == 10
    assert mask_metrics(reference, prediction, (5, 5, 1), 1)[1] == 2


def test_both_empty_is_not_defined_and_one_empty_is_zero():
    nothing, something = np.zeros((4, 4, 4), bool), block((4, 4, 4), (1, 1, 1), (3, 3, 3))
    assert all(math.isnan(value) for value in mask_metrics(nothing, nothing, (1, 1, 1), 3))
    for pair in ((nothing, something), (something, nothing)):
        nsd, hd95 = mask_metrics(*pair, (1, 1, 1), 3)
        assert nsd == 0 and math.isnan(hd95)


def test_one_voxel_against_itself_and_its_neighbour():
    one, other = block((5, 5, 5), (2, 2, 2), (3, 3, 3)), block((5, 5, 5), (3, 2, 2), (4, 3, 3))
    assert mask_metrics(one, one, (1, 1, 1), 0.5) == (1, 0)
    nsd, hd95 = mask_metrics(one, other, (1, 1, 1), 0.5)  # four of eight corners are common, each of equal area
    assert nsd == pytest.approx(0.5) and hd95 == 1


def test_codes_of_one_voxel_name_each_corner_once():
    codes = neighbour_codes(np.ones((1, 1, 1), bool))
    assert sorted(codes.ravel().tolist()) == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.7, 0.7, 5), (3, 0.9, 1.1)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_and_areas_equal_the_library(seed, spacing_mm):
    reference, prediction = blobs(seed)
    expected = compute_surface_distances(reference, prediction, spacing_mm)
    found = surface_distances(reference, prediction, spacing_mm)
    for side in ("gt_to_pred", "pred_to_gt"):
        np.testing.assert_allclose(found[f"distances_{side}"], expected[f"distances_{side}"], rtol=0, atol=1e-12)
    for side in ("gt", "pred"):
        assert found[f"surfel_areas_{side}"].sum() == pytest.approx(expected[f"surfel_areas_{side}"].sum())


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.75, 0.75, 5), (0.7, 0.7, 5)])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_the_library(seed, spacing_mm):
    """Where many distances are exactly the tolerance, too: a rounding error would flip them."""
    reference, prediction = blobs(seed)
    for tolerance_mm in (0.75, 1, 2.25, 3, 5):
        found = mask_metrics(reference, prediction, spacing_mm, tolerance_mm)
        assert found == pytest.approx(library(reference, prediction, spacing_mm, tolerance_mm), abs=1e-12)


@pytest.mark.parametrize(
    "masks",
    [
        (block((6, 6, 6), (0, 0, 0), (6, 6, 6)), block((6, 6, 6), (1, 1, 1), (5, 5, 5))),
        (block((6, 6, 6), (0, 0, 0), (1, 6, 6)), block((6, 6, 6), (5, 0, 0), (6, 6, 6))),
        (block((6, 1, 6), (0, 0, 0), (3, 1, 3)), block((6, 1, 6), (2, 0, 2), (6, 1, 6))),
        (block((9, 9, 9), (4, 4, 4), (5, 5, 5)), block((9, 9, 9), (0, 0, 0), (1, 1, 1))),
    ],
    ids=["whole volume", "opposite borders", "one slice", "single voxels"],
)
def test_masks_that_touch_the_border_equal_the_library(masks):
    assert mask_metrics(*masks, (1, 2, 3), 2) == pytest.approx(library(*masks, (1, 2, 3), 2))


@pytest.mark.parametrize("seed", range(3))
def test_volumes_are_cropped_without_changing_the_numbers(seed):
    reference, prediction = (np.pad(mask, 7) for mask in blobs(seed))
    found = surface_metrics(
        volume(reference * np.uint8(3), spacing_mm=(1, 2, 3), a=(3,)),
        volume(prediction * np.uint8(5), spacing_mm=(1, 2, 3), a=(5,)),
        "a",
        2.0,
    )
    assert found == pytest.approx(library(reference, prediction, (1, 2, 3), 2.0))


def test_ignored_voxels_belong_to_no_mask():
    label_map = np.zeros((9, 9, 9), np.uint8)
    label_map[2:5, 2:5, 2:5], label_map[5:, :, :] = 1, 9
    predicted = np.zeros_like(label_map)
    predicted[2:8, 2:5, 2:5] = 1
    assert surface_metrics(volume(label_map, ignore=9, a=(1,)), volume(predicted, a=(1,)), "a", 0.5) == (1, 0)
    assert surface_metrics(volume(predicted, a=(1,)), volume(label_map, ignore=9, a=(1,)), "a", 0.5) == (1, 0)
    assert surface_metrics(volume(label_map, a=(1,)), volume(predicted, a=(1,)), "a", 0.5)[0] < 1
