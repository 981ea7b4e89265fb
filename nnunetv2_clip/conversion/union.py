"""One scan that several sources annotate: their label maps become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.case import PENDING_UNKNOWN, pending_label_map, pending_labels, write_label_map
from nnunetv2_clip.conversion.lesions import join_organs
from nnunetv2_clip.conversion.same_scan import Relation
from nnunetv2_clip.conversion.source import complete
from nnunetv2_clip.conversion.target import CaseRecord, Target
from nnunetv2_clip.imaging.nifti import read_image, read_label_map
from nnunetv2_clip.labels import ClassMap, ClassSet, occurring_values, ordered_sets
from nnunetv2_clip.manifest import CasePresence


@dataclass(frozen=True)
class UnionTask:
    """A scan whose first case takes over the annotation of its copies, in this order."""

    target: Target
    taxonomy: Taxonomy
    known_sets: tuple[ClassSet, ...]
    case_id: str
    donors: tuple[tuple[str, Relation], ...]
    compression: int


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels, and the classes of which they tell something."""

    labels: ClassMap
    annotated: frozenset[str]
    absent: frozenset[str]


def unite_case(task: UnionTask) -> None:
    """Write the label map and the record of the union; nothing is done when they are up to date."""
    target = task.target
    records = {case_id: target.read_record(case_id) for case_id in (task.case_id, *(name for name, _ in task.donors))}
    inputs = _inputs(task, records)
    before = target.read_merged_record(task.case_id)
    if before and before.inputs == inputs:
        return
    volume = read_label_map(target.own_label(task.case_id))
    whole = _annotation(task, volume.data, records[task.case_id])
    fixes = []
    for case_id, relation in task.donors:
        donated = read_label_map(target.own_label(case_id)).data
        other = _annotation(task, relation.apply(donated), records[case_id])
        whole, contradictions = unite(whole, other, task.taxonomy)
        fixes.append(f"labels of {case_id} added{_in_words(contradictions)}")
    whole, notes = _with_organs(task, whole)
    fixes.extend(notes)
    _write(task, whole, volume.affine, records, fixes, inputs)


def _with_organs(task: UnionTask, whole: Annotation) -> tuple[Annotation, tuple[str, ...]]:
    read = lambda: read_image(task.target.image(task.case_id))  # noqa: E731
    labels, annotated, notes = join_organs(whole.labels, whole.annotated, task.taxonomy, read)
    labels = labels.with_sets(lambda classes: classes.intersection(annotated))
    return replace(whole, labels=labels, annotated=frozenset(annotated)), notes


def unite(first: Annotation, second: Annotation, taxonomy: Taxonomy) -> tuple[Annotation, dict[str, int]]:
    """The union of two annotations of one grid; for classes that both annotate the first one decides.

    A voxel that is unknown in either of them is unknown. What only the second one annotates brings its organ along:
    its kidney tumour is kidney, on the side where the second one says so.

    Returns:
        The union, and for each class that both annotate the number of voxels in which they contradict each other.
    """
    annotated = first.annotated | second.annotated
    gained = second.annotated - first.annotated
    shared = first.annotated & second.annotated
    maps = [part.labels.values for part in (first, second)]
    values = [occurring_values(label_map) for label_map in maps]
    pairs = np.searchsorted(values[0], maps[0]) * len(values[1]) + np.searchsorted(values[1], maps[1])
    counts = np.bincount(pairs.ravel(), minlength=len(values[0]) * len(values[1]))
    meaning: list[ClassSet | None] = []
    contradictions: Counter[str] = Counter()
    for number, count in enumerate(counts):
        classes = first.labels.sets[int(values[0][number // len(values[1])])]
        others = second.labels.sets[int(values[1][number % len(values[1])])]
        if classes is None or others is None:
            meaning.append(None)
            continue
        brought = others & gained
        organs = {parent for name in brought for parent in taxonomy.find(name).parents}
        meaning.append(complete(classes | brought | (others & organs), annotated, taxonomy))
        for name in (classes ^ others) & shared:
            contradictions[name] += int(count)
    sets = ordered_sets(classes for classes in meaning if classes)
    code_of = {frozenset(): 0, None: PENDING_UNKNOWN} | {classes: code for code, classes in enumerate(sets, start=1)}
    codes = np.array([code_of[classes] for classes in meaning], dtype=np.uint16)
    drawn = {name for classes, count in zip(meaning, counts, strict=True) if classes and count for name in classes}
    absent = (first.absent | second.absent) - annotated - drawn
    labels = ClassMap(codes[pairs], {code: classes for classes, code in code_of.items()})
    return Annotation(labels, annotated, absent), {name: n for name, n in contradictions.items() if n}


def _annotation(task: UnionTask, label_map: np.ndarray, record: CaseRecord) -> Annotation:
    labels = pending_labels(label_map, task.known_sets, record)
    return Annotation(labels, frozenset(record.presence.annotated), frozenset(record.presence.absent))


def _write(task: UnionTask, whole: Annotation, affine, records: Mapping[str, CaseRecord], fixes, inputs) -> None:
    """Label map in the values of the plan, with the union's own sets after them; the record last."""
    label_map, new_sets = pending_label_map(whole.labels, task.known_sets, task.case_id)
    target, keeper = task.target, records[task.case_id]
    write_label_map(target.merged_label(task.case_id), label_map, affine, task.compression)
    order = task.taxonomy.names.index
    presence = CasePresence(
        dataset=keeper.presence.dataset,
        annotated=tuple(sorted(whole.annotated, key=order)),
        absent=tuple(sorted(whole.absent, key=order)),
        group=keeper.presence.group,
        source_files=_of_all(records, task.case_id, "source_files"),
        checksums=_of_all(records, task.case_id, "checksums"),
        geometry_fixes=(*keeper.presence.geometry_fixes, *fixes),
    )
    record = CaseRecord(
        presence=presence,
        new_sets=tuple(tuple(sorted(classes)) for classes in new_sets),
        has_unknown=bool((label_map == PENDING_UNKNOWN).any()),
        inputs=inputs,
        shape=keeper.shape,
        warnings=keeper.warnings,
    )
    target.write_merged_record(task.case_id, record)


def _of_all(records: Mapping[str, CaseRecord], keeper: str, table: str) -> dict[str, str]:
    """The keeper's files under their roles, those of its copies under case/role."""
    return {
        role if case_id == keeper else f"{case_id}/{role}": text
        for case_id, record in records.items()
        for role, text in getattr(record.presence, table).items()
    }


def _inputs(task: UnionTask, records: Mapping[str, CaseRecord]) -> dict[str, list]:
    """What the union depends on; equal inputs give the same union."""
    files = {path: state for record in records.values() for path, state in record.inputs.items()}
    relations = {f"copy {case_id}": [list(found.axes), list(found.flips)] for case_id, found in task.donors}
    return {**files, f"keeper {task.case_id}": [], **relations}


def _in_words(contradictions: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} of {name}" for name, count in sorted(contradictions.items()))
    return f"; contradicting voxels, decided by the source named first: {listed}" if listed else ""
