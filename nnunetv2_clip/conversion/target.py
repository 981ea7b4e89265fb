"""The folder that a merge writes, and the record of a converted case.

nnUNet_raw/DatasetXXX_Name/
    imagesTr/ labelsTr/ dataset.json label_presence.json splits_final.json
    .conversion/                see `DatasetFolder`, and beside that:
    .conversion/merged/         label maps and records of scans that several sources annotate
    .conversion/set_aside/      images of cases that are not part of the dataset: copies of others, held out
    .conversion/fingerprints/   what finds the copies of a scan
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunetv2_clip.conversion.plausibility import Extent
from nnunetv2_clip.files import move, read_record, write_json
from nnunetv2_clip.imaging.nifti import FILE_ENDING
from nnunetv2_clip.job_folder import DatasetFolder, is_readable
from nnunetv2_clip.manifest import CasePresence


@dataclass(frozen=True)
class CaseRecord:
    """What a finished case tells about itself.

    Attributes:
        presence: its entry in the manifest.
        new_sets: sets of classes that occur in its label map and have no label value in the plan.
        has_unknown: some voxel is unknown for every class.
        inputs: the states of the source files (`file_states`).
        shape: (X, Y, Z) of the image.
        warnings: what looks wrong and was not changed, in words.
        extents: what each class that occurs takes up.
    """

    presence: CasePresence
    new_sets: tuple[tuple[str, ...], ...]
    has_unknown: bool
    inputs: dict[str, list[int]]
    shape: tuple[int, int, int]
    warnings: tuple[str, ...] = ()
    extents: dict[str, Extent] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        """The label map waits in .conversion/labels for its final values."""
        return bool(self.new_sets) or self.has_unknown

    @classmethod
    def of(cls, content: dict) -> CaseRecord:
        """From the table that `asdict` made of it."""
        presence = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["presence"].items()
        }
        return cls(
            presence=CasePresence(**presence),
            new_sets=tuple(tuple(classes) for classes in content["new_sets"]),
            has_unknown=content["has_unknown"],
            inputs=content["inputs"],
            shape=tuple(content["shape"]),
            warnings=tuple(content["warnings"]),
            extents={name: Extent.of(extent) for name, extent in content["extents"].items()},
        )


class Target(DatasetFolder):
    """The raw folder of the merge and its twin in nnUNet_preprocessed."""

    command = "convert"
    same = "the same sources and options as before"
    remedy = "choose another id with -d, or move the dataset's folders away to convert anew"
    state_name = ".conversion"
    state_folders = (*DatasetFolder.state_folders, "merged", "set_aside", "fingerprints")

    def own_label(self, case_id: str) -> Path:
        """The label map that was made from this case alone."""
        pending = self.pending_label(case_id)
        return pending if pending.is_file() else self.label(case_id)

    def merged_label(self, case_id: str) -> Path:
        return self.state / "merged" / f"{case_id}{FILE_ENDING}"

    def set_aside(self, case_id: str) -> Path:
        """Where the image of a case waits that is not part of the dataset."""
        return self.state / "set_aside" / self.image(case_id).name

    def own_image(self, case_id: str) -> Path:
        """The image, wherever it is."""
        aside = self.set_aside(case_id)
        return aside if aside.exists() else self.image(case_id)

    def fingerprint(self, case_id: str) -> Path:
        return self.state / "fingerprints" / f"{case_id}.npy"

    def files(self, case_id: str) -> list[Path]:
        return [self.own_image(case_id), self.own_label(case_id), self.fingerprint(case_id)]

    @property
    def report(self) -> Path:
        return self.folder / "conversion_report.json"

    def read_record(self, case_id: str) -> CaseRecord:
        """Of a case that is done."""
        return CaseRecord.of(self.record(case_id))

    def write_merged_record(self, case_id: str, record: CaseRecord) -> None:
        write_json(self._merged_record_file(case_id), asdict(record))

    def read_merged_record(self, case_id: str) -> CaseRecord | None:
        """None where the union has still to be made."""
        content = read_record(self._merged_record_file(case_id))
        return CaseRecord.of(content) if content and is_readable(self.merged_label(case_id)) else None

    def _merged_record_file(self, case_id: str) -> Path:
        return self.state / "merged" / f"{case_id}.json"

    def forget(self, case_id: str) -> None:
        super().forget(case_id)
        for path in (self.set_aside(case_id), self.fingerprint(case_id)):
            path.unlink(missing_ok=True)

    def arrange(self, present: Collection[str], merged: Collection[str], absent: Collection[str]) -> None:
        """Put images and label maps of single cases where the decisions about copies want them, by renaming.

        Args:
            present: cases of the dataset. Those in `merged` get a label map that others contribute to.
            absent: cases that are not part of it.
        """
        for case_id in present:
            move(self.set_aside(case_id), self.image(case_id))
            if case_id in merged:
                self._keep_own_label(case_id)
            elif not self.read_record(case_id).is_pending:
                move(self.pending_label(case_id), self.label(case_id))
        for case_id in absent:
            self._keep_own_label(case_id)
            self.label(case_id).unlink(missing_ok=True)
            move(self.image(case_id), self.set_aside(case_id))

    def _keep_own_label(self, case_id: str) -> None:
        if not self.pending_label(case_id).is_file():
            move(self.label(case_id), self.pending_label(case_id))
