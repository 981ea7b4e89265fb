"""A dry run over downloads: what `convert` would find, without writing a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.case import load_checked
from nnunetv2_clip.conversion.copies import IN_SEVERAL_WAYS
from nnunetv2_clip.conversion.merge import Input, check_headers
from nnunetv2_clip.conversion.plausibility import Extent, doubtful_classes
from nnunetv2_clip.conversion.same_scan import Fingerprint, find_copies, fingerprint_of
from nnunetv2_clip.conversion.source import Source, SourceCase
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.body import ras_spacing, to_ras
from nnunetv2_clip.imaging.nifti import FILE_ENDING, Volume
from nnunetv2_clip.imaging.pictures import color_of, ct_picture, overlay_picture
from nnunetv2_clip.imaging.slices import CORONAL, cut, informative_slice
from nnunetv2_clip.labels import UNDECLARED, ClassMap
from nnunetv2_clip.painting import paint_labels
from nnunetv2_clip.runner import run_cases

THUMBNAIL_HEIGHT = 120  # pixels
# Bytes per voxel of compressed files, for the estimate of disk space.
IMAGE_BYTES, LABEL_BYTES = 1.2, 0.02


@dataclass(frozen=True, eq=False)
class CaseCheck:
    """What was seen of one case.

    Attributes:
        problem: what would stop its conversion; empty if nothing.
        warnings: what looks wrong in the converted case.
        grid: shape, spacing and axes, in words.
        voxels: annotated or incomplete class -> voxels; 0 where it does not occur.
        extents: what each class that occurs takes up.
        absent: classes known not to occur.
        incomplete: classes of which only a part was drawn.
        num_bytes: estimated size of the converted case on disk.
        picture, overlay: data URIs of a coronal slice and of its labels.
    """

    case_id: str
    problem: str = ""
    warnings: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    grid: str = ""
    voxels: dict[str, int] = field(default_factory=dict)
    extents: dict[str, Extent] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    num_bytes: int = 0
    fingerprint: Fingerprint | None = None
    picture: str = ""
    overlay: str = ""
    picture_size: tuple[int, int] = (0, 0)

    @property
    def annotated(self) -> list[str]:
        return [name for name in self.voxels if name not in self.incomplete]


@dataclass
class SourceCheck:
    """What was seen of one source.

    Attributes:
        expected: cases that the complete download gives, None where that has no fixed number.
        problems: of the source as a whole.
        remarks: what people should know about it.
        cases: those that were looked at.
        num_found: all labelled cases.
    """

    source: Source
    root: str
    expected: int | None
    num_found: int = 0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    cases: list[CaseCheck] = field(default_factory=list)

    def num_annotated(self, name: str) -> int:
        return sum(name in case.annotated for case in self.cases)

    def num_occurring(self, name: str) -> int:
        """Of the cases that annotate it."""
        return sum(case.voxels[name] > 0 for case in self.cases if name in case.annotated)

    def num_incomplete(self, name: str) -> tuple[int, int]:
        """Cases in which the class is incomplete and some of it is drawn, and all in which it is incomplete."""
        drawn = [case.voxels[name] > 0 for case in self.cases if name in case.incomplete]
        return sum(drawn), len(drawn)

    def num_absent(self, name: str) -> int:
        return sum(name in case.absent for case in self.cases)

    def volume_ml(self, name: str) -> float:
        """Median over the cases in which the class occurs; 0 if there is none."""
        volumes = [case.extents[name].ml for case in self.cases if case.voxels.get(name)]
        return float(np.median(volumes)) if volumes else 0.0

    @property
    def num_bytes(self) -> int:
        """Estimated disk space of all cases, from those that were looked at."""
        seen = [case.num_bytes for case in self.cases if not case.problem]
        return int(np.mean(seen) * self.num_found) if seen else 0


@dataclass(frozen=True)
class Copy:
    """Two cases that show the same scan."""

    first: str
    second: str
    note: str
    is_certain: bool = True


@dataclass(frozen=True)
class Check:
    """Everything that was seen."""

    sources: tuple[SourceCheck, ...]
    copies: tuple[Copy, ...]
    taxonomy: Taxonomy

    @property
    def problems(self) -> list[str]:
        """What would be wrong after a conversion, or would stop it."""
        found = []
        for check in self.sources:
            found += [f"{check.source.name}: {text}" for text in check.problems]
            found += [f"{case.case_id}: {case.problem}" for case in check.cases if case.problem]
            found += [f"{case.case_id}: {text}" for case in check.cases for text in case.warnings]
        found += [f"{each.first} and {each.second} {IN_SEVERAL_WAYS}" for each in self.copies if not each.is_certain]
        return found

    @property
    def class_names(self) -> list[str]:
        """Classes that some case annotates or knows to be absent, in the taxonomy's order."""
        seen: Counter[str] = Counter()
        for check in self.sources:
            for case in check.cases:
                seen.update([*case.voxels, *case.absent])
        return [name for name in self.taxonomy.names if seen[name]]


