"""One scan that several sources annotate: their label maps become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_clip.choices import FIRST
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.case import PENDING_UNKNOWN, MergeJob, write_label_map
from nnunetv2_clip.conversion.lesions import join_organs
from nnunetv2_clip.conversion.same_scan import Relation
from nnunetv2_clip.conversion.source import complete
from nnunetv2_clip.conversion.target import CaseRecord
from nnunetv2_clip.imaging.nifti import read_image, read_label_map
from nnunetv2_clip.labels import (
    UNKNOWN,
    ClassMap,
    ClassSet,
    occurring_values,
    ordered_sets,
    plain,
    unknown_in,
    unknown_of,
)

Donors = Sequence[tuple[str, Relation]]  # copies of a scan, and how they lie on it


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels, and the classes of which they tell something."""

    labels: ClassMap
    annotated: frozenset[str]
    absent: frozenset[str]
    incomplete: frozenset[str] = frozenset()

    @property
    def drawn(self) -> frozenset[str]:
        return self.annotated | self.incomplete

    @property
    def known(self) -> frozenset[str]:
        return self.annotated | self.absent

    def unknown_in(self, classes: ClassSet | None) -> frozenset[str]:
        """The annotated classes that are unknown in a voxel."""
        return self.annotated if classes is None else self.annotated & unknown_in(classes)


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
        both, absent = whole.annotated & donor.annotated, whole.absent | donor.absent
        whole, contradictions = unite(whole, donor, job.taxonomy, job.contradictions)
        doubts += _apart(name, *counts, contradictions, job.taxonomy)
        doubts += _drawn_though_absent(name, contradictions, absent & whole.incomplete)
        added = f"labels of {name} added{_in_words(contradictions, both, job.contradictions)}"
        fixes.append(added if records[name].presence.supervised else f"{name} is the same scan")
    read = lambda: read_image(target.image(case_id))  # noqa: E731
    labels, drawn, notes = join_organs(whole.labels, whole.drawn, job.taxonomy, read)
    labels = labels.with_sets(lambda classes: classes.intersection(drawn)).with_unknown_of(drawn)
    label_map, facts = job.pending(labels, case_id)
    write_label_map(target.merged_label(case_id), label_map, volume.affine, job.compression)
    presence = replace(
        records[case_id].presence,
        annotated=job.taxonomy.ordered(whole.annotated.intersection(drawn)),
        absent=job.taxonomy.ordered(whole.absent),
        incomplete=job.taxonomy.ordered(whole.incomplete.intersection(drawn)),
        source_files=_of_all(records, case_id, "source_files"),
        checksums=_of_all(records, case_id, "checksums"),
        geometry_fixes=(*fixes, *notes),
    )
    merged = replace(records[case_id], presence=presence, inputs=inputs, warnings=tuple(doubts), **facts)
    target.write_merged_record(case_id, merged)


def unite(
    first: Annotation, second: Annotation, taxonomy: Taxonomy, contradictions: str = FIRST
) -> tuple[Annotation, dict[str, int]]:
    """The union of two annotations of one grid.

    A class that one annotates and the other has incomplete is as the one has it. Of a class that is incomplete in both
    all drawn voxels are taken, and it stays incomplete; also where the other one calls it absent, if some were drawn.
    Where a voxel is unknown to one of them, the other one decides. What only the second one draws brings its organ
    along: its kidney tumour is kidney, on the side where the second one says so.

    Args:
        contradictions: where both annotate a class and contradict each other, the first one decides (FIRST), or the
            voxel is unknown for that class (UNKNOWN).

    Returns:
        The union, and for each class that both speak of the number of voxels in which they contradict each other.
    """
    annotated, drawn = first.annotated | second.annotated, first.drawn | second.drawn
    maps = [part.labels.values for part in (first, second)]
    values = [occurring_values(label_map) for label_map in maps]
    pairs = np.searchsorted(values[0], maps[0]) * len(values[1]) + np.searchsorted(values[1], maps[1])
    counts = np.bincount(pairs.ravel(), minlength=len(values[0]) * len(values[1]))
    meaning: list[ClassSet | None] = []
    contradicting: Counter[str] = Counter()
    for number, count in enumerate(counts):
        index = divmod(number, len(values[1]))
        classes, others = (
            part.labels.sets[int(own[i])] for part, own, i in zip((first, second), values, index, strict=True)
        )
        against = _contradictions(first, second, classes, others)
        contradicting.update(dict.fromkeys(against, int(count)))
        leave_open = against & first.annotated & second.annotated if contradictions == UNKNOWN else frozenset()
        meaning.append(_united(first, second, classes, others, leave_open, taxonomy))
    sets = ordered_sets(classes for classes in meaning if classes)
    code_of = {frozenset(): 0, None: PENDING_UNKNOWN} | {classes: code for code, classes in enumerate(sets, start=1)}
    codes = np.array([code_of[classes] for classes in meaning], dtype=np.uint16)
    seen = {name for classes, count in zip(meaning, counts, strict=True) if classes and count for name in classes}
    absent = (first.absent | second.absent) - annotated - seen
    labels = ClassMap(codes[pairs], {code: classes for classes, code in code_of.items()})
    union = Annotation(labels, annotated, absent, drawn - annotated - absent)
    return union, {name: n for name, n in contradicting.items() if n}


