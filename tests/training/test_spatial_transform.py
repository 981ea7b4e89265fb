"""Our spatial transform of label maps draws what a plain loop and nnU-Net's own transform draw, but near ties."""

import copy
import pickle
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from scipy.ndimage import zoom

from nnunetv2_clip.training import spatial_transform as module
from nnunetv2_clip.training.spatial_transform import LabelMapSpatialTransform, resample_labels, with_fast_labels
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer

NEAR = 1e-3  # half precision keeps sums near 1 in steps of 5e-4
IGNORE = 7


def plain_sums(labels, point, padding_label):
    """{label: sum of weights} at one point of the grid, of one channel; in double precision."""
    shape = labels.shape
    position = [((x + 1) * size - 1) / 2 for x, size in zip(reversed(point.tolist()), shape, strict=True)]
    first = [int(np.floor(x)) for x in position]
    sums = defaultdict(float)
    for corner in product((0, 1), repeat=len(shape)):
        voxel = tuple(np.add(first, corner))
        weight = np.prod([1 - abs(x - at) for x, at in zip(position, voxel, strict=True)])
        inside = all(0 <= at < size for at, size in zip(voxel, shape, strict=True))
        sums[int(labels[voxel]) if inside else padding_label] += weight
    return sums


def label_maps(generator, shape, num_values, coarse):
    """(C, *S) int16: blocks of label values, the last of them the ignore label; -1 where the scan ended."""
    values = generator.integers(0, num_values, [shape[0], *(-(-size // coarse) for size in shape[1:])])
    maps = zoom(values, [1] + [coarse] * (len(shape) - 1), order=0)[tuple(map(slice, shape))].astype(np.int16)
    maps[maps == num_values - 1] = IGNORE
    maps[:, :2] = -1
    return torch.from_numpy(maps)


def transform(patch, **options):
    """As in nnU-Net's trainer, but with rotation and scaling each time."""
    rotated = {"p_rotation": 1, "rotation": (-0.5, 0.5), "p_scaling": 1, "scaling": (0.7, 1.4)}
    border = {"border_mode_seg": "constant", "padding_value_seg": -1}
    return SpatialTransform(patch, 0, False, **{**rotated, **border, **options})


# Channels and size of the label map, patch: 3-D; 3-D that reaches outside; 2-D; dummy 2-D (slices are channels).
SHAPES = [
    ((1, 20, 14, 18), (12, 8, 10)),
    ((2, 9, 10, 8), (12, 13, 11)),
    ((1, 30, 26), (20, 24)),
    ((9, 30, 26), (28, 24)),
]


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
@pytest.mark.parametrize("num_values", [2, 9])
def test_the_largest_sum_of_a_plain_loop(shape, patch, num_values, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 100)
    np.random.seed(0)
    labels = label_maps(np.random.default_rng(num_values), shape, num_values, coarse=2)
    grid = transform(patch).get_parameters(image=labels)["grid"]
    result = resample_labels(labels, grid, -1)
    assert result.shape == (shape[0], *patch) and result.dtype == labels.dtype
    points, several = grid.reshape(-1, grid.shape[-1]).double(), 0
    for channel, drawn in zip(labels, result.flatten(1), strict=True):
        for point, label in zip(points, drawn.tolist(), strict=True):
            sums = plain_sums(channel, point, -1)
            several += len(sums) > 1
            assert sums[label] > max(sums.values()) - NEAR
    assert several > result.numel() / 5, "the drawing shows borders"


@pytest.mark.parametrize(("shape", "patch"), [((1, 50, 44, 48), (40, 36, 38)), *SHAPES[1:]])
@pytest.mark.parametrize("num_values", [1, 2, 9])
@pytest.mark.parametrize("options", [{}, {"p_elastic_deform": 1}, {"border_mode_seg": "zeros"}], ids=str)
def test_nnunets_own_transform_but_near_ties(shape, patch, num_values, options):
    np.random.seed(1)
    torch.manual_seed(1)
    host = transform(patch, **options)
    padding_label = -1 if host.border_mode_seg == "constant" else 0
    labels = label_maps(np.random.default_rng(num_values), shape, num_values, coarse=4)
    parameters = host.get_parameters(image=labels)
    expected = host._apply_to_segmentation(labels, **parameters)
    ours = module._fast(copy.deepcopy(host))._apply_to_segmentation(labels, **parameters)
    assert ours.dtype == expected.dtype and ours.shape == expected.shape
    differ = (ours != expected).nonzero()
    assert len(differ) <= 1 + 1e-4 * ours.numel()
    for channel, *at in differ.tolist():
        sums = plain_sums(labels[channel], parameters["grid"][tuple(at)].double(), padding_label)
        mine, hosts = (sums[int(values[channel][tuple(at)])] for values in (ours, expected))
        assert abs(mine - hosts) < NEAR


@pytest.mark.parametrize(("shape", "patch"), [((1, 12, 10, 14), (11, 9, 13)), ((3, 12, 14), (11, 13))])
def test_exact_ties_are_settled_as_nnunet_settles_them(shape, patch):
    labels = label_maps(np.random.default_rng(0), shape, 4, coarse=1)
    host = transform(patch, p_rotation=0, scaling=(1, 1))  # each point is the middle of a cell
    parameters = host.get_parameters(image=labels)
    expected = host._apply_to_segmentation(labels, **parameters)
    assert torch.equal(module._fast(host)._apply_to_segmentation(labels, **parameters), expected)


def test_label_values_that_need_more_than_a_byte():
    labels = label_maps(np.random.default_rng(0), (1, 20, 14, 18), 9, coarse=2)
    grid = transform((12, 8, 10)).get_parameters(image=labels)["grid"]
    far = resample_labels(labels * 1000, grid, -1000)
    assert torch.equal(far, resample_labels(labels, grid, -1) * 1000)


def test_few_labels_but_a_far_one_as_padding():
    labels = label_maps(np.random.default_rng(0), (1, 20, 14, 18), 4, coarse=2)
    grid = transform((24, 20, 20)).get_parameters(image=labels)["grid"]
    expected = resample_labels(labels, grid, 9)
    assert (expected == 9).any()
    assert torch.equal(resample_labels(labels, grid, 255), torch.where(expected == 9, 255, expected))


def test_a_patch_of_one_label():
    grid = transform((5, 6)).get_parameters(image=torch.zeros(1, 7, 8))["grid"]
    assert torch.equal(resample_labels(torch.full((2, 7, 8), 3), grid, 3), torch.full((2, 5, 6), 3))


def test_without_a_grid_the_patch_is_cropped_as_in_nnunet():
    labels = label_maps(np.random.default_rng(0), (1, 9, 12, 8), 4, coarse=2)
    host = transform((12, 8, 10), p_rotation=0, p_scaling=0)
    parameters = host.get_parameters(image=labels)
    assert parameters["grid"] is None
    expected = host._apply_to_segmentation(labels, **parameters)
    assert torch.equal(module._fast(host)._apply_to_segmentation(labels, **parameters), expected)


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_the_workers_of_our_trainers_have_it_with_nnunets_settings(dummy_2d):
    arguments = ((8, 8, 8), (-0.5, 0.5), [[1, 1, 1]], (0,), dummy_2d)
    host = super(CLIPUniversalTrainer, CLIPUniversalTrainer).get_training_transforms(*arguments).transforms
    ours = CLIPUniversalTrainer.get_training_transforms(*arguments, regions=[1, (1, 2)]).transforms
    names = [type(transform).__name__ for transform in host]
    place = names.index("SpatialTransform")
    assert [type(each).__name__ for each in ours] == [*names[:place], "LabelMapSpatialTransform", *names[place + 1 :]]
    assert str(vars(ours[place])) == str(vars(host[place]))
    assert isinstance(pickle.loads(pickle.dumps(ours[place])), LabelMapSpatialTransform), "workers that are spawned"


@pytest.mark.parametrize(
    "options",
    [{"mode_seg": "nearest"}, {"border_mode_seg": "border"}, {"align_corners": True}, {"seg_tiebreak": "lowest"}],
)
def test_other_settings_stay_nnunets(options):
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    host = transform((8, 8, 8), **options)
    assert with_fast_labels(ComposeTransforms([host])).transforms == [host] and type(host) is SpatialTransform
