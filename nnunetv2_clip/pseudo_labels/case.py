"""One case: from its truth and a model's probabilities to the completed label map."""

# Shapes: X Y Z voxels in the file's own axis order; probabilities lie in a box of them.

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.imaging.boxes import Box, inside, overlap
from nnunetv2_clip.inference.streaming import Probability
from nnunetv2_clip.labels import ClassMap, plain, unknown_in
from nnunetv2_clip.painting import paint, unpaint

LOWEST = 0.05  # a voxel with less is certainly not of the class


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

    0 where nothing is predicted and nothing is likely. Values of p below `LOWEST` count as 0. Where the
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
        known: classes whose truth is known in this case; none of them may be among `probabilities`. An incomplete
            class may: what was drawn of it stays.
        threshold: a voxel belongs to a class whose probability is above it.
        max_uncertainty: pairs above it stay unknown.
    """
    assert not set(known) & set(probabilities), case
    names = [row.name for row in taxonomy.subset(probabilities)]
    found, measured, contradicted = {}, {}, {}
    for name in names:
        seen = _predicted(name, labels, known, probabilities[name], taxonomy, threshold)
        found[name], measured[name], contradicted[name] = seen
    kept = [name for name in names if measured[name] <= max_uncertainty]
    _settle_conflicts({name: found[name] for name in kept if found[name]}, probabilities, taxonomy)
    for name in kept:
        if found[name]:
            box, mask = found[name]
            labels.add({name}, mask, box)
    complete_organs(labels, known, found, kept, taxonomy, spacing_mm)
    ml = float(np.prod(spacing_mm)) / 1000
    counts = labels.num_voxels()
    voxels = {name: counts[name] if name in kept else 0 for name in names}
    return [
        PairResult(case, name, voxels[name], voxels[name] * ml, measured[name], contradicted[name], name in kept)
        for name in names
    ]


def _predicted(
    name: str, labels: ClassMap, known: Collection[str], probability: Probability, taxonomy: Taxonomy, threshold: float
) -> tuple[tuple[Box, np.ndarray] | None, float, int]:
    """The mask in its box (None: nowhere), its uncertainty, and how many predicted voxels the truth rules out."""
    if probability.box is None:
        return None, 0.0, 0
    box = probability.box
    values = probability.values() * labels.where(lambda classes: True, box)  # voxels of the ignore label say nothing
    predicted = values > threshold
    possible = [
        value
        for value, classes in labels.sets.items()
        if classes is not None and taxonomy.can_be(name, plain(classes), frozenset(known) - unknown_in(classes))
    ]
    mask = predicted & labels.where_values(possible, box)
    dropped = int(np.count_nonzero(predicted) - np.count_nonzero(mask))
    return (box, mask) if mask.any() else None, uncertainty(values, mask), dropped


def _settle_conflicts(
    found: Mapping[str, tuple[Box, np.ndarray]], probabilities: Mapping[str, Probability], taxonomy: Taxonomy
) -> None:
    """Where two classes that exclude each other claim a voxel, take it from the less probable (in place)."""
    for first, second in combinations(found, 2):
        boxes = found[first][0], found[second][0]
        shared = overlap(*boxes)
        if shared is None or not taxonomy.exclude_each_other(first, second):
            continue
        here, there = (inside(shared, box) for box in boxes)
        both = found[first][1][here] & found[second][1][there]
        first_wins = probabilities[first].steps[here] >= probabilities[second].steps[there]
        found[first][1][here] &= ~(both & ~first_wins)
        found[second][1][there] &= ~(both & first_wins)


def complete_organs(
    labels: ClassMap,
    known: Iterable[str],
    predicted: dict[str, tuple[Box, np.ndarray] | None],
    kept: Iterable[str],
    taxonomy: Taxonomy,
    spacing_mm: Sequence[float],
) -> None:
    """Give the voxels of every sub-structure to the organ that holds it, where that organ is a pseudo label.

    Of several possible organs (a kidney tumour: right or left kidney) each component goes to the one that it touches
    most, else to the nearest (painting.unpaint). Organs whose truth is known stay as they are.

    Args:
        known: classes whose truth is known.
        predicted: class -> (box, mask in it) of every class that was predicted; None: nowhere.
        kept: the predicted classes that are pseudo labels of this case.
    """
    known, kept = frozenset(known), frozenset(kept)
    for row in reversed(taxonomy.painting_order()):
        open_parents = [parent for parent in row.parents if parent not in known]
        if not kept.intersection(open_parents) or not set(open_parents) <= set(predicted):
            continue
        own, parents = row.name, set(row.parents)
        stray = labels.where(lambda classes: own in classes and not parents & classes)  # noqa: B023
        if not stray.any():
            continue
        organs = {name: labels.mask(name) if name in kept else _whole(predicted[name], stray) for name in open_parents}
        painted = paint({**{name: mask & ~stray for name, mask in organs.items()}, own: stray}, taxonomy)
        shared = unpaint(painted, taxonomy, [own, *open_parents], spacing_mm)
        for parent in kept.intersection(open_parents):
            labels.add({parent}, shared.mask(parent) & stray)


def _whole(found: tuple[Box, np.ndarray] | None, like: np.ndarray) -> np.ndarray:
    mask = np.zeros(like.shape, bool)
    if found is not None:
        mask[found[0]] = found[1]
    return mask
