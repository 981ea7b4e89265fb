"""Targets from label maps: class membership is looked up on the training device, one pair at a time."""

# Shapes: B cases, K classes, P pairs, V label values, N voxels.

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nnunetv2_clip.labels import class_names, label_sets
from nnunetv2_clip.networks.pairs import Pairs


def membership_table(labels: Mapping[str, int | list[int]]) -> Tensor:
    """(V, K) bool from the `labels` of a dataset.json: does label value v contain class k. The ignore row is False."""
    names, sets = class_names(labels), label_sets(labels)
    table = torch.zeros(max(sets) + 1, len(names), dtype=torch.bool)
    for value, classes in sets.items():
        table[value] = torch.tensor([name in (classes or ()) for name in names])
    return table


def pair_targets(label_map: Tensor, pairs: Pairs, membership: Tensor) -> Tensor:
    """(P, N) bool: is the voxel inside the class.

    Args:
        label_map: (B, 1, *spatial) integer label values.
        membership: (V, K) bool on the same device.
    """
    flat = label_map.flatten(1)
    counts = torch.bincount(pairs.cases, minlength=flat.shape[0]).tolist()
    parts = [
        membership[:, classes].t().index_select(1, flat[b].int())
        for b, classes in enumerate(pairs.classes.split(counts))
        if classes.numel() > 0
    ]
    return torch.cat(parts) if parts else torch.zeros(0, flat.shape[1], dtype=torch.bool, device=flat.device)


def pair_validity(label_map: Tensor, pairs: Pairs, ignore: int | None) -> Tensor | None:
    """(P, N) bool: is the voxel known (does not carry the ignore label); None where all voxels are known."""
    if ignore is None:
        return None
    return (label_map.flatten(1) != ignore)[pairs.cases]
