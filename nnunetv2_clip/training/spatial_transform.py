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
from torch.nn.functional import pad

SCORE = 1000  # nnU-Net keeps the sum of the weights of a label times this in half precision: near ties become ties
BORDER = 2  # voxels of padding: the outermost cells are all padding, and all points far outside count as theirs
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
    lowest = min(int(labels.min()), padding_label)
    few = max(int(labels.max()), padding_label) - lowest < _several(torch.uint8)
    compact = (labels - lowest).to(torch.uint8 if few else labels.dtype)  # a byte a voxel: less memory to go through
    padded = pad(compact, (BORDER, BORDER) * grid.shape[-1], value=padding_label - lowest)
    points = grid.reshape(-1, grid.shape[-1])
    result = _look_up(_labels_of_cells(padded), points)
    flat = result.view(-1)
    for several in (flat == _several(flat.dtype)).nonzero()[:, 0].split(CHUNK):
        channels = several.div(len(points), rounding_mode="floor")
        at = points.index_select(0, several - channels * len(points))
        flat[several] = _largest_sum(*_corners(padded, channels, at))
    return result.view(-1, *grid.shape[:-1]).to(labels.dtype).add_(lowest)


def _several(dtype: torch.dtype) -> int:
    """What stands for several labels in place of one."""
    return torch.iinfo(dtype).max


def _labels_of_cells(padded: Tensor) -> Tensor:
    """(C, *S + 3): the label of each cell between neighbouring voxels, or that its corners have several."""
    lowest = highest = padded
    for axis in range(1, padded.ndim):
        size = padded.shape[axis] - 1
        lowest = torch.minimum(lowest.narrow(axis, 0, size), lowest.narrow(axis, 1, size))
        highest = torch.maximum(highest.narrow(axis, 0, size), highest.narrow(axis, 1, size))
    return lowest.masked_fill_(lowest != highest, _several(lowest.dtype))


def _look_up(cells: Tensor, points: Tensor) -> Tensor:
    """(C, P): the cells at the points (P, D)."""
    result = torch.empty((len(cells), len(points)), dtype=cells.dtype)
    last = torch.tensor(cells.shape[:0:-1], dtype=torch.float32) - 1  # the grid names its axes in reverse
    strides = torch.tensor(cells.stride()[:0:-1], dtype=torch.float64)  # exact, and a product of matrices is fast
    last = last.repeat(CHUNK, 1)  # operands of equal shape: faster than broadcasting along three columns
    scale, centre = last / 2 - (BORDER - 1), last / 2
    for start in range(0, len(points), CHUNK):
        chunk = points[start : start + CHUNK]
        of = slice(len(chunk))
        cell = torch.addcmul(centre[of], chunk, scale[of]).round_().clamp_(min=0)
        index = (torch.minimum(cell, last[of], out=cell).double() @ strides).long()
        for channel, row in zip(cells, result, strict=True):
            torch.index_select(channel.view(-1), 0, index, out=row[start : start + CHUNK])
    return result


def _corners(padded: Tensor, channels: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cells of points (M, D): labels (N, M) and weights (N, M) of the corners, and which is nearest (1, M)."""
    sizes = torch.tensor(padded.shape[:0:-1], dtype=torch.float32).repeat(len(points), 1) - 2 * BORDER
    strides = torch.tensor(padded.stride()[:0:-1])
    position = ((points + 1) * sizes - 1) / 2  # in voxels of the label map, as nnU-Net's grid_sample has it
    first = position.floor()
    share = (position - first).T.contiguous()
    offsets, weights = torch.zeros(1, dtype=torch.long), torch.ones(1, 1)
    for stride, part in zip(strides, share, strict=True):
        offsets = torch.cat((offsets, offsets + stride))
        weights = torch.cat((weights * (1 - part), weights * part))
    index = ((first + BORDER).double() @ strides.double()).long() + channels * padded.stride(0)
    labels = padded.view(-1).index_select(0, (index + offsets[:, None]).view(-1)).view_as(weights)
    nearest = (position.round() - first) @ (2.0 ** torch.arange(len(strides)))
    return labels, weights, nearest.long()[None]


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
