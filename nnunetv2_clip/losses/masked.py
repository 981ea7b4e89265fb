"""The masked loss: binary cross entropy plus soft Dice over annotated (case, class) pairs, and over nothing else.

Source: paper, section 3.2 (masked back-propagation). The mask selects the pairs whose loss is computed at all: an
unannotated pair has no logits, hence exactly zero gradient.

Dice counts only where the class is present. Against an empty reference it is no measure but a trap: with nnU-Net's
smoothing it costs 1 whatever is predicted, until the sum of all probabilities is below the smoothing; there it drops
to 0. So every patch without the class pays for a channel that is empty to the last voxel, and a class that is absent
from many cases dies: its channel becomes empty in all cases, from where its gradient does not bring it back (docs/
evidence.md). Where a class is absent, cross entropy alone says so.
"""

# Shapes: B cases, K classes, P pairs.

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nnunetv2_clip.losses.pair_sums import PairSums, pair_sums
from nnunetv2_clip.networks.pairs import Pairs

SMOOTH = 1e-5  # nnU-Net's value


class DiceSums(NamedTuple):
    """The sums whose Dice counts for each pair, (P,) each: the pair's own, or those of its class over the batch."""

    overlap: Tensor
    probability: Tensor
    target: Tensor


def pair_losses(sums: PairSums, dice_sums: DiceSums) -> Tensor:
    """The loss of each pair, (P,): mean binary cross entropy, plus one minus soft Dice where the class is present.

    0 without a known voxel.
    """
    overlap, probability, target = dice_sums
    dice = (2 * overlap + SMOOTH) / (probability + target + SMOOTH)
    losses = sums.entropy / sums.num_voxels.clamp_min(1) + (1 - dice) * (target > 0)
    return losses * (sums.num_voxels > 0)


class Losses(NamedTuple):
    """What `MaskedLoss.of_pairs` gives.

    Attributes:
        mean: scalar, to be minimised.
        per_pair: (P,) detached, weighted over the scales; 0 for a pair without a known voxel.
        is_known: (P,) bool, the pair has a known voxel at the finest scale.
        probability, target: (P,) detached, sums over the voxels of the finest scale: predicted and annotated.
    """

    mean: Tensor
    per_pair: Tensor
    is_known: Tensor
    probability: Tensor
    target: Tensor


class MaskedLoss(nn.Module):
    """Mean loss over supervised pairs, weighted over the deep supervision scales.

    Args:
        membership: (V, K) bool table of the dataset's label values.
        ignore: nnU-Net's ignore label or None.
        weights: one for each scale, the finest first.
        batch_dice: Dice over the batch instead of over each case.

    Under DDP the mean is over the pairs of all ranks: a rank without supervised pair neither hangs nor shifts it.
    With weights of pairs (pseudo labels) it is sum(w l) / sum(w); the Dice over a batch weights its sums alike.
    """

    membership: Tensor

    def __init__(self, membership: Tensor, ignore: int | None, weights: Sequence[float], batch_dice: bool = False):
        super().__init__()
        self.register_buffer("membership", membership, persistent=False)
        self.ignore, self.weights, self.batch_dice = ignore, tuple(weights), batch_dice

    def forward(self, logits: Sequence[Tensor], label_maps: Sequence[Tensor], pairs: Pairs) -> Tensor:
        """Scalar; 0 with zero gradient when nothing is supervised.

        Args:
            logits: for each scale (P, *spatial).
            label_maps: for each scale (B, 1, *spatial) integers.
        """
        return self.of_pairs(logits, label_maps, pairs).mean

    def of_pairs(self, logits: Sequence[Tensor], label_maps: Sequence[Tensor], pairs: Pairs) -> Losses:
        """As `forward`, and the loss of each pair, for the log."""
        known = self.known_values(pairs)
        sums = [
            pair_sums(logit, label_map, pairs, self.membership, self.ignore, known)
            for logit, label_map in zip(logits, label_maps, strict=True)
        ]
        dice_sums = self._dice_sums(sums, pairs)
        losses = [self._pair_losses(scale, dice, pairs) for scale, dice in zip(sums, dice_sums, strict=True)]
        means = self._means(losses, [scale.num_voxels > 0 for scale in sums], pairs)
        per_pair = self._over_scales([loss.detach() for loss in losses])
        finest = sums[0]
        voxels = finest.probability.detach(), finest.target.detach()
        return Losses(self._over_scales(means), per_pair, finest.num_voxels > 0, *voxels)

    def _over_scales(self, values: Iterable[Tensor]) -> Tensor:
        """The weighted sum. The weights stay numbers: a tensor of them would have to be sent to the device."""
        return torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum(0)

    def _pair_losses(self, sums: PairSums, dice_sums: DiceSums, pairs: Pairs) -> Tensor:
        """(P,) of one scale."""
        return pair_losses(sums, dice_sums)

    def _means(self, losses: list[Tensor], known: list[Tensor], pairs: Pairs) -> Tensor:
        """(scales,) the mean over pairs, times the share of this rank: DDP averages gradients over ranks."""
        if pairs.weights is None:
            informative = torch.stack([flags.sum() for flags in known]).to(losses[0].dtype)
            pairs_per_rank = _sum_over_ranks(informative) / world_size()
            return torch.stack([loss.sum() for loss in losses]) / pairs_per_rank.clamp_min(1 / world_size())
        weights = pairs.weights.to(losses[0].dtype)
        per_rank = _sum_over_ranks(torch.stack([(weights * flags).sum() for flags in known])) / world_size()
        weighted = torch.stack([(weights * loss).sum() for loss in losses])
        return weighted / torch.where(per_rank > 0, per_rank, torch.ones_like(per_rank))

    def known_values(self, pairs: Pairs) -> Tensor | None:
        """(P, V) bool, the label values whose voxels count for each pair; None: all (but the ignore label)."""
        return pairs.known

    def _dice_sums(self, sums: list[PairSums], pairs: Pairs) -> list[DiceSums]:
        """For each scale."""
        own = [DiceSums(scale.overlap, scale.probability, scale.target) for scale in sums]
        if not self.batch_dice:
            return own
        per_pair = torch.stack([torch.stack(scale) for scale in own])  # (scales, 3, P)
        if pairs.weights is not None:
            per_pair = per_pair * pairs.weights.to(per_pair.dtype)
        per_class = sums_of_classes(per_pair, pairs.classes, self.membership.shape[1])
        # All scales in one exchange: every rank takes part in it once, forward and backward, with or without pairs.
        shared = _sum_over_ranks(per_class)[:, :, pairs.classes]
        return [DiceSums(*scale) for scale in shared]


def sums_of_classes(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """(..., P) values of pairs -> (..., K) their sums. Without atomics, unlike `index_add`: repeatable on a GPU."""
    own = classes == torch.arange(num_classes, device=classes.device)[:, None]
    return torch.where(own, values[..., None, :], 0).sum(-1)


def _sum_over_ranks(values: Tensor) -> Tensor:
    return _SumOverRanks.apply(values) if world_size() > 1 else values


class _SumOverRanks(torch.autograd.Function):
    """The sum over all processes; every process's loss depends on it, so their gradients are summed as well."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def deep_supervision_weights(num_scales: int) -> tuple[float, ...]:
    """Halved from scale to scale, nothing for the coarsest, sum 1 (nnU-Net's weights)."""
    if num_scales == 1:
        return (1.0,)
    raw = [0.5**scale for scale in range(num_scales - 1)] + [0.0]
    return tuple(weight / sum(raw) for weight in raw)