def check_downloads(
    inputs: Sequence[Input],
    taxonomy: Taxonomy,
    sample: int | None,
    num_processes: int,
    require_all: bool,
) -> Check:
    """Look through all sources.

    Args:
        sample: cases per source whose voxels are read, evenly spread; all if None. Headers are read of all.
        require_all: a number of cases other than that of the complete download is a problem.

    Raises:
        UserError: no source is where it should be.
    """
    if not any(entry.root.exists() for entry in inputs):  # nothing to look at
        inputs[0].source.find_cases(inputs[0].root)
    checks, tasks = {}, []
    for entry in inputs:
        checks[entry.source.name] = check = SourceCheck(
            entry.source, str(entry.root), entry.source.num_expected(entry.root)
        )
        tasks += _find(entry, check, sample, require_all)
    for seen in run_cases(partial(check_case, taxonomy), tasks, "checking", num_processes):
        case = CaseCheck(seen.name, problem=str(seen.error)) if seen.error else seen.result
        checks[seen.task.source.name].cases.append(case)
    for check in checks.values():
        check.cases.sort(key=lambda case: case.case_id)
        check.problems += doubtful_classes(((case.annotated, case.extents) for case in check.cases), taxonomy)
    return Check(tuple(checks.values()), _copies(checks.values()), taxonomy)


def _find(entry: Input, check: SourceCheck, sample: int | None, require_all: bool) -> list[SourceCase]:
    """The cases to read; what names and headers tell goes into `check`."""
    try:
        cases = entry.source.find_cases(entry.root)
    except UserError as error:
        check.problems.append(str(error))
        return []
    check.num_found, check.remarks = len(cases), entry.source.remarks(entry.root, cases)
    if require_all and check.expected not in (None, len(cases)):
        check.problems.append(f"{len(cases)} labelled cases found, the complete download has {check.expected}")
    good = []
    for seen in check_headers(cases):
        if seen.error:
            check.cases.append(CaseCheck(seen.name, problem=str(seen.error)))
        else:
            good.append(seen.task)
    if sample is None or len(good) <= sample:
        return good
    return [good[int(number)] for number in np.linspace(0, len(good) - 1, sample)]


def check_case(taxonomy: Taxonomy, case: SourceCase) -> CaseCheck:
    """Load one case as the conversion would and describe it."""
    loaded, labels, extents, warnings = load_checked(case, taxonomy)
    labels.require_declared(case.labels.get("label", case.image), remedy=UNDECLARED)
    counts = labels.num_voxels()
    voxels = {name: counts[name] for name in loaded.drawn}
    is_linked = loaded.image.path is not None and loaded.image.path.name.endswith(FILE_ENDING)
    picture, overlay, size = thumbnail(loaded.image, labels, taxonomy)
    return CaseCheck(
        case_id=case.case_id,
        warnings=warnings,
        fixes=loaded.fixes,
        grid=f"{' x '.join(map(str, loaded.image.data.shape))}, {loaded.image.geometry.describe()}",
        voxels=voxels,
        extents=extents,
        absent=loaded.absent,
        incomplete=loaded.incomplete,
        num_bytes=int(loaded.image.data.size * (LABEL_BYTES + (0 if is_linked else IMAGE_BYTES))),
        fingerprint=fingerprint_of(loaded.image.data),
        picture=picture,
        overlay=overlay,
        picture_size=size,
    )


def thumbnail(image: Volume, labels: ClassMap, taxonomy: Taxonomy) -> tuple[str, str, tuple[int, int]]:
    """The coronal slice with most labels, seen from the front: picture, overlay and (width, height)."""
    hu, painted = (to_ras(array, image.affine) for array in (image.data, paint_labels(labels, taxonomy)))
    y = informative_slice(painted, CORONAL)
    spacing = ras_spacing(image.affine)
    width = round(THUMBNAIL_HEIGHT * hu.shape[0] * spacing[0] / (hu.shape[2] * spacing[2]))
    size = (int(np.clip(width, 40, 240)), THUMBNAIL_HEIGHT)
    colors = {row.index: color_of(row) for row in taxonomy.subset(labels.names)}
    picture = ct_picture(cut(hu, CORONAL, y), size)
    return picture, overlay_picture(cut(painted, CORONAL, y), size, colors), size


def _copies(checks) -> tuple[Copy, ...]:
    cases = {case.case_id: case for check in checks for case in check.cases if case.fingerprint is not None}
    found = []
    for first, second, relation in find_copies({case_id: case.fingerprint for case_id, case in cases.items()}):
        note = "the same array" if relation.is_identity else "axes flipped or exchanged"
        if relation.shift:
            note += f", intensities shifted by {relation.shift:.4g}"
        if cases[first].grid != cases[second].grid:
            note += "; headers differ"
        found.append(Copy(first, second, note, relation.is_only))
    return tuple(found)
