"""The sums over voxels that the masked loss is made of, straight from logits and integer label maps.

Voxels are visited in chunks that stay in the cache: targets and probabilities exist for one chunk at a time. The
backward pass computes them again, so that nothing but the logits and the label map is kept.
"""

# Shapes: B cases, K classes, P pairs, p pairs of one case, V label values, N voxels, n voxels of a chunk.

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from nnunetv2_clip.labels import class_names, label_sets
from nnunetv2_clip.networks.pairs import Pairs

VALUES_PER_THREAD = 1 << 15  # logits of a chunk: five such maps fit into the cache of a core
VALUES_ELSEWHERE = 1 << 25
SMALLEST_CHUNK = 1024


class PairSums(NamedTuple):
    """Sums over the known voxels of each pair, (P,) each: x logit, t target (0 or 1), s sigmoid of x."""

    entropy: Tensor  # binary cross entropy, softplus(x) - t x
    overlap: Tensor  # s t
    probability: Tensor  # s
    target: Tensor  # t
    num_voxels: Tensor


def membership_table(labels: Mapping, unknown: Mapping[str, list[int]] | None = None) -> Tensor:
    """(V, K) bool from `labels` and `unknown` of a dataset.json: does label value v contain class k.

    The row of the ignore label is False.
    """
    names, sets = class_names(labels), label_sets(labels, unknown=unknown)
    table = torch.zeros(max(sets) + 1, len(names), dtype=torch.bool)
    for value, classes in sets.items():
        table[value] = torch.tensor([name in (classes or ()) for name in names])
    return table


def pair_sums(
    logits: Tensor,
    label_map: Tensor,
    pairs: Pairs,
    membership: Tensor,
    ignore: int | None = None,
    known: Tensor | None = None,
) -> PairSums:
    """The sums of each pair in at least single precision; those of x are differentiable.

    Args:
        logits: (P, *spatial), before the sigmoid.
        label_map: (B, 1, *spatial) integer label values.
        membership: (V, K) bool: does label value v contain class k.
        ignore: label value of voxels that are unknown for every class.
        known: (P, V) bool, the label values whose voxels are known for each pair; None: all but `ignore`.
    """
    counts = pairs.counts(len(label_map))
    exact = torch.promote_types(logits.dtype, torch.float32)
    targets = membership.t()[pairs.classes].to(exact)
    known = torch.ones(len(membership), dtype=exact, device=logits.device) if known is None else known.to(exact)
    if ignore is not None:
        known[..., ignore] = 0
    with torch.autocast(logits.device.type, enabled=False):
        return PairSums(*_Sums.apply(logits.flatten(1), label_map.flatten(1), counts, targets * known, known).unbind(1))


def _chunks(logits: Tensor, label_map: Tensor, counts: list[int], dtype: torch.dtype) -> Iterator[tuple]:
    """Case by case, chunk by chunk: rows of the case, voxels, logits (p, n) and label values (n) of the chunk."""
    first = 0
    for labels, count in zip(label_map, counts, strict=True):
        rows, first = slice(first, first + count), first + count
        size = _chunk_size(count, logits.device)
        for start in range(0, len(labels) if count else 0, size):
            part = slice(start, start + size)
            yield rows, part, logits[rows, part].to(dtype), labels[part].int()


def _chunk_size(num_pairs: int, device: torch.device) -> int:
    values = VALUES_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else VALUES_ELSEWHERE
    return max(values // max(num_pairs, 1), SMALLEST_CHUNK)


def _known_voxels(known: Tensor, rows: slice, labels: Tensor) -> Tensor:
    """(n,) from (V,), where all pairs know the same label values, or (p, n) from (P, V)."""
    return known.index_select(0, labels) if known.ndim == 1 else known[rows].index_select(1, labels)


def _sum_where(values: Tensor, valid: Tensor) -> Tensor:
    """(p, n) values, (n,) or (p, n) 0 or 1 -> (p,)."""
    return values @ valid if valid.ndim == 1 else (values * valid).sum(1)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, label_map: Tensor, counts: list[int], targets: Tensor, known: Tensor) -> Tensor:
        """(P, N) logits, (B, N) label values, pairs of each case, (P, V) and (V,) or (P, V) 0 or 1 -> (P, 5) sums."""
        ctx.save_for_backward(logits, label_map, targets, known)
        ctx.counts = counts
        sums = targets.new_zeros(len(logits), len(PairSums._fields))
        for rows, _, x, labels in _chunks(logits, label_map, counts, targets.dtype):
            s, t, valid = x.sigmoid(), targets[rows].index_select(1, labels), _known_voxels(known, rows, labels)
            columns = (
                _sum_where(softplus(x), valid) - (x * t).sum(1),
                (s * t).sum(1),
                _sum_where(s, valid),
                t.sum(1),
                valid.sum(-1).expand(len(x)),
            )
            sums[rows] += torch.stack(columns, dim=1)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sums: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, label_map, targets, known = ctx.saved_tensors
        entropy, overlap, probability = grad_sums[:, :3].split(1, dim=1)
        grad_s = overlap * targets + probability * known  # (P, V): of the sigmoid, in a voxel of this label value
        grad_t = entropy * targets
        grad_logits = torch.empty_like(logits)
        for rows, part, x, labels in _chunks(logits, label_map, ctx.counts, targets.dtype):
            s, grad = x.sigmoid(), grad_s[rows].index_select(1, labels)
            grad.addcmul_(grad, s, value=-1)  # ds / dx = s (1 - s), dsoftplus / dx = s
            grad.addcmul_(entropy[rows], _known_voxels(known, rows, labels)).mul_(s)
            grad_logits[rows, part] = grad.sub_(grad_t[rows].index_select(1, labels))
        return grad_logits, None, None, None, None
