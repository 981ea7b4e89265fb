"""The merge: cases of several sources become one nnU-Net raw dataset with manifest and splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path

import numpy as np

from nnunetv2_clip import __version__
from nnunetv2_clip.choices import FIRST
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.case import MergeJob, convert_case, write_label_map
from nnunetv2_clip.conversion.copies import ComparedScan, Decisions, KnownScan, decide
from nnunetv2_clip.conversion.plausibility import doubtful_classes
from nnunetv2_clip.conversion.source import Source, SourceCase
from nnunetv2_clip.conversion.splits import make_splits, save_manifest_and_splits
from nnunetv2_clip.conversion.target import CaseRecord, Target
from nnunetv2_clip.conversion.union import unite_case
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import write_json
from nnunetv2_clip.imaging.nifti import COMPRESSION_LEVEL, FILE_ENDING, REORIENTING_READER, read_label_map
from nnunetv2_clip.job_folder import file_states, is_readable
from nnunetv2_clip.labels import IGNORE, UNKNOWN, LabelTable, nnunet_labels, ordered_sets, unknown_labels
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.runner import AGAIN, CasesFailed, Outcome, good_and_bad, require_all, require_some, run_cases

PLAN_FORMAT = 3


@dataclass(frozen=True)
class Input:
    """A source and the folder in which the user has it."""

    source: Source
    root: Path


@dataclass(frozen=True)
class Merge:
    """What the user asked for.

    Attributes:
        copy_images: copy images that need no change instead of linking them.
        compression: gzip's level of the files that are written.
        skip: cases that are left out.
        outside: scans that must not be in the dataset; their copies are left out.
        hold_out_ircadb: leave out the patients of 3D-IRCADb-01 wherever they are.
        contradictions: FIRST or UNKNOWN, what becomes of voxels in which two sources of a scan contradict each other.
        keep_copies: the same scan in several sources stays several cases, in one group.
        known_scan: what is published about equal scans, a check of what is found.
    """

    inputs: tuple[Input, ...]
    target: Target
    taxonomy: Taxonomy
    copy_images: bool = False
    num_processes: int = 1
    compression: int = COMPRESSION_LEVEL
    skip: tuple[str, ...] = ()
    outside: tuple[ComparedScan, ...] = ()
    hold_out_ircadb: bool = False
    keep_copies: bool = False
    contradictions: str = FIRST
    known_scan: KnownScan = lambda source, number: None

    @cached_property
    def job(self) -> MergeJob:
        """What its steps need. Every class alone is a known set, the user's own as well: each is declared."""
        alone = {frozenset({row.name}) for row in self.taxonomy}
        sets = alone.union(*(entry.source.class_sets(self.taxonomy) for entry in self.inputs))
        known = LabelTable.of(sets).class_sets
        return MergeJob(self.target, self.taxonomy, known, self.copy_images, self.compression, self.contradictions)


@dataclass(frozen=True)
class Summary:
    """What a finished merge holds.

    Attributes:
        num_cases: source -> cases.
        classes: annotated in some case, or incomplete.
        num_groups: different patients, as far as scans and sources tell.
        num_merged: cases whose annotation went into that of another case of the same scan.
        num_left_out: cases that are held out.
        warnings: what people should look at.
    """

    num_cases: dict[str, int]
    classes: tuple[str, ...]
    num_groups: int
    has_splits: bool
    num_merged: int
    num_left_out: int
    warnings: tuple[str, ...]


def run_merge(merge: Merge) -> Summary:
    """Convert whatever is not done yet, then write the files that describe the whole.

    A case that is wrong does not keep the others from being converted, but the dataset from being finished.

    Raises:
        CasesFailed: naming every case that is wrong; finished cases are kept for the next attempt.
        UserError: a source or the target cannot be used.
    """
    cases = find_all_cases(merge)
    sound, wrong = require_some(check_headers(cases), "checking headers")
    with merge.target.claim(_plan(merge)):
        convert_cases(merge, cases, sound, wrong)
        return finish(merge, cases)


