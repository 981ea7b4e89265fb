"""What an annotated class tells about another one: a voxel of the spleen is no voxel of the liver.

With exclusion, a class that a case does not annotate is supervised in that case where it cannot be: in the voxels
of annotated classes that exclude it. All other voxels stay unknown for it.
"""

# Shapes: B cases, K classes, V label values, P pairs.

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.losses.masked import DiceSums, MaskedLoss, pair_losses
from nnunetv2_clip.losses.pair_sums import PairSums
from nnunetv2_clip.networks.pairs import Pairs


def exclusive_classes(classes: Sequence[str], taxonomy: Taxonomy) -> Tensor:
    """(K, K) bool, symmetric: can no voxel belong to both classes.

    Two classes may overlap if one lies inside the other (liver, liver_tumor) or if both lie inside one organ
    (hepatic_vessel, liver_tumor); all other classes exclude each other.
    """
    return torch.tensor([[taxonomy.exclude_each_other(own, other) for other in classes] for own in classes])


class ExclusionLoss(MaskedLoss):
    """The masked loss on annotated pairs, plus the mean cross entropy of unannotated ones in their known voxels.

    The two means stand side by side, so that the annotated pairs give the gradient that they give without exclusion,
    however many classes are unannotated. The known voxels of an unannotated pair are all negative: they have no Dice.

    Args:
        exclusive: (K, K) of `exclusive_classes`.
        arguments: of `MaskedLoss`.
    """

    rules_out: Tensor

    def __init__(self, exclusive: Tensor, membership: Tensor, *arguments):
        super().__init__(membership, *arguments)
        rules_out = membership.float() @ exclusive.to(membership.device).float() > 0
        self.register_buffer("rules_out", rules_out, persistent=False)  # (V, K): a voxel of value v is not of class k

    def known_values(self, pairs: Pairs) -> Tensor:
        """(P, V) bool: what is known of an annotated pair; what rules the class out of an unannotated one."""
        annotated = _annotated(pairs)[:, None]
        return torch.where(annotated, True if pairs.known is None else pairs.known, self.rules_out.t()[pairs.classes])

    def _pair_losses(self, sums: PairSums, dice_sums: DiceSums, pairs: Pairs) -> Tensor:
        entropy = sums.entropy / sums.num_voxels.clamp_min(1)
        return torch.where(_annotated(pairs), pair_losses(sums, dice_sums), entropy)

    def _means(self, losses: list[Tensor], known: list[Tensor], pairs: Pairs) -> Tensor:
        means = []
        for group in (_annotated(pairs), ~_annotated(pairs)):
            means.append(super()._means([loss * group for loss in losses], [flags & group for flags in known], pairs))
        return means[0] + means[1]

    def _dice_sums(self, sums: list[PairSums], pairs: Pairs) -> list[DiceSums]:
        return super()._dice_sums(sums, replace(pairs, weights=_annotated(pairs)))  # over a batch: of the annotated


def _annotated(pairs: Pairs) -> Tensor:
    """(P,) bool."""
    return torch.ones_like(pairs.cases, dtype=torch.bool) if pairs.annotated is None else pairs.annotated
