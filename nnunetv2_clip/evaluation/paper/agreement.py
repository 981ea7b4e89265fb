"""Agreement between any number of label sources (readers, models) on the same cases (paper, Figure 4)."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.folders import Side
from nnunetv2_clip.evaluation.results import Evaluation, Statistic, plus_minus
from nnunetv2_clip.evaluation.study import evaluate
from nnunetv2_clip.evaluation.tables import MISSING, Table
from nnunetv2_clip.manifest import Manifest

Agreement = dict[str, Evaluation]  # "first - second" -> Dice of every common case and class


def reader_agreement(
    sources: Mapping[str, Side], taxonomy: Taxonomy, manifest: Manifest | None = None, num_processes: int = 1
) -> Agreement:
    """Dice between every two sources, over the cases that all sources have and the classes that both know.

    Raises:
        UserError: fewer than two sources, or no common case.
    """
    if len(sources) < 2:
        raise UserError("agreement", f"{len(sources)} label source", "two or more", "name another one")
    common = set.intersection(*(set(side.files) for side in sources.values()))
    if not common:
        folders = ", ".join(str(side.folder) for side in sources.values())
        raise UserError("agreement", f"no case stands in all of {folders}", "files of the same names")
    kept = {
        name: replace(side, files={case: side.files[case] for case in sorted(common)}) for name, side in sources.items()
    }
    return {
        f"{first} - {second}": evaluate(kept[first], kept[second], taxonomy, manifest, num_processes=num_processes)
        for first, second in itertools.combinations(kept, 2)
    }


def summarise_agreement(found: Agreement) -> dict[str, dict[str, Statistic]]:
    """Class -> pair of sources -> statistic of Dice, classes in painting order."""
    table: dict[str, dict[str, Statistic]] = {}
    order = next(iter(found.values())).class_order
    per_pair = {pair: evaluation.summarise(evaluation.complete_pairs) for pair, evaluation in found.items()}
    for name in order:
        row = {pair: classes[name]["Dice"] for pair, classes in per_pair.items() if name in classes}
        if any(statistic.n for statistic in row.values()):
            table[name] = row
    return table


def agreement_table(found: Agreement) -> Table:
    """Mean ± standard deviation of Dice over cases and their number, per class and pair of sources."""
    rows = []
    for name, row in summarise_agreement(found).items():
        known = {pair: statistic for pair, statistic in row.items() if statistic.n}
        cells = (f"{plus_minus(known[pair])} ({known[pair].n})" if pair in known else MISSING for pair in found)
        rows.append((name, *cells))
    note = "Dice, mean ± standard deviation over the cases in which one of the two sources has the class; then n."
    return Table("Agreement", ("Class", *found), tuple(rows), note)
