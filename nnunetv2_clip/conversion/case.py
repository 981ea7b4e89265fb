"""One case from its source into the merge; each step is complete or not there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_clip.choices import FIRST
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.lesions import load_case
from nnunetv2_clip.conversion.plausibility import Extent, extents_of, wrong_sides
from nnunetv2_clip.conversion.same_scan import fingerprint_of
from nnunetv2_clip.conversion.source import LoadedCase, SourceCase, complete
from nnunetv2_clip.conversion.target import CaseRecord, Target
from nnunetv2_clip.files import replacing
from nnunetv2_clip.imaging.findings import settle
from nnunetv2_clip.imaging.intake import CT, header_findings, is_wide, voxel_findings
from nnunetv2_clip.imaging.nifti import COMPRESSION_LEVEL, FILE_ENDING, Volume, checksum, fingerprint, write_nifti
from nnunetv2_clip.job_folder import file_states
from nnunetv2_clip.labels import ClassMap, ClassSet, LabelTable, occurring_values, ordered_sets
from nnunetv2_clip.manifest import CasePresence

# In pending label maps; the merge replaces it by nnU-Net's ignore label, which is known when all cases are.
PENDING_UNKNOWN = 65535


@dataclass(frozen=True)
class MergeJob:
    """What every step of a merge needs, worker processes included.

    Attributes:
        known_sets: sets of classes whose label value (position + 1) is fixed before reading.
        copy_images: copy images that need no change instead of linking them.
        compression: gzip's level of the files that are written.
        contradictions: FIRST or UNKNOWN, what becomes of voxels in which two sources contradict each other.
    """

    target: Target
    taxonomy: Taxonomy
    known_sets: tuple[ClassSet, ...]
    copy_images: bool = False
    compression: int = COMPRESSION_LEVEL
    contradictions: str = FIRST

    def pending(self, labels: ClassMap, where: object) -> tuple[np.ndarray, dict[str, Any]]:
        """Labels in the values of the known sets and, after these, of the sets of its own, or `PENDING_UNKNOWN`.

        Returns:
            (X, Y, Z) uint16, and `new_sets` (that occur and were not known, in an order that depends on them only) and
            `has_unknown` of its record.

        Raises:
            UserError: a value that means nothing.
        """
        known = set(self.known_sets)
        candidates = {value for value, classes in labels.sets.items() if classes and classes not in known}
        occurring = candidates.intersection(occurring_values(labels.values).tolist()) if candidates else ()
        new_sets = ordered_sets(labels.sets[value] for value in occurring)
        label_map = labels.remap(LabelTable(self.known_sets + new_sets), where, PENDING_UNKNOWN)
        listed = tuple(tuple(sorted(classes)) for classes in new_sets)
        return label_map, {"new_sets": listed, "has_unknown": bool((label_map == PENDING_UNKNOWN).any())}

    def labels_of(self, label_map: np.ndarray, record: CaseRecord) -> ClassMap:
        """The inverse of `pending`."""
        table = LabelTable(self.known_sets + tuple(map(frozenset, record.new_sets)))
        return ClassMap(label_map, {**table.sets, PENDING_UNKNOWN: None})


def convert_case(job: MergeJob, case: SourceCase) -> None:
    """Write image, label map and record of one case; the record comes last and marks the case as done.

    Raises:
        UserError: naming the file that is wrong.
    """
    target, case_id = job.target, case.case_id
    inputs = file_states(case.files.values())
    loaded, labels, extents, warnings = load_checked(case, job.taxonomy)
    label_map, facts = job.pending(labels, ", ".join(map(str, case.labels.values())))
    # The group may become that of a copy. "voxels" stays the case's own, so that the scan is recognised later.
    scan = f"scan_{fingerprint(loaded.image)}"
    presence = CasePresence(
        dataset=case.source.name,
        annotated=job.taxonomy.ordered(loaded.annotated),
        absent=job.taxonomy.ordered(loaded.absent),
        incomplete=job.taxonomy.ordered(loaded.incomplete),
        group=scan,
        patient=case.source.patient_of(case),
        source_files={role: str(path) for role, path in case.files.items()},
        checksums={**{role: checksum(path) for role, path in case.files.items()}, "voxels": scan},
        geometry_fixes=loaded.fixes,
    )
    shape = loaded.image.data.shape
    record = CaseRecord(presence, **facts, inputs=inputs, shape=shape, warnings=warnings, extents=extents)
    target.forget(case_id)
    label_file = target.pending_label(case_id) if record.is_pending else target.label(case_id)
    write_label_map(label_file, label_map, loaded.image.affine, job.compression)
    _place_image(loaded.image, job, case_id)
    picks = fingerprint_of(loaded.image.data).picks
    with replacing(target.fingerprint(case_id)) as beside, open(beside, "wb") as file:
        np.save(file, picks)
    target.write_record(case_id, asdict(record))


def write_label_map(
    path: Path, label_map: np.ndarray, affine: np.ndarray, compression: int = COMPRESSION_LEVEL
) -> None:
    """As uint8 where the values allow it, else as uint16."""
    data = label_map.astype(np.uint8 if label_map.max() <= 255 else np.uint16)
    write_nifti(path, data, affine, compression)


def load_checked(
    case: SourceCase, taxonomy: Taxonomy
) -> tuple[LoadedCase, ClassMap, dict[str, Extent], tuple[str, ...]]:
    """A case as it can be converted, its labels with the organs that hold each class, the extent of each class, and
    what looks wrong, in words.

    Raises:
        UserError: naming the file that is wrong.
    """
    headers = settle(header_findings(case.image), case.image, "convert")
    loaded = load_case(case.source, case, taxonomy)
    assert loaded.labels.values.shape == loaded.image.data.shape, case.case_id
    states = (*loaded.drawn, *loaded.absent)
    assert len(set(states)) == len(states), case.case_id
    labels = loaded.labels.with_sets(lambda classes: complete(classes, loaded.drawn, taxonomy))
    labels = labels.with_unknown_of(loaded.annotated)
    voxels = settle(voxel_findings(case.image, loaded.image, case.source.modality, labels), case.image, "convert")
    repaired = tuple(f"written anew: {row.found}" for row in headers if row.action("convert") == "repaired")
    if repaired:
        loaded = replace(loaded, image=replace(loaded.image, path=None), fixes=(*loaded.fixes, *repaired))
    extents = extents_of(labels, loaded.image.affine)
    sides = wrong_sides(extents, taxonomy, loaded.image if case.source.modality == CT else None)
    looks = (str(row) for row in (*headers, *voxels) if row.action("convert") == "warning")
    return loaded, labels, extents, (*looks, *sides)


def _place_image(image: Volume, job: MergeJob, case_id: str) -> None:
    """Link, copy or write the image, in this order of preference."""
    if image.path is not None and image.path.name.endswith(FILE_ENDING):
        job.target.place_image(case_id, image.path, job.copy_images)
        return
    data = image.data
    if data.dtype.kind == "f" or is_wide(data.dtype):
        data = data.astype(np.float32 if data.dtype.kind == "f" else np.int32)
    write_nifti(job.target.image(case_id), data, image.affine, job.compression)