def run_part(merge: Merge, part: int, num_parts: int) -> tuple[int, int]:
    """Convert every `num_parts`-th case, beginning with number `part`; several jobs may do so at once.

    Returns:
        Number of cases of this part, and of all parts.
    """
    cases = find_all_cases(merge)
    sound, wrong = require_some(check_headers(cases[part::num_parts]), "checking headers")
    with merge.target.claim(_plan(merge), part):
        convert_cases(merge, cases, sound, wrong)
    return len(cases[part::num_parts]), len(cases)


def run_finish(merge: Merge) -> Summary:
    """What `run_merge` does after the last case.

    Raises:
        UserError: a case is not converted yet.
    """
    cases = find_all_cases(merge)
    with merge.target.claim(_plan(merge)):
        _require_no_leftovers(merge.target, cases, merge.skip)
        missing = [case.case_id for case in cases if not _is_done(merge.target, case)]
        if missing:
            raise UserError(
                merge.target.folder,
                f"{len(missing)} of {len(cases)} cases are not converted yet: {' '.join(missing)}",
                "all parts before --finish",
                "run the missing parts again (-num_parts, -part_id), or leave cases out with --skip",
            )
        return finish(merge, cases)


def convert_cases(
    merge: Merge, cases: Sequence[SourceCase], sound: Sequence[Outcome], wrong: dict[str, UserError]
) -> None:
    """Convert those cases that are not done and whose headers are sound; the folder is claimed.

    Args:
        cases: all of the dataset.
        sound, wrong: what their headers tell of those to convert.

    Raises:
        CasesFailed: naming every one that is wrong, when all others are converted.
    """
    target, num_cases = merge.target, len(sound) + len(wrong)
    _require_no_leftovers(target, cases, merge.skip)
    waiting = [outcome.task for outcome in sound if not _is_done(target, outcome.task)]
    if len(waiting) < len(sound):
        print(f"{len(sound) - len(waiting)} of {num_cases} cases were converted before.")
    outcomes = run_cases(partial(convert_case, merge.job), waiting, "converting", merge.num_processes)
    wrong = {**wrong, **good_and_bad(outcomes)[1]}
    if wrong:
        remedy = f"{AGAIN} (what is done stays done), or leave them out: "
        skips = " ".join(f"--skip {case_id}" for case_id in sorted(wrong))
        raise CasesFailed("converting", wrong, num_cases, remedy + skips)


def check_headers(cases: Sequence[SourceCase]) -> list[Outcome]:
    """The outcome of the checks that need no voxels, for every case."""
    return list(run_cases(_check_case, cases, "checking headers"))


def _check_case(case: SourceCase) -> None:
    case.source.check_case(case)


def _is_done(target: Target, case: SourceCase) -> bool:
    return target.is_done(case.case_id, file_states(case.files.values()))


def find_all_cases(merge: Merge) -> list[SourceCase]:
    """Every case of every source.

    Raises:
        UserError: a source is not where it should be, or two cases share an identifier.
    """
    modalities = {entry.source.modality for entry in merge.inputs}
    if len(modalities) > 1:
        several = f"images of {' and '.join(sorted(modalities))}"
        raise UserError("--source", several, "one modality in a dataset", "convert them apart")
    found: dict[str, SourceCase] = {}
    for entry in merge.inputs:
        cases = entry.source.find_cases(entry.root)
        complete = entry.source.num_expected(entry.root)
        note = f" (the complete download has {complete})" if complete and complete != len(cases) else ""
        kind = "labelled cases" if entry.source.annotated else "images without labels, to be completed by pseudo-label,"
        print(f"{entry.source.name}: {len(cases)} {kind} in {entry.root}{note}")
        for case, reason in entry.source.left_out.items():
            print(f"  without {case}: {reason}")
        for remark in entry.source.remarks(entry.root, cases):
            print(f"  {remark}")
        for case in cases:
            if case.case_id in found:
                raise UserError(
                    case.image,
                    f"case {case.case_id!r} is also {found[case.case_id].image}",
                    "every case once",
                    "name each source once, and give custom sources different names",
                )
            found[case.case_id] = case
    # A case that was converted before may be skipped though its files are gone: so it leaves the dataset.
    unknown = sorted(set(merge.skip) - set(found) - set(merge.target.recorded_cases()))
    if unknown:
        raise UserError(
            f"--skip {unknown[0]}",
            f"the sources have no such case.{suggestion(unknown[0], found)}",
            "a case identifier as the merge writes it",
        )
    return [case for case_id, case in found.items() if case_id not in merge.skip]


