"""The same scan in several sources: which cases are copies of each other, and which of them the dataset keeps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import ornt_transform

from nnunetv2_clip.conversion.same_scan import (
    MIN_AGREEMENT,
    Fingerprint,
    Relation,
    agreement,
    find_copies,
    fingerprint_of,
)
from nnunetv2_clip.conversion.source import Key, Source, SourceCase, nifti_files, require_folder
from nnunetv2_clip.conversion.target import CaseRecord, Target
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_record, replacing, write_json
from nnunetv2_clip.imaging.header_repairs import ircadb_patient
from nnunetv2_clip.imaging.nifti import Volume, inspect, read_image
from nnunetv2_clip.job_folder import digest, file_states, is_readable
from nnunetv2_clip.runner import require_all, run_cases

# (source, number of the case) -> (whose number, number) of the original scan, or None where nothing is known.
KnownScan = Callable[[str, int], tuple[str, int] | None]
SIZE_TOLERANCE = 0.02  # of a voxel edge; publishers round
IN_SEVERAL_WAYS = "agree in several ways, turned and unturned, so that nothing tells which voxels belong together"
OUTSIDE = "outside:"  # prefix of scans that must not be in the dataset, beside the case identifiers


@dataclass(frozen=True)
class ComparedScan:
    """An image that is compared with others: of a case of the merge, or one that must not be in the dataset.

    Attributes:
        name: for people.
        files: what it is made of.
        case: where it is more than a NIfTI file.
        reason: why it must not be there, in words.
    """

    name: str
    files: tuple[Path, ...]
    case: SourceCase | None = None
    reason: str = ""

    def read(self) -> Volume:
        return self.case.source.load_case(self.case).image if self.case else read_image(self.files[0])


@dataclass
class Decisions:
    """What becomes of every case.

    Attributes:
        groups: case -> group, of all cases.
        absorbed: case -> (the case that takes over its annotation, how its array lies on that one's).
        left_out: case -> why it is not part of the dataset.
        notes: what people should look at.
    """

    groups: dict[str, str] = field(default_factory=dict)
    absorbed: dict[str, tuple[str, Relation]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def donors(self, keeper: str) -> list[tuple[str, Relation]]:
        return [(case_id, relation) for case_id, (kept, relation) in self.absorbed.items() if kept == keeper]

    @property
    def keepers(self) -> list[str]:
        """Cases that take over annotation of others."""
        return sorted({keeper for keeper, _ in self.absorbed.values()})


def msd_test_images(folders: Iterable[Path]) -> list[ComparedScan]:
    """Every NIfTI file of imagesTs folders, or of task folders that hold one.

    Raises:
        UserError: a folder without any.
    """
    scans = []
    for folder in folders:
        require_folder(folder, "the folder imagesTs of a task of the Medical Segmentation Decathlon")
        inner = folder / "imagesTs" if (folder / "imagesTs").is_dir() else folder
        files = nifti_files(inner)
        if not files:
            raise UserError(inner, "holds no NIfTI files", "the folder imagesTs of an MSD task", "check the path")
        scans += [ComparedScan(name, (path,), reason=f"is the MSD test image {name}") for name, path in files.items()]
    return scans


def held_out_scans(source: Source, root: Path) -> list[ComparedScan]:
    """Every case of a source that is kept for testing."""
    return [
        ComparedScan(case.case_id, tuple(case.files.values()), case, f"shows {case.case_id}, which is held out")
        for case in source.find_cases(root)
    ]


def decide(
    target: Target,
    records: Mapping[str, CaseRecord],
    outside: Sequence[ComparedScan],
    hold_out_ircadb: bool,
    keep_copies: bool,
    known_scan: KnownScan,
    num_processes: int = 1,
) -> Decisions:
    """Find all copies and decide.

    Args:
        records: of all cases, the preferred ones first: of several copies the first keeps its image, its voxels decide
            where annotations contradict.
        outside: scans that must not be in the dataset.
        hold_out_ircadb: leave out the patients of 3D-IRCADb-01, by their known numbers in other datasets.
        keep_copies: copies stay cases of their own, in one group.
        known_scan: what is published about equal scans; it checks what the fingerprints found.

    Raises:
        CasesFailed: an image cannot be read any more.
    """
    fingerprints = {
        case_id: Fingerprint(record.shape, np.load(target.fingerprint(case_id))) for case_id, record in records.items()
    }
    scans = {f"{OUTSIDE}{number}": scan for number, scan in enumerate(outside)}
    fingerprints |= {key: _outside_fingerprint(target, scan) for key, scan in scans.items()}
    pairs = {(first, second): found for first, second, found in find_copies(fingerprints)}
    confirmed = _confirm(target, pairs, records, scans, num_processes)
    decisions = Decisions(groups={case_id: record.presence.group for case_id, record in records.items()})
    reasons = {key: scan.reason for key, scan in scans.items()}
    if hold_out_ircadb:
        reasons |= {case_id: _held_out_by_number(case_id, record) for case_id, record in records.items()}
    # of several copies the first keeps its image, but one with labels, and of which nothing is to be warned, before all
    preference = {
        case_id: (not record.presence.supervised, bool(record.warnings), number)
        for number, (case_id, record) in enumerate(records.items())
    }
    for patient in _patients(_clusters(fingerprints, confirmed), records, scans):
        clusters = [
            sorted((key for key in cluster if key in preference), key=preference.__getitem__) for cluster in patient
        ]
        cases = sorted(chain(*clusters), key=preference.__getitem__)
        decisions.groups.update({case_id: records[cases[0]].presence.group for case_id in cases})
        why = [_reason(cluster, reasons) for cluster in patient]
        for cluster, reason in zip(clusters, why, strict=True):
            if any(why):
                reason = reason or f"shows the same patient as a scan that {next(filter(None, why))}"
                decisions.left_out.update(dict.fromkeys(cluster, reason))
            elif not keep_copies:
                _absorb(target, cluster, confirmed, decisions)
    _check_against_known_numbers(records, decisions, known_scan)
    return decisions


def _patients(
    clusters: Sequence[set[str]], records: Mapping[str, CaseRecord], outside: Mapping[str, ComparedScan]
) -> list[list[set[str]]]:
    """The clusters of equal scans by patient, as far as the sources tell who is who."""
    named = {key: (record.presence.dataset, record.presence.patient) for key, record in records.items()}
    for key, scan in outside.items():
        if scan.case:
            named[key] = (scan.case.source.name, scan.case.source.patient_of(scan.case))
    first: dict[tuple[str, str], int] = {}
    number_of = {key: number for number, cluster in enumerate(clusters) for key in cluster}
    same = [(number_of[key], first.setdefault(name, number_of[key])) for key, name in named.items() if name[1]]
    return [[clusters[number] for number in sorted(found)] for found in _clusters(range(len(clusters)), same)]


def _reason(cluster: set[str], reasons: Mapping[str, str]) -> str:
    """Why these equal scans must not be in the dataset; empty where they may."""
    found = sorted((not key.startswith(OUTSIDE), key) for key in cluster if reasons.get(key))
    return reasons[found[0][1]] if found else ""


def _absorb(target: Target, cases: Sequence[str], confirmed: Mapping, decisions: Decisions) -> None:
    """Each case goes into the first one before it whose grid agrees; the others stay cases of their own."""
    decisions.notes.extend(doubts := _doubts(cases, confirmed))
    if doubts:
        return
    keepers: list[str] = []
    for case_id in cases:
        for keeper in keepers:
            found = confirmed.get((keeper, case_id)) or _inverse(confirmed.get((case_id, keeper)))
            if found and _headers_agree(target, keeper, case_id, found):
                decisions.absorbed[case_id] = (keeper, found)
                decisions.notes.extend(_other_size(target, keeper, case_id, found))
                break
        else:
            if keepers:
                decisions.notes.append(
                    f"{case_id} is the same scan as {keepers[0]}, but its header places it otherwise (mirrored or "
                    "turned): both stay, in one group"
                )
            keepers.append(case_id)


def _doubts(cases: Sequence[str], confirmed: Mapping[tuple[str, str], Relation]) -> list[str]:
    """Why cases that belong together must not be merged, in words; empty if they are one scan beyond doubt."""
    stay = "all stay, in one group" if len(cases) > 2 else "both stay, in one group"
    for pair in combinations(cases, 2):
        found = confirmed.get(pair) or confirmed.get(pair[::-1])
        if found is None:
            return [f"{pair[0]} and {pair[1]} differ, but another case agrees with both of them: {stay}"]
        if not found.is_only:
            return [f"{pair[0]} and {pair[1]} {IN_SEVERAL_WAYS}: {stay}"]
    return []


def _headers_agree(target: Target, keeper: str, donor: str, found: Relation) -> bool:
    """Do both headers say of each voxel axis that it runs the same way, once the arrays lie on each other."""
    orientations = [nib.io_orientation(inspect(target.own_image(case_id)).affine) for case_id in (donor, keeper)]
    change = ornt_transform(*orientations)  # row: axis of the donor; where it goes, and whether it is flipped
    axes = tuple(int(axis) for axis in np.argsort(change[:, 0]))
    flips = tuple(axis for axis in range(3) if change[axes[axis], 1] < 0)
    return (axes, flips) == (found.axes, found.flips)


def _other_size(target: Target, keeper: str, donor: str, found: Relation) -> list[str]:
    """A note where two headers give the same voxels different sizes: only one can be right."""
    sizes = [inspect(target.own_image(case_id)).spacing_mm for case_id in (donor, keeper)]
    sizes[0] = sizes[0][list(found.axes)]
    if np.allclose(*sizes, rtol=SIZE_TOLERANCE):
        return []
    said = [" x ".join(f"{edge:.4g}" for edge in size) for size in sizes]
    return [f"{donor} has voxels of {said[0]} mm, {keeper}, the same scan, of {said[1]} mm: the latter are used"]


def _inverse(found: Relation | None) -> Relation | None:
    if found is None:
        return None
    back = tuple(int(axis) for axis in np.argsort(found.axes))
    flips = tuple(axis for axis in range(3) if back[axis] in found.flips)
    return replace(found, axes=back, flips=flips, shift=-found.shift)


def _confirm(
    target: Target,
    pairs: Mapping[tuple[str, str], Relation],
    records: Mapping[str, CaseRecord],
    outside: Mapping[str, ComparedScan],
    num_processes: int,
) -> dict[tuple[str, str], Relation]:
    """Those pairs whose voxels agree over the whole images; what was compared once is remembered."""
    folder = target.state / "compared"
    folder.mkdir(exist_ok=True)
    tasks = {}
    for pair, found in pairs.items():
        sides = [outside.get(key) or ComparedScan(key, (target.own_image(key),)) for key in pair]
        states = [file_states(outside[key].files) if key in outside else records[key].inputs for key in pair]
        tasks[pair] = (*sides, found, folder / f"{digest(states)}.json")
    title, waiting = "comparing copies", [task for task in tasks.values() if not read_record(task[-1])]
    name_of = lambda task: f"{task[0].name} and {task[1].name}"  # noqa: E731
    require_all(run_cases(compare_scans, waiting, title, num_processes, name_of), title)
    share = {pair: read_record(task[-1])["agreement"] for pair, task in tasks.items()}
    return {pair: found for pair, found in pairs.items() if share[pair] >= MIN_AGREEMENT}


def compare_scans(task: tuple[ComparedScan, ComparedScan, Relation, Path]) -> None:
    """Compare two images over all voxels and write down, in the file named last, how far they agree."""
    first, second, found, result = task
    share = agreement(first.read().data, found.apply(second.read().data))
    write_json(result, {"first": first.name, "second": second.name, "agreement": round(share, 6)})


def _outside_fingerprint(target: Target, scan: ComparedScan) -> Fingerprint:
    """From the image, or from what is remembered of it."""
    folder = target.state / "outside"
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest(file_states(scan.files))}.npz"
    if not is_readable(path):
        fingerprint = fingerprint_of(scan.read().data)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, shape=fingerprint.shape, picks=fingerprint.picks)
    with np.load(path) as stored:
        return Fingerprint(tuple(int(size) for size in stored["shape"]), stored["picks"])


def _clusters(keys: Iterable[Key], pairs: Iterable[tuple[Key, Key]]) -> list[set[Key]]:
    """Connected sets of keys, single ones included."""
    cluster_of = {key: {key} for key in keys}
    for first, second in pairs:
        if cluster_of[first] is not cluster_of[second]:
            joined = cluster_of[first] | cluster_of[second]
            for key in joined:
                cluster_of[key] = joined
    return list({id(cluster): cluster for cluster in cluster_of.values()}.values())


def _held_out_by_number(case_id: str, record: CaseRecord) -> str:
    number = case_number(case_id)
    patient = ircadb_patient(record.presence.dataset, number) if number is not None else None
    return f"shows patient {patient.patient} of 3D-IRCADb-01, which is held out" if patient else ""


def case_number(case_id: str) -> int | None:
    """The number at the end of a case identifier."""
    digits = re.search("[0-9]+$", case_id)
    return int(digits[0]) if digits else None


def _check_against_known_numbers(
    records: Mapping[str, CaseRecord], decisions: Decisions, known_scan: KnownScan
) -> None:
    """What is known about equal scans checks what the fingerprints found; it never replaces it."""
    expected: dict[tuple[str, int], list[str]] = defaultdict(list)
    for case_id, record in records.items():
        number = case_number(case_id)
        scan = known_scan(record.presence.dataset, number) if number is not None else None
        if scan:
            expected[scan].append(case_id)
    for (title, number), cases in expected.items():
        if len({decisions.groups[case_id] for case_id in cases}) > 1:
            decisions.notes.append(f"{' and '.join(cases)} should be one scan ({title} {number}), but voxels differ")
