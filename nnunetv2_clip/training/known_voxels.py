"""Which voxels are known of a class that a case annotates incompletely: those drawn, and those where it cannot be.

The drawn voxels are positive. Negative are those that the case itself rules out (`Taxonomy.can_be`): drawn classes that
exclude the class, and everything outside the organs that could hold it, where these are annotated. All others are
unknown: they give neither loss nor gradient. Pseudo labels rule out nothing: a model has guessed them.

A label value stands for a set of classes, so that a table of label values says it all: it costs what the ignore label
costs, whatever the shape of the unknown region.
"""

# Shapes: B cases, K classes, V label values, P pairs.

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.labels import ClassSet, class_names, label_sets
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.networks.pairs import Pairs


class KnownVoxels:
    """The tables of all cases that have incomplete classes.

    Args:
        labels: `labels` of the dataset.json.
    """

    def __init__(self, manifest: Manifest, labels: Mapping[str, int | list[int]]):
        classes, sets = class_names(labels), label_sets(labels)
        self._all = torch.ones(len(classes), max(sets) + 1, dtype=torch.bool)
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
        if self._tables.keys().isdisjoint(case_ids):
            return None
        return pairs.pick(torch.stack([self._tables.get(case_id, self._all) for case_id in case_ids]))


def known_values(
    case: CasePresence, classes: Sequence[str], sets: Mapping[int, ClassSet | None], taxonomy: Taxonomy
) -> Tensor:
    """(K, V) bool of one case; everything is known of a class that is not incomplete."""
    table = torch.ones(len(classes), max(sets) + 1, dtype=torch.bool)
    for name in case.incomplete:
        row = table[classes.index(name)]
        for value, members in sets.items():
            truth = case.drawn.intersection(members or ())
            row[value] = members is not None and (name in truth or not taxonomy.can_be(name, truth, case.known))
    return table
