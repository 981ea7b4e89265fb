"""One case: from its truth and a model's probabilities to the completed label map."""

# Shapes: X Y Z voxels in the file's own axis order; probabilities lie in a box of them.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.inference.masks import Box
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.pseudo_labels.consistency import can_hold, complete_organs
from nnunetv2_clip.pseudo_labels.probabilities import Probability


@dataclass(frozen=True)
class PairResult:
    """What became of one class in one case.

    Attributes:
        voxels: of the pseudo label; 0 where the class is not kept, or is found nowhere.
        ml: their volume.
        uncertainty: 0 (sure) to 1, see `uncertainty`.
        contradicted: predicted voxels that the truth rules out.
        is_kept: else the class stays unknown in this case.
    """

    case: str
    name: str
    voxels: int
    ml: float
    uncertainty: float
    contradicted: int
    is_kept: bool


def uncertainty(probability: np.ndarray, mask: np.ndarray) -> float:
    """1 - 2 sum(p m) / (sum(p) + sum(m)): one minus the Dice that the model itself expects of its mask.

    0 where nothing is predicted and nothing is likely. Values of p below `probabilities.LOWEST` count as 0. Where the
    truth rules out what is likely, m is 0 and p is not: contradictions make a pair uncertain.
    """
    total = float(probability.sum(dtype=np.float64)) + int(np.count_nonzero(mask))
    return 1 - 2 * float(probability[mask].sum(dtype=np.float64)) / total if total else 0.0


def complete_case(
    case: str,
    labels: ClassMap,
    known: Collection[str],
    probabilities: Mapping[str, Probability],
    taxonomy: Taxonomy,
    spacing_mm: Sequence[float],
    threshold: float,
    max_uncertainty: float,
) -> list[PairResult]:
    """Add the pseudo labels of a case to its labels, which hold the truth when they come in.

    A voxel keeps every class that is annotated in it. Predicted voxels that contradict the truth are dropped; of two
    pseudo labels that exclude each other in a voxel the more probable one stays.

    Args:
        known: classes whose truth is known in this case; none of them may be among `probabilities`.
        threshold: a voxel belongs to a class whose probability is above it.
        max_uncertainty: pairs above it stay unknown.
    """
    assert not set(known) & set(probabilities), case
    names = [row.name for row in taxonomy.subset(probabilities)]
    found, measured, contradicted = {}, {}, {}
    for name in names:
        found[name], measured[name], contradicted[name] = _predicted(
            name, labels, known, probabilities[name], taxonomy, threshold
        )
    kept = [name for name in names if measured[name] <= max_uncertainty]
    _settle_conflicts({name: found[name] for name in kept if found[name]}, probabilities, taxonomy)
    for name in kept:
        if found[name]:
            box, mask = found[name]
            labels.add({name}, mask, box)
    complete_organs(labels, known, found, kept, taxonomy, spacing_mm)
    ml = float(np.prod(spacing_mm)) / 1000
    results, counts = [], labels.num_voxels()
    for name in names:
        voxels = counts[name] if name in kept else 0
        results.append(
            PairResult(case, name, voxels, voxels * ml, measured[name], contradicted[name], is_kept=name in kept)
        )
    return results


def _predicted(
    name: str,
    labels: ClassMap,
    known: Collection[str],
    probability: Probability,
    taxonomy: Taxonomy,
    threshold: float,
) -> tuple[tuple[Box, np.ndarray] | None, float, int]:
    """The mask in its box (None: nowhere), its uncertainty, and how many predicted voxels the truth rules out."""
    if probability.box is None:
        return None, 0.0, 0
    box = probability.box
    values = probability.values() * labels.where(lambda classes: True, box)  # voxels of the ignore label say nothing
    predicted = values > threshold
    mask = predicted & labels.where(lambda classes: can_hold(name, classes, known, taxonomy), box)
    dropped = int(np.count_nonzero(predicted) - np.count_nonzero(mask))
    return (box, mask) if mask.any() else None, uncertainty(values, mask), dropped


def _settle_conflicts(
    found: Mapping[str, tuple[Box, np.ndarray]], probabilities: Mapping[str, Probability], taxonomy: Taxonomy
) -> None:
    """Where two classes that exclude each other claim a voxel, take it from the less probable (in place)."""
    for first, second in combinations(found, 2):
        boxes = found[first][0], found[second][0]
        shared = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
        if any(part.stop <= part.start for part in shared) or not taxonomy.exclude_each_other(first, second):
            continue
        inside = [
            tuple(slice(s.start - own.start, s.stop - own.start) for s, own in zip(shared, box, strict=True))
            for box in boxes
        ]
        both = found[first][1][inside[0]] & found[second][1][inside[1]]
        first_wins = probabilities[first].steps[inside[0]] >= probabilities[second].steps[inside[1]]
        found[first][1][inside[0]] &= ~(both & ~first_wins)
        found[second][1][inside[1]] &= ~(both & first_wins)
