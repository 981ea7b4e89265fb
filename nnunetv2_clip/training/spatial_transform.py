"""nnU-Net's spatial transform of a label map at a cost that does not grow with the number of label values.

nnU-Net (batchgeneratorsv2 0.3.6) resamples the indicator of every label value by itself and takes the largest. Only the
labels at the corners of a point's cell can win, eight in 3-D, four in 2-D; where all corners agree there is one.
"""

# Shapes: C channels, S voxels of the label map, P points of the patch in D = 2 or 3 dimensions; M points in cells with
# several labels, N = 2^D corners of a cell.

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor
from torch.nn.functional import grid_sample, pad

SCORE = 1000  # nnU-Net keeps the sum of the weights of a label times this in half precision: near ties become ties
CHUNK = 2**14  # points at once, so that their corners stay in the cache


def with_fast_labels(transforms: BasicTransform) -> BasicTransform:
    """The same augmentation; where nnU-Net's spatial transform has the settings of its trainer, ours in its place."""
    if isinstance(transforms, ComposeTransforms):
        transforms.transforms = [_fast(transform) for transform in transforms.transforms]
    return transforms


def _fast(transform: BasicTransform) -> BasicTransform:
    if type(transform) is not SpatialTransform or not _is_linear_with_constant_border(transform):
        return transform
    ours = LabelMapSpatialTransform.__new__(LabelMapSpatialTransform)  # takes the settings, however they were made
    vars(ours).update(vars(transform))
    return ours


def _is_linear_with_constant_border(transform: SpatialTransform) -> bool:
    return (
        transform.mode_seg == "bilinear"
        and transform.border_mode_seg in ("zeros", "constant")
        and not transform.align_corners
        and getattr(transform, "seg_tiebreak", "nearest") == "nearest"
    )


class LabelMapSpatialTransform(SpatialTransform):
    """Draws the labels that nnU-Net's draws, but where the sums of two labels are equal up to rounding."""

    def _apply_to_segmentation(self, segmentation: Tensor, **params) -> Tensor:
        if params["grid"] is None:  # a crop, nothing to resample
            return super()._apply_to_segmentation(segmentation, **params)
        padding_label = self.padding_value_seg if self.border_mode_seg == "constant" else 0
        return resample_labels(segmentation, params["grid"], int(padding_label))


def resample_labels(labels: Tensor, grid: Tensor, padding_label: int) -> Tensor:
    """The label with the largest sum of linear interpolation weights at each point.

    Args:
        labels: (C, *S) integers.
        grid: (*P, D) in the coordinates of `grid_sample` without `align_corners`.
        padding_label: of all voxels outside.

    Returns:
        (C, *P) of the type of `labels`. Of equal sums wins the nearest voxel's label, else the lowest label.
    """
    padded = pad(labels, (1, 1) * grid.shape[-1], value=padding_label)
    # Cells are one more than voxels along each axis, and reach from -1 to 1 as `align_corners` has it.
    cells = _labels_of_cells(padded).sub_(padding_label)
    found = grid_sample(cells[None], grid[None], mode="nearest", padding_mode="zeros", align_corners=True)[0]
    result = found.add_(padding_label).to(labels.dtype)
    flat, points = result.view(-1), grid.reshape(-1, grid.shape[-1])
    for several in found.view(-1).isnan().nonzero()[:, 0].split(CHUNK):
        channels = several.div(len(points), rounding_mode="floor")
        at = points.index_select(0, several - channels * len(points))
        flat[several] = _largest_sum(*_corners(padded, channels, at))
    return result


def _labels_of_cells(padded: Tensor) -> Tensor:
    """(C, *S + 1) float: the label of a cell between neighbouring voxels; NaN where its corners have several."""
    lowest = highest = padded
    for axis in range(1, padded.ndim):
        size = padded.shape[axis] - 1
        lowest = torch.minimum(lowest.narrow(axis, 0, size), lowest.narrow(axis, 1, size))
        highest = torch.maximum(highest.narrow(axis, 0, size), highest.narrow(axis, 1, size))
    return lowest.float().masked_fill_(lowest != highest, torch.nan)


def _corners(padded: Tensor, channels: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cells of points (M, D): labels (N, M) and weights (N, M) of the corners, and which is nearest (1, M)."""
    dimensions = points.shape[1]
    strides = torch.tensor(padded.stride())[:, None]
    sizes = torch.tensor(padded.shape[1:])[:, None] - 2
    # Voxels of the label map, as grid_sample counts them; the grid names its axes in reverse.
    position = ((points.T.flip(0) + 1) * sizes - 1) / 2
    first = position.floor()
    share = position - first
    shares = torch.stack((1 - share, share))
    offsets, weights = torch.zeros(1, dtype=torch.long), torch.ones(1, 1)
    for axis in range(dimensions):
        offsets = torch.cat((offsets, offsets + strides[1 + axis]))
        weights = (shares[:, None, axis] * weights).flatten(0, 1)
    index = channels * strides[0] + ((first.long() + 1) * strides[1:]).sum(0)
    index.clamp_(0, padded.numel() - 1 - int(offsets[-1]))  # rounding may cross the border of the outermost cells
    labels = padded.view(-1).index_select(0, (index + offsets[:, None]).view(-1)).view_as(weights)
    bits = 2 ** torch.arange(dimensions)[:, None]
    return labels, weights, ((position.round() > first) * bits).sum(0, keepdim=True)


def _largest_sum(labels: Tensor, weights: Tensor, nearest: Tensor) -> Tensor:
    """(M,) label whose corners have the largest sum of weights: mostly the nearest corner's, which has over half."""
    result = labels.gather(0, nearest)[0]
    unsure = (_score(labels, weights, result) <= SCORE / 2).nonzero()[:, 0]
    labels, weights, nearest = (values.index_select(1, unsure) for values in (labels, weights, nearest))
    scores = torch.stack([_score(labels, weights, label) for label in labels])
    tied = scores == scores.amax(0)
    lowest = labels.masked_fill(~tied, torch.iinfo(labels.dtype).max).amin(0)
    result[unsure] = torch.where(tied.gather(0, nearest)[0], result[unsure], lowest)
    return result


def _score(labels: Tensor, weights: Tensor, label: Tensor) -> Tensor:
    """(M,) sum of the weights (N, M) of the corners that have the label (M,), in nnU-Net's precision."""
    return torch.eq(labels, label, out=torch.empty_like(weights)).mul_(weights).sum(0).mul_(SCORE).half()
