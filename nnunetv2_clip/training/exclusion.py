"""What an annotated class tells about another one: a voxel of the spleen is no voxel of the liver.

With exclusion, a class that a case does not annotate is supervised in that case where it cannot be: in the voxels
of annotated classes that exclude it. All other voxels stay unknown for it.
"""

# Shapes: B cases, K classes, V label values, P pairs.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.losses.masked import MaskedLoss


def exclusive_classes(classes: Sequence[str], taxonomy: Taxonomy) -> Tensor:
    """(K, K) bool, symmetric: can no voxel belong to both classes.

    Two classes may overlap if one lies inside the other (liver, liver_tumor) or if both lie inside one organ
    (hepatic_vessel, liver_tumor); all other classes exclude each other.
    """
    organs = [taxonomy.ancestors(name) | {name} for name in classes]
    return torch.tensor([[own.isdisjoint(other) for other in organs] for own in organs])


class ExclusionLoss(MaskedLoss):
    """The masked loss on annotated pairs and, in their known voxels only, on unannotated ones.

    `pairs` has a third column here: (P, 3) with 1 for an annotated pair and 0 for an unannotated one.

    Args:
        exclusive: (K, K) of `exclusive_classes`.
        arguments: of `MaskedLoss`.
    """

    def __init__(self, exclusive: Tensor, membership: Tensor, *arguments):
        super().__init__(membership, *arguments)
        rules_out = membership.float() @ exclusive.to(membership.device).float() > 0
        self.register_buffer("rules_out", rules_out, persistent=False)  # (V, K): a voxel of value v is not of class k

    def known_values(self, pairs: Tensor) -> Tensor:
        """(P, V) bool: all of an annotated pair; those that rule the class out of an unannotated one."""
        return self.rules_out.t()[pairs[:, 1]] | (pairs[:, 2:] == 1)
