"""Five folds, stratified by source dataset, in which the scans of one patient always stand on the same side."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunetv2_clip.files import write_json
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import CasePresence, Manifest

SPLITS_FILE = "splits_final.json"
NUM_FOLDS = 5


def make_splits(cases: Mapping[str, CasePresence], num_folds: int = NUM_FOLDS) -> list[dict[str, list[str]]]:
    """Folds as nnU-Net reads them: [{"train": [...], "val": [...]}, ...].

    The cases of a group (copies of a scan, scans of a patient) move together. A dataset of a single group stays in
    training in every fold, and so does a group of which nothing is known that could be validated. With fewer groups
    than folds, folds repeat, so that no validation set is empty. The result depends on the cases only, not on their
    order.

    Returns:
        `num_folds` folds, or an empty list when all cases are one group and nothing can be held out.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for case_id, case in cases.items():
        groups[case.group or case_id].append(case_id)
    if len(groups) < 2:
        return []
    datasets = {group: frozenset(cases[case_id].dataset for case_id in members) for group, members in groups.items()}
    num_groups = Counter(name for names in datasets.values() for name in names)
    known = [group for group, members in groups.items() if any(cases[case_id].supervised for case_id in members)]
    movable = [group for group in known if all(num_groups[name] > 1 for name in datasets[group])]
    fold_of = _deal(movable or known or list(groups), datasets, num_groups, num_folds)
    filled = sorted(set(fold_of.values()))
    splits = []
    for fold in range(num_folds):
        held_out = fold if fold in filled else filled[fold % len(filled)]
        val = sorted(case_id for group in groups if fold_of.get(group) == held_out for case_id in groups[group])
        splits.append({"train": sorted(set(cases) - set(val)), "val": val})
    return splits


def _deal(
    groups: list[str], datasets: Mapping[str, frozenset[str]], num_groups: Mapping[str, int], num_folds: int
) -> dict[str, int]:
    """The fold of each group: always the one that holds least of the group's datasets, by their share."""
    share: dict[tuple[str, int], float] = defaultdict(float)
    load = [0] * num_folds
    fold_of = {}
    for group in sorted(groups, key=lambda group: (sorted(datasets[group]), _shuffled(group))):
        crowding = [sum(share[name, fold] for name in datasets[group]) for fold in range(num_folds)]
        chosen = min(range(num_folds), key=lambda fold: (round(crowding[fold], 9), load[fold], fold))
        for name in datasets[group]:
            share[name, chosen] += 1 / num_groups[name]
        load[chosen] += 1
        fold_of[group] = chosen
    return fold_of


def _shuffled(group: str) -> str:
    """A sorting key without relation to the numbering of the cases, the same on every machine."""
    return hashlib.sha256(group.encode()).hexdigest()


def save_manifest_and_splits(folders: Iterable[Path], manifest: Manifest, splits: list[dict]) -> None:
    """In each folder of the dataset, raw and preprocessed; without folds nnU-Net makes its own."""
    for folder in folders:
        manifest.save(folder / MANIFEST_FILE)
        if splits:
            write_json(folder / SPLITS_FILE, splits)