def finish(merge: Merge, found: Sequence[SourceCase]) -> Summary:
    """Copies, final label values, manifest, splits and dataset.json; the same records always give the same files.

    Args:
        found: all converted cases, those of the source named first come first.
    """
    target = merge.target
    own_records = {case.case_id: target.read_record(case.case_id) for case in found}
    options = merge.hold_out_ircadb, merge.keep_copies, merge.known_scan, merge.num_processes
    decisions = decide(target, own_records, merge.outside, *options)
    if set(decisions.left_out) == set(own_records):  # before anything is moved
        raise UserError(target.folder, "every case is held out", "cases to train on", "hold out less")
    records = _united_records(merge, own_records, decisions)
    new_sets = ordered_sets(frozenset(classes) for record in records.values() for classes in record.new_sets)
    table = LabelTable(merge.job.known_sets).extended(new_sets)
    has_unknown = any(record.has_unknown for record in records.values())
    labels, order = nnunet_labels(table, merge.taxonomy, merge.taxonomy.names, has_unknown)
    keepers = set(decisions.keepers)
    pending = [
        (case_id, record, case_id in keepers)
        for case_id, record in records.items()
        if record.is_pending or case_id in keepers
    ]
    _run_all(partial(_settle, merge.job, table, labels.get(IGNORE)), pending, "final label values", merge)
    cases = {case_id: replace(record.presence, group=decisions.groups[case_id]) for case_id, record in records.items()}
    warnings = _warnings(merge, own_records, records, decisions)
    entries = {"labels": labels, "regions_class_order": order}
    if unknown := unknown_labels(table, merge.taxonomy):
        entries[UNKNOWN] = unknown
    splits = _write_description(merge, cases, entries, decisions, (*_remarks(merge, found), *warnings))
    num_cases = Counter(case.dataset for case in cases.values())
    drawn = merge.taxonomy.subset({name for case in cases.values() for name in case.drawn})
    return Summary(
        num_cases={entry.source.name: num_cases[entry.source.name] for entry in merge.inputs},
        classes=tuple(row.name for row in drawn),
        num_groups=len({case.group for case in cases.values()}),
        has_splits=bool(splits),
        num_merged=len(decisions.absorbed),
        num_left_out=len(decisions.left_out),
        warnings=warnings,
    )


def _run_all(function: Callable[[tuple], None], tasks: Sequence[tuple], title: str, merge: Merge) -> None:
    """Work on tasks that begin with the case."""
    require_all(run_cases(function, tasks, title, merge.num_processes, itemgetter(0)), title)


def _united_records(merge: Merge, own_records: dict[str, CaseRecord], decisions: Decisions) -> dict[str, CaseRecord]:
    """The records of the dataset's cases, sorted; the files are put where the decisions want them."""
    target, keepers = merge.target, decisions.keepers
    present = sorted(set(own_records) - set(decisions.absorbed) - set(decisions.left_out))
    target.arrange(present, set(keepers), sorted(set(own_records) - set(present)))
    unions = [(keeper, decisions.donors(keeper)) for keeper in keepers]
    _run_all(partial(unite_case, merge.job), unions, "uniting copies", merge)
    records = {case_id: own_records[case_id] for case_id in present}
    for keeper in keepers:
        records[keeper] = target.read_merged_record(keeper)
    return records


