"""The merge: cases of several sources become one nnU-Net raw dataset with manifest and splits."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.dataset_conversion.case import (
    PENDING_UNKNOWN,
    CaseTask,
    convert_case,
    ordered_sets,
    write_label_map,
)
from nnunetv2_clip.dataset_conversion.source import Source, SourceCase
from nnunetv2_clip.dataset_conversion.target import FILE_ENDING, CaseRecord, Target
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.images import read_label_map
from nnunetv2_clip.labels import IGNORE, ClassSet, LabelTable, nnunet_labels
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import Manifest, write_json
from nnunetv2_clip.splits import FILE_NAME as SPLITS_FILE
from nnunetv2_clip.splits import make_splits

PLAN_FORMAT = 1
MAX_LISTED = 20


@dataclass(frozen=True)
class Input:
    """A source and the folder in which the user has it."""

    source: Source
    root: Path


@dataclass(frozen=True)
class Merge:
    """What the user asked for."""

    inputs: tuple[Input, ...]
    target: Target
    taxonomy: Taxonomy
    copy_images: bool = False
    num_processes: int = 1


@dataclass(frozen=True)
class Summary:
    """What a finished merge holds."""

    num_cases: dict[str, int]
    classes: tuple[str, ...]  # annotated in some case
    num_groups: int
    has_splits: bool


def run_merge(merge: Merge) -> Summary:
    """Convert whatever is not done yet, then write the files that describe the whole.

    Everything that can be seen without reading voxels is checked before the first file is written.

    Raises:
        UserError: naming every file or case that is wrong; finished cases are kept for the next attempt.
    """
    cases = find_all_cases(merge)
    run_all(_check_case, cases, 1, "checking headers")
    known_sets = known_class_sets(merge)
    merge.target.claim(_plan(merge, known_sets))
    _require_no_leftovers(merge.target, cases)
    waiting = [
        CaseTask(source, case, merge.target, merge.taxonomy, known_sets, merge.copy_images)
        for source, case in cases
        if not merge.target.is_done(case.case_id, case.files.values())
    ]
    if len(waiting) < len(cases):
        print(f"{len(cases) - len(waiting)} of {len(cases)} cases were converted before.")
    run_all(convert_case, waiting, merge.num_processes, "converting")
    return finish(merge, [case.case_id for _, case in cases], known_sets)


def find_all_cases(merge: Merge) -> list[tuple[Source, SourceCase]]:
    """Every case of every source.

    Raises:
        UserError: a source is not where it should be, or two cases share an identifier.
    """
    found: dict[str, tuple[Source, SourceCase]] = {}
    for entry in merge.inputs:
        cases = entry.source.find_cases(entry.root)
        complete = entry.source.num_cases
        note = f" (the complete download has {complete})" if complete and complete != len(cases) else ""
        print(f"{entry.source.name}: {len(cases)} labelled cases in {entry.root}{note}")
        for case, reason in entry.source.left_out.items():
            print(f"  without {case}: {reason}")
        for case in cases:
            if case.case_id in found:
                raise UserError(
                    case.image,
                    f"case {case.case_id!r} is also {found[case.case_id][1].image}",
                    "every case once",
                    "name each source once, and give custom sources different names",
                )
            found[case.case_id] = (entry.source, case)
    return list(found.values())


def known_class_sets(merge: Merge) -> tuple[ClassSet, ...]:
    """The sets of classes with a label value before any label map is read: position + 1 is the value.

    Every class alone is among them, the user's own as well: each class is declared and needs a value.
    """
    alone = {frozenset({row.name}) for row in merge.taxonomy}
    return LabelTable.of(alone.union(*(entry.source.class_sets(merge.taxonomy) for entry in merge.inputs))).class_sets


def finish(merge: Merge, case_ids: Sequence[str], known_sets: tuple[ClassSet, ...]) -> Summary:
    """Final label values, manifest, splits and dataset.json; the same records always give the same files."""
    target = merge.target
    records = {case_id: target.read_record(case_id) for case_id in sorted(case_ids)}
    table = LabelTable(
        known_sets + ordered_sets(frozenset(classes) for record in records.values() for classes in record.new_sets)
    )
    has_unknown = any(record.has_unknown for record in records.values())
    labels, order = nnunet_labels(table, merge.taxonomy, merge.taxonomy.names, has_unknown)
    pending = [(case_id, record) for case_id, record in records.items() if record.is_pending]
    run_all(partial(_settle, target, known_sets, table, labels), pending, 1, "final label values")
    cases = {case_id: record.presence for case_id, record in records.items()}
    splits = make_splits(cases)
    for folder in (target.folder, target.preprocessed):
        Manifest(merge.taxonomy, cases).save(folder / MANIFEST_FILE)
        if splits:
            write_json(folder / SPLITS_FILE, splits)
    write_json(target.folder / "dataset.json", _dataset_json(merge, labels, order, len(cases)))
    num_cases = {entry.source.name: 0 for entry in merge.inputs}
    for case in cases.values():
        num_cases[case.dataset] += 1
    groups = {case.group for case in cases.values()}
    annotated = merge.taxonomy.subset({name for case in cases.values() for name in case.annotated})
    return Summary(num_cases, tuple(row.name for row in annotated), len(groups), bool(splits))


def run_all(function: Callable, tasks: Sequence, num_processes: int, title: str) -> None:
    """Call `function(task)` for every task; a UserError of one does not keep the others from being done.

    Raises:
        UserError: every message, when all tasks have been tried.
    """
    errors: list[UserError] = []
    with tqdm(total=len(tasks), desc=title, unit="case", disable=not tasks) as bar:
        for error in _results(partial(_attempt, function), tasks, num_processes):
            bar.update()
            if error is not None:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "".join(f"\n  {error}" for error in sorted(errors, key=str)[:MAX_LISTED])
        more = f"\n  and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
        raise UserError(
            title,
            f"{len(errors)} of {len(tasks)} cases are wrong:{listed}{more}\n",
            remedy="correct them and run the same command again; what is done stays done",
        )


def _results(function: Callable, tasks: Sequence, num_processes: int):
    if num_processes == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(min(num_processes, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "-np",
                "a worker process ended without a word, most likely for lack of memory",
                "a few GB of memory per worker",
                "run the same command again with a smaller -np; what is done stays done",
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _attempt(function: Callable, task: object) -> UserError | None:
    try:
        function(task)
    except UserError as error:
        return error
    except OSError as error:  # a full disk, a folder without permission
        return UserError(error.filename or "disk", str(error.strerror or error), "", "make room or correct the rights")
    return None


def _check_case(entry: tuple[Source, SourceCase]) -> None:
    source, case = entry
    source.check_case(case)


def _settle(
    target: Target, known_sets: tuple[ClassSet, ...], table: LabelTable, labels: dict, entry: tuple[str, CaseRecord]
) -> None:
    """Write the final label map of a case that has sets of its own or unknown voxels."""
    case_id, record = entry
    volume = read_label_map(target.pending_label(case_id))
    values = np.arange(PENDING_UNKNOWN + 1, dtype=np.uint16)
    own = [frozenset(classes) for classes in record.new_sets]
    for value, classes in enumerate(own, start=len(known_sets) + 1):
        values[value] = table.encode(classes)
    if record.has_unknown:
        values[PENDING_UNKNOWN] = labels[IGNORE]
    write_label_map(target.label(case_id), values[volume.data], volume.affine, target.unfinished(f"{case_id}.label"))


def _require_no_leftovers(target: Target, cases: Sequence[tuple[Source, SourceCase]]) -> None:
    lost = sorted(set(target.recorded_cases()) - {case.case_id for _, case in cases})
    if lost:
        raise UserError(
            target.folder,
            f"holds {len(lost)} converted cases that the sources no longer have, for instance {lost[0]}",
            "the same source files as before",
            "restore them, or convert into another dataset id",
        )


def _plan(merge: Merge, known_sets: tuple[ClassSet, ...]) -> dict:
    """What the finished cases depend on."""
    return {
        "format": PLAN_FORMAT,
        "sources": [
            {"name": entry.source.name, "root": str(entry.root.resolve()), **entry.source.settings()}
            for entry in merge.inputs
        ],
        "classes": merge.taxonomy.to_json(),
        "label values": [sorted(classes) for classes in known_sets],
        "--copy": merge.copy_images,
    }


def _dataset_json(merge: Merge, labels: dict, order: list[int], num_cases: int) -> dict:
    sources = [entry.source for entry in merge.inputs]
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": order,
        "numTraining": num_cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "name": merge.target.folder.name,
        "description": f"Merge of {', '.join(source.title for source in sources)}",
        "licence": {source.name: source.licence for source in sources},
        "converted_by": f"nnunetv2_clip {__version__}",
    }