def _united(
    first: Annotation,
    second: Annotation,
    classes: ClassSet | None,
    others: ClassSet | None,
    leave_open: ClassSet,
    taxonomy: Taxonomy,
) -> ClassSet | None:
    """What is known of a voxel that is `classes` in the first annotation and `others` in the second.

    Args:
        leave_open: classes that are to be unknown.
    """
    open_first, open_second = first.unknown_in(classes), second.unknown_in(others)
    annotated, drawn = first.annotated | second.annotated, first.drawn | second.drawn
    lost = (first.incomplete & second.annotated) - open_second
    brought = plain(others or ()) & ((second.drawn - first.annotated) | open_first)
    organs = {parent for name in brought for parent in taxonomy.find(name).parents}
    inside = (plain(classes or ()) - lost) | brought | (plain(others or ()) & organs)
    inside = complete(inside - leave_open, drawn, taxonomy)
    told = (first.annotated - open_first) | (second.annotated - open_second)
    unknown = (annotated - told | leave_open) - inside
    nothing = classes is None or others is None
    return None if nothing and not inside and unknown == annotated else inside | unknown_of(unknown)


def _contradictions(
    first: Annotation, second: Annotation, classes: ClassSet | None, others: ClassSet | None
) -> ClassSet:
    """The classes of which one annotation says that a voxel has them, and the other one that it has not."""
    known = [part.known - part.unknown_in(own) for part, own in ((first, classes), (second, others))]
    inside = [plain(own or ()) & part.drawn for part, own in ((first, classes), (second, others))]
    return (inside[0] & (known[1] - inside[1])) | (inside[1] & (known[0] - inside[0]))


def _annotation(job: MergeJob, label_map: np.ndarray, record: CaseRecord) -> Annotation:
    presence = record.presence
    states = (frozenset(state) for state in (presence.annotated, presence.absent, presence.incomplete))
    return Annotation(job.labels_of(label_map, record), *states)


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


def _drawn_though_absent(donor: str, contradictions: Mapping[str, int], names: Collection[str]) -> list[str]:
    """Classes that one source of a scan calls absent, and of which another one has drawn some voxels."""
    return [
        f"{name} is drawn in {contradictions[name]} voxels, though {donor}, the same scan, or this case calls it absent"
        for name in sorted(set(names) & set(contradictions))
    ]


def _in_words(contradictions: Mapping[str, int], both: Collection[str], rule: str) -> str:
    """The contradictions in classes that both sources annotate, and in those that one of them has incomplete."""
    texts = []
    decision = "unknown now" if rule == UNKNOWN else "decided by the source named first"
    for decided, what in ((True, decision), (False, "drawn by one source alone")):
        names = [name for name in sorted(contradictions) if (name in both) == decided]
        listed = ", ".join(f"{contradictions[name]} of {name}" for name in names)
        texts += [f"; contradicting voxels, {what}: {listed}"] if listed else []
    return "".join(texts)