def _write_description(
    merge: Merge,
    cases: dict[str, CasePresence],
    entries: dict,
    decisions: Decisions,
    warnings: Sequence[str],
) -> list:
    """Manifest, splits, report and, last, dataset.json; returns the splits."""
    target = merge.target
    splits = make_splits(cases)
    save_manifest_and_splits((target.folder, target.preprocessed), Manifest(merge.taxonomy, cases), splits)
    report = {
        "skipped": sorted(merge.skip),
        "left_out": dict(sorted(decisions.left_out.items())),
        "merged_into": {case_id: keeper for case_id, (keeper, _) in sorted(decisions.absorbed.items())},
        "repairs": {case_id: list(case.geometry_fixes) for case_id, case in cases.items() if case.geometry_fixes},
        "warnings": list(warnings),
    }
    write_json(target.report, report)
    write_json(target.dataset_json, _dataset_json(merge, entries, len(cases)))
    return splits


def _remarks(merge: Merge, found: Sequence[SourceCase]) -> list[str]:
    """What was printed when the cases were found; it is part of the report as well."""
    remarks = []
    for source, root in ((entry.source, entry.root) for entry in merge.inputs):
        own = [case for case in found if case.source.name == source.name]
        remarks += [f"{source.name}: {remark}" for remark in source.remarks(root, own)]
    return remarks


def _warnings(
    merge: Merge, own_records: dict[str, CaseRecord], records: dict[str, CaseRecord], decisions: Decisions
) -> tuple[str, ...]:
    """What people should look at. Classes are judged by what each source itself has drawn, not by what copies added."""
    of_source = defaultdict(list)
    for record in own_records.values():
        of_source[record.presence.dataset].append((record.presence.annotated, record.extents))
    doubts = [
        f"{name}: {text}" for name, cases in of_source.items() for text in doubtful_classes(cases, merge.taxonomy)
    ]
    looks = [
        f"{case_id}: {text}" for case_id, record in sorted((own_records | records).items()) for text in record.warnings
    ]
    return (*doubts, *looks, *sorted(decisions.notes))


def _settle(job: MergeJob, table: LabelTable, ignore: int | None, case: tuple[str, CaseRecord, bool]) -> None:
    """Write the final label map of a case that has sets of its own, unknown voxels or (last in `case`) copies.

    Nothing is done when it is there and the same.
    """
    target, (case_id, record, is_merged) = job.target, case
    volume = read_label_map(target.merged_label(case_id) if is_merged else target.pending_label(case_id))
    final = job.labels_of(volume.data, record).remap(table, case_id, ignore)
    label = target.label(case_id)
    if is_readable(label) and np.array_equal(read_label_map(label).data, final):
        return
    write_label_map(label, final, volume.affine, job.compression)


def _require_no_leftovers(target: Target, cases: Sequence[SourceCase], skip: Sequence[str]) -> None:
    recorded = set(target.recorded_cases())
    for case_id in recorded.intersection(skip):
        target.forget(case_id)
    lost = sorted(recorded - {case.case_id for case in cases} - set(skip))
    if lost:
        raise UserError(
            target.folder,
            f"holds {len(lost)} converted cases that the sources no longer have, for instance {lost[0]}",
            "the same source files as before",
            "restore them, name them with --skip, or convert into another dataset id",
        )


def _plan(merge: Merge) -> dict:
    """What the finished cases depend on."""
    return {
        "format": PLAN_FORMAT,
        "sources": [
            {"name": entry.source.name, "root": str(entry.root.resolve()), **entry.source.settings()}
            for entry in merge.inputs
        ],
        "classes": merge.taxonomy.to_json(),
        "label values": [sorted(classes) for classes in merge.job.known_sets],
        "--copy": merge.copy_images,
        "--compression": merge.compression,
        **({} if merge.contradictions == FIRST else {"--contradictions": merge.contradictions}),
    }


def _dataset_json(merge: Merge, entries: dict, num_cases: int) -> dict:
    """
    Args:
        entries: what the label values mean.
    """
    sources = [entry.source for entry in merge.inputs]
    return {
        "channel_names": {"0": sources[0].modality},
        **entries,
        "numTraining": num_cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": REORIENTING_READER,
        "name": merge.target.folder.name,
        "description": f"Merge of {', '.join(source.title for source in sources)}",
        "licence": {source.name: source.licence for source in sources},
        "converted_by": f"nnunetv2_clip {__version__}",
    }
