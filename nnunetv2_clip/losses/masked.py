"""The masked loss: binary cross entropy plus soft Dice over annotated (case, class) pairs, and over nothing else.

Source: paper, section 3.2 (masked back-propagation). The mask selects the pairs whose loss is computed at all: an
unannotated pair has no logits, hence exactly zero gradient.
"""

# Shapes: B cases, K classes, P pairs, N voxels.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import softplus

from nnunetv2_clip.losses.targets import pair_targets, pair_validity

SMOOTH = 1e-5  # nnU-Net's value


def pair_losses(logits: Tensor, target: Tensor, valid: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
    """The loss of each pair: mean binary cross entropy plus one minus soft Dice.

    Args:
        logits: (P, N), before the sigmoid.
        target: (P, N) bool.
        valid: (P, N) bool, voxels that count; None: all.
        classes: (P,) long: pairs of one class share one Dice over all their voxels (nnU-Net's batch_dice);
            None: every pair has its own Dice.

    Returns:
        (P,), at least single precision; 0 for a pair without a valid voxel.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probability = logits.sigmoid()
    entropy = softplus(logits) - logits * target
    if valid is None:
        num_voxels = torch.full_like(logits[:, 0], logits.shape[1])
    else:
        num_voxels = valid.sum(1).to(logits.dtype)
        entropy, probability, target = entropy * valid, probability * valid, target & valid
    overlap = (probability * target).sum(1)
    size = probability.sum(1) + target.sum(1)
    if classes is not None:
        overlap, size = _sum_per_class(overlap, classes), _sum_per_class(size, classes)
    dice = (2 * overlap + SMOOTH) / (size + SMOOTH).clamp_min(1e-8)
    losses = entropy.sum(1) / num_voxels.clamp_min(1) + 1 - dice
    return losses * (num_voxels > 0)


def _sum_per_class(values: Tensor, classes: Tensor) -> Tensor:
    """(P,) -> (P,): the sum over all pairs of the same class."""
    same = (classes[:, None] == classes[None, :]).to(values.dtype)
    return same @ values


class MaskedLoss(nn.Module):
    """Mean loss over annotated pairs, weighted over the deep supervision scales.

    Args:
        membership: (V, K) bool table of the dataset's label values.
        ignore: nnU-Net's ignore label or None.
        weights: one for each scale, the finest first.
        batch_dice: Dice over the batch instead of over each case.

    Under DDP the mean is over the pairs of all ranks: a rank without annotated pair neither hangs nor shifts it.
    """

    def __init__(self, membership: Tensor, ignore: int | None, weights: Sequence[float], batch_dice: bool = False):
        super().__init__()
        self.register_buffer("membership", membership, persistent=False)
        self.ignore, self.weights, self.batch_dice = ignore, tuple(weights), batch_dice

    def forward(self, logits: Sequence[Tensor], label_maps: Sequence[Tensor], pairs: Tensor) -> Tensor:
        """Scalar; 0 with zero gradient when nothing is annotated.

        Args:
            logits: for each scale (P, *spatial).
            label_maps: for each scale (B, 1, *spatial) integers.
            pairs: (P, 2) long, ascending by case.
        """
        scales = [
            self._scale(logit, label_map, pairs) * weight
            for logit, label_map, weight in zip(logits, label_maps, self.weights, strict=True)
        ]
        return torch.stack(scales).sum()

    def validity(self, label_map: Tensor, pairs: Tensor) -> Tensor | None:
        """(P, N) bool, the voxels that count for each pair; None: all."""
        return pair_validity(label_map, pairs, self.ignore)

    def _scale(self, logits: Tensor, label_map: Tensor, pairs: Tensor) -> Tensor:
        target = pair_targets(label_map, pairs, self.membership)
        valid = self.validity(label_map, pairs)
        losses = pair_losses(logits.flatten(1), target, valid, pairs[:, 1] if self.batch_dice else None)
        informative = losses.new_tensor(len(losses)) if valid is None else valid.any(1).sum().to(losses.dtype)
        return losses.sum() / _mean_over_ranks(informative).clamp_min(1 / world_size())


def _mean_over_ranks(count: Tensor) -> Tensor:
    """The number of pairs per rank: DDP averages gradients over ranks, so sums are divided by this mean."""
    if world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count = count / world_size()
    return count


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def deep_supervision_weights(num_scales: int) -> tuple[float, ...]:
    """Halved from scale to scale, nothing for the coarsest, sum 1 (nnU-Net's weights)."""
    if num_scales == 1:
        return (1.0,)
    raw = [0.5**scale for scale in range(num_scales - 1)] + [0.0]
    return tuple(weight / sum(raw) for weight in raw)
