"""One scan that several sources annotate: their label maps become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.case import PENDING_UNKNOWN, MergeJob, write_label_map
from nnunetv2_clip.conversion.lesions import join_organs
from nnunetv2_clip.conversion.same_scan import Relation
from nnunetv2_clip.conversion.source import complete
from nnunetv2_clip.conversion.target import CaseRecord
from nnunetv2_clip.imaging.nifti import read_image, read_label_map
from nnunetv2_clip.labels import ClassMap, ClassSet, occurring_values, ordered_sets

Donors = Sequence[tuple[str, Relation]]  # copies of a scan, and how they lie on it


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels, and the classes of which they tell something."""

    labels: ClassMap
    annotated: frozenset[str]
    absent: frozenset[str]


def unite_case(job: MergeJob, scan: tuple[str, Donors]) -> None:
    """Write the label map and the record of a case that takes over the annotation of its copies, in their order.

    Nothing is done when they are up to date.
    """
    target, (case_id, donors) = job.target, scan
    records = {name: target.read_record(name) for name in (case_id, *(name for name, _ in donors))}
    inputs = _inputs(case_id, donors, records)
    before = target.read_merged_record(case_id)
    if before and before.inputs == inputs:
        return
    volume = read_label_map(target.own_label(case_id))
    whole = _annotation(job, volume.data, records[case_id])
    fixes, doubts = [*records[case_id].presence.geometry_fixes], [*records[case_id].warnings]
    for name, relation in donors:
        donated = read_label_map(target.own_label(name)).data
        donor = _annotation(job, relation.apply(donated), records[name])
        counts = [part.labels.num_voxels() for part in (whole, donor)]
        whole, contradictions = unite(whole, donor, job.taxonomy)
        doubts += _apart(name, *counts, contradictions, job.taxonomy)
        fixes.append(f"labels of {name} added{_in_words(contradictions)}")
    read = lambda: read_image(target.image(case_id))  # noqa: E731
    labels, annotated, notes = join_organs(whole.labels, whole.annotated, job.taxonomy, read)
    labels = labels.with_sets(lambda classes: classes.intersection(annotated))
    label_map, facts = job.pending(labels, case_id)
    write_label_map(target.merged_label(case_id), label_map, volume.affine, job.compression)
    presence = replace(
        records[case_id].presence,
        annotated=job.taxonomy.ordered(annotated),
        absent=job.taxonomy.ordered(whole.absent),
        source_files=_of_all(records, case_id, "source_files"),
        checksums=_of_all(records, case_id, "checksums"),
        geometry_fixes=(*fixes, *notes),
    )
    merged = replace(records[case_id], presence=presence, inputs=inputs, warnings=tuple(doubts), **facts)
    target.write_merged_record(case_id, merged)


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


def _annotation(job: MergeJob, label_map: np.ndarray, record: CaseRecord) -> Annotation:
    presence = record.presence
    return Annotation(job.labels_of(label_map, record), frozenset(presence.annotated), frozenset(presence.absent))


def _of_all(records: Mapping[str, CaseRecord], keeper: str, table: str) -> dict[str, str]:
    """The keeper's files under their roles, those of its copies under case/role."""
    return {
        role if case_id == keeper else f"{case_id}/{role}": text
        for case_id, record in records.items()
        for role, text in getattr(record.presence, table).items()
    }


def _inputs(keeper: str, donors: Donors, records: Mapping[str, CaseRecord]) -> dict[str, list]:
    """What the union depends on; equal inputs give the same union."""
    files = {path: state for record in records.values() for path, state in record.inputs.items()}
    relations = {f"copy {case_id}": [list(found.axes), list(found.flips)] for case_id, found in donors}
    return {**files, f"keeper {keeper}": [], **relations}


def _apart(
    donor: str, first: Mapping[str, int], second: Mapping[str, int], contradictions: Mapping[str, int], known: Taxonomy
) -> list[str]:
    """Organs that two label maps of one scan draw in different places: Dice below a half. Readers of lesions differ."""
    organs = [
        row.name
        for row in known.subset(set(contradictions) & {name for name in first if first[name] and second.get(name)})
        if not row.parents and 2 * contradictions[row.name] > first[row.name] + second[row.name]
    ]
    if not organs:
        return []
    return [f"{', '.join(organs)} of {donor}, the same scan, lie elsewhere: one of the label maps is wrong"]


def _in_words(contradictions: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} of {name}" for name, count in sorted(contradictions.items()))
    return f"; contradicting voxels, decided by the source named first: {listed}" if listed else ""
