"""Which voxels are known of a class: all but those whose label value calls it unknown; of an incomplete class those
drawn, and those where it cannot be.

The drawn voxels of an incomplete class are positive. Negative are those that the case itself rules out
(`Taxonomy.can_be`): drawn classes that exclude the class, and everything outside the organs that could hold it, where
these are annotated. All others are unknown: they give neither loss nor gradient. Pseudo labels rule out nothing: a
model has guessed them.

A label value stands for a set of classes, so that a table of label values says it all: it costs what the ignore label
costs, whatever the shape of the unknown region.
"""

# Shapes: B cases, K classes, V label values, P pairs.

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.labels import ClassSet, class_names, label_sets, unknown_in
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.networks.pairs import Pairs


class KnownVoxels:
    """The tables of all cases that have incomplete classes, and that of all others.

    Args:
        labels, unknown: of the dataset.json.
    """

    def __init__(self, manifest: Manifest, labels: Mapping, unknown: Mapping[str, list[int]] | None = None):
        classes, sets = class_names(labels), label_sets(labels, unknown=unknown)
        self._others = known_values(CasePresence("", ()), classes, sets, manifest.taxonomy)
        self._has_unknown = bool(unknown)
        tables: dict[tuple, Tensor] = {}  # many cases are alike
        self._tables: dict[str, Tensor] = {}
        for case_id, case in manifest.cases.items():
            if case.incomplete:
                state = (case.annotated, case.absent, case.incomplete)
                if state not in tables:
                    tables[state] = known_values(case, classes, sets, manifest.taxonomy)
                self._tables[case_id] = tables[state]

    def of(self, case_ids: Sequence[str], pairs: Pairs) -> Tensor | None:
        """(P, V) bool on the device, the label values whose voxels are known for each pair; None: all."""
        if not self._has_unknown and self._tables.keys().isdisjoint(case_ids):
            return None
        return pairs.pick(torch.stack([self._tables.get(case_id, self._others) for case_id in case_ids]))


def known_values(
    case: CasePresence, classes: Sequence[str], sets: Mapping[int, ClassSet | None], taxonomy: Taxonomy
) -> Tensor:
    """(K, V) bool of one case."""
    table = torch.ones(len(classes), max(sets) + 1, dtype=torch.bool)
    for value, members in sets.items():
        unknown = frozenset(classes) if members is None else unknown_in(members)
        truth, known = case.drawn.intersection(members or ()), case.known - unknown
        for k, name in enumerate(classes):
            if name not in case.incomplete:
                table[k, value] = name not in unknown
            elif members is None:
                table[k, value] = False
            else:
                table[k, value] = name in truth or not taxonomy.can_be(name, truth, known)
    return table
