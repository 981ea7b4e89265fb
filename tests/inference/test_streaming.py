"""Streaming export: the masks of nnU-Net's own export, whatever the slabs, the shapes and the orientation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from scipy import ndimage

from nnunetv2_clip.inference.masks import Placement
from nnunetv2_clip.inference.resampling import AxisMap, axis_maps
from nnunetv2_clip.inference.streaming import StreamingExport, logit, positive_box

NAMES = ("spleen", "liver", "aorta")


def smooth_logits(shape, seed=0) -> torch.Tensor:
    """(3, *shape): blobs; the second class is nowhere positive."""
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in NAMES]).astype(np.float32)
    fields[1] = -np.abs(fields[1]) - 0.01
    return torch.from_numpy(20 * fields)


def identity(shape) -> Placement:
    return Placement(tuple(shape), (0, 1, 2), (False, False, False), (0, 0, 0))


def export(logits, maps, slab, **options) -> dict[str, np.ndarray]:
    streaming = StreamingExport(NAMES, maps, **options)
    for rows in logits.split(slab, dim=1):
        streaming.push(rows)
    return {name: mask.full(bool) for name, mask in streaming.finish(identity(streaming.out_shape)).items()}


@pytest.mark.parametrize("slab", [1, 3, 8, 64])
@pytest.mark.parametrize(
    ("in_shape", "out_shape", "spacings"),
    [
        ((12, 14, 16), (31, 29, 40), ((1, 1, 1), (1, 1, 1))),  # up
        ((20, 14, 16), (9, 6, 40), ((1, 1, 1), (1, 1, 1))),  # down along two axes
        ((12, 14, 16), (12, 14, 16), ((1, 1, 1), (1, 1, 1))),  # the same grid
        ((12, 14, 16), (25, 30, 31), ((5, 1, 1), (5, 1, 1))),  # thick slices: nearest between them
        ((12, 14, 16), (5, 30, 31), ((1, 1, 1), (1, 1, 5))),  # thick along the last axis
    ],
)
def test_masks_are_those_of_nnunets_torch_resampling(in_shape, out_shape, spacings, slab):
    logits = smooth_logits(in_shape)
    expected = resample_torch_fornnunet(logits, out_shape, *spacings) > 0
    found = export(logits, axis_maps(in_shape, out_shape, *spacings), slab)
    assert expected[0].any() and not expected[1].any()
    for k, name in enumerate(NAMES):
        assert np.count_nonzero(found[name] != expected[k].numpy()) <= 1  # rounding may decide a voxel at zero


def test_a_threshold_moves_the_mask_and_never_loses_a_voxel_to_the_crop():
    logits = smooth_logits((12, 14, 16))
    maps = axis_maps((12, 14, 16), (30, 30, 30), (1, 1, 1), (1, 1, 1))
    resampled = resample_torch_fornnunet(logits, (30, 30, 30), (1, 1, 1), (1, 1, 1))
    found = export(logits, maps, 4, thresholds={"spleen": 0.2, "liver": 0.45, "aorta": 0.9})
    for k, (name, probability) in enumerate((("spleen", 0.2), ("liver", 0.45), ("aorta", 0.9))):
        assert np.count_nonzero(found[name] != (resampled[k] > logit(probability)).numpy()) <= 1


def test_probabilities_are_exact_to_half_a_step():
    """On a grid where resampling is exact in single precision, so that the bound holds on every processor.

    Logits are multiples of 1/64 below 64 (12 bits). Doubled and halved axes have the weights 1/4, 1/2 and 3/4, two bits
    for each axis: 18 of the 24 bits of a float. What remains, with u = 2^-24, the relative error of one rounding: the
    sigmoid 1 / (1 + e^-x) is off by 4 u at most (2 u for e^-x, which is exact to its last digit; sum; quotient), its
    product with the number of steps by one u more, and rounding to a step by half a step.
    """
    logits = (smooth_logits((12, 14, 16)) * 4 * 64).round() / 64  # some below the logit that still makes a step
    assert logits.abs().max() < 64
    out_shape = (24, 7, 32)
    streaming = StreamingExport(
        NAMES, axis_maps((12, 14, 16), out_shape, (1, 1, 1), (1, 1, 1)), probabilities=("aorta",)
    )
    for rows in logits.split(5, dim=1):
        streaming.push(rows)
    resampled = resample_torch_fornnunet(logits[2:], out_shape, (1, 1, 1), (1, 1, 1))[0]
    exact = torch.nn.functional.interpolate(logits[None, 2:].double(), out_shape, mode="trilinear")[0, 0]
    assert torch.equal(resampled.double(), exact), "not a bit is lost before the sigmoid"
    step, u = 1 / 65535, 2**-24
    found = streaming.finish_probabilities(identity(out_shape))
    assert np.abs(found["aorta"].full(out_shape) * step - exact.sigmoid().numpy()).max() < step / 2 + 5 * u
    assert set(found) == {"aorta"}


def test_one_voxel_reaches_its_neighbours_only():
    one = AxisMap.linear(4, 8)  # centres at -0.25, 0.25, 0.75, ...: clamped at the rim
    assert one.low.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert one.weight.tolist() == [0, 0.25, 0.75, 0.25, 0.75, 0.25, 0.75, 0.25]
    assert one.readers(1, 1) == slice(0, 5)  # position 0 mixes with weight 0
    assert one.inputs(slice(1, 5)) == slice(0, 3)


def test_the_box_holds_every_voxel_above_the_bound():
    values = torch.full((5, 6, 7), -1.0)
    assert positive_box(values, 0) is None
    values[1, 2, 3] = values[3, 2, 5] = 1
    assert positive_box(values, 0) == (slice(1, 4), slice(2, 3), slice(3, 6))


def test_voxels_return_to_the_axes_of_the_file():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # as the file stores it
    seen = np.flip(volume, 1).transpose(2, 0, 1)[1:]  # axis 1 turned, axes moved, one row cropped
    placement = Placement((2, 3, 4), (2, 0, 1), (False, False, True), (1, 0, 0))
    box = (slice(0, 2), slice(1, 2), slice(0, 2))
    assert (placement.voxels_in_file(seen[box]) == volume[placement.box_in_file(box)]).all()
