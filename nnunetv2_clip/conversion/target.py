"""The folder that a merge writes: who owns it, which cases are done.

nnUNet_raw/DatasetXXX_Name/
    imagesTr/ labelsTr/ dataset.json label_presence.json splits_final.json
    .conversion/plan.json       what is converted; another plan is refused
    .conversion/cases/*.json    one record per finished case, written last
    .conversion/labels/         label maps of single cases whose final form follows from all cases
    .conversion/merged/         label maps and records of scans that several sources annotate
    .conversion/set_aside/      images of cases that are not part of the dataset: copies of others, held out
    .conversion/fingerprints/   what finds the copies of a scan
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import changed_keys, read_json, remove_leftovers, write_json
from nnunetv2_clip.imaging.nifti import FILE_ENDING
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import CasePresence


@dataclass(frozen=True)
class CaseRecord:
    """What a finished case tells about itself.

    Attributes:
        presence: its entry in the manifest.
        new_sets: sets of classes that occur in its label map and have no label value in the plan.
        has_unknown: some voxel is unknown for every class.
        inputs: source file -> [size in bytes, time of change in ns].
        shape: (X, Y, Z) of the image.
        warnings: what looks wrong and was not changed, in words.
    """

    presence: CasePresence
    new_sets: tuple[tuple[str, ...], ...]
    has_unknown: bool
    inputs: dict[str, list[int]]
    shape: tuple[int, int, int]
    warnings: tuple[str, ...] = ()

    @property
    def is_pending(self) -> bool:
        """The label map waits in .conversion/labels for its final values."""
        return bool(self.new_sets) or self.has_unknown


@dataclass(frozen=True)
class Target:
    """The raw folder of the merge and its twin in nnUNet_preprocessed."""

    folder: Path
    preprocessed: Path

    @property
    def state(self) -> Path:
        return self.folder / ".conversion"

    def image(self, case_id: str) -> Path:
        return self.folder / "imagesTr" / f"{case_id}_0000{FILE_ENDING}"

    def label(self, case_id: str) -> Path:
        return self.folder / "labelsTr" / f"{case_id}{FILE_ENDING}"

    def pending_label(self, case_id: str) -> Path:
        return self.state / "labels" / f"{case_id}{FILE_ENDING}"

    def own_label(self, case_id: str) -> Path:
        """The label map that was made from this case alone."""
        pending = self.pending_label(case_id)
        return pending if pending.is_file() else self.label(case_id)

    def merged_label(self, case_id: str) -> Path:
        return self.state / "merged" / f"{case_id}{FILE_ENDING}"

    def set_aside(self, case_id: str) -> Path:
        """Where the image of a case waits that is not part of the dataset."""
        return self.state / "set_aside" / self.image(case_id).name

    def fingerprint(self, case_id: str) -> Path:
        return self.state / "fingerprints" / f"{case_id}.npy"

    @property
    def report(self) -> Path:
        return self.folder / "conversion_report.json"

    def claim(self, plan: dict) -> None:
        """Make the folders and write down the plan, or make sure that the folder was begun with the same one.

        Raises:
            UserError: somebody else's folder, or a conversion with another plan.
        """
        plan_file = self.state / "plan.json"
        plan = json.loads(json.dumps(plan))
        if not plan_file.is_file():
            self._require_free(plan_file)
        if not plan_file.is_file():
            write_json(plan_file, plan)  # before anything that would look like somebody else's dataset
        self._require_same(read_json(plan_file, "use another dataset id"), plan)
        for folder in ("imagesTr", "labelsTr"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("cases", "labels", "merged", "set_aside", "fingerprints"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        inside = [folder for parent in (self.folder, self.state) for folder in parent.iterdir() if folder.is_dir()]
        remove_leftovers(self.folder, *inside, self.preprocessed)

    def _require_free(self, plan_file: Path) -> None:
        in_use = self.folder.exists() and any(path.name != ".conversion" for path in self.folder.iterdir())
        if in_use and plan_file.is_file():  # another part has begun just now
            return
        if in_use or self.folder.is_file():
            raise UserError(
                self.folder,
                "is in use and was not begun by 'nnunetv2_clip convert'",
                "an unused dataset id, or the same command as before",
                "choose another id with -d, or move the folder away",
            )
        number = self.folder.name.split("_")[0]
        namesakes = [
            path
            for parent in (self.folder.parent, self.preprocessed.parent)
            for path in parent.glob(f"{number}_*")
            if path.name != self.folder.name
        ]
        if namesakes:
            raise UserError(namesakes[0], "has the same dataset id", "an unused id", "choose another id with -d")
        foreign = self.preprocessed.is_dir() and any(self.preprocessed.iterdir())
        if foreign and not (self.preprocessed / MANIFEST_FILE).is_file():
            raise UserError(
                self.preprocessed,
                "holds another dataset",
                "an unused dataset id",
                "choose another id with -d, or move the folder away",
            )

    def _require_same(self, before: object, plan: dict) -> None:
        if before == plan:
            return
        raise UserError(
            self.folder,
            f"was begun with other {' and '.join(changed_keys(before, plan))}",
            "the same sources and options as before",
            "choose another id with -d, or move the folder away to convert anew",
        )

    def record_file(self, case_id: str) -> Path:
        return self.state / "cases" / f"{case_id}.json"

    def recorded_cases(self) -> list[str]:
        """The finished cases, sorted."""
        return sorted(path.stem for path in (self.state / "cases").glob("*.json") if not path.name.startswith("."))

    def write_record(self, case_id: str, record: CaseRecord) -> None:
        write_json(self.record_file(case_id), asdict(record))

    def read_record(self, case_id: str) -> CaseRecord:
        return self._parse_record(self.record_file(case_id))

    def write_merged_record(self, case_id: str, record: CaseRecord) -> None:
        write_json(self.state / "merged" / f"{case_id}.json", asdict(record))

    def read_merged_record(self, case_id: str) -> CaseRecord | None:
        path = self.state / "merged" / f"{case_id}.json"
        return self._parse_record(path) if path.is_file() and self.merged_label(case_id).is_file() else None

    @staticmethod
    def _parse_record(path: Path) -> CaseRecord:
        content = json.loads(path.read_text(encoding="utf-8"))
        presence = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["presence"].items()
        }
        return CaseRecord(
            presence=CasePresence(**presence),
            new_sets=tuple(tuple(classes) for classes in content["new_sets"]),
            has_unknown=content["has_unknown"],
            inputs=content["inputs"],
            shape=tuple(content["shape"]),
            warnings=tuple(content["warnings"]),
        )

    def is_done(self, case_id: str, files: Iterable[Path]) -> bool:
        """The case was converted from these very files and its output is still there."""
        if not self.record_file(case_id).is_file() or not self.fingerprint(case_id).is_file():
            return False
        has_image = self.image(case_id).exists() or self.set_aside(case_id).exists()
        return (
            has_image and self.own_label(case_id).is_file() and self.read_record(case_id).inputs == file_states(files)
        )

    def forget(self, case_id: str) -> None:
        """Remove everything that was made of a case; the record goes first."""
        self.record_file(case_id).unlink(missing_ok=True)
        for path in (self.image(case_id), self.set_aside(case_id), self.label(case_id), self.pending_label(case_id)):
            path.unlink(missing_ok=True)
        self.fingerprint(case_id).unlink(missing_ok=True)

    def arrange(self, present: Collection[str], merged: Collection[str], absent: Collection[str]) -> None:
        """Put images and label maps of single cases where the decisions about copies want them, by renaming.

        Args:
            present: cases of the dataset. Those in `merged` get a label map that others contribute to.
            absent: cases that are not part of it.
        """
        for case_id in present:
            _move(self.set_aside(case_id), self.image(case_id))
            if case_id in merged:
                self._keep_own_label(case_id)
            elif not self.read_record(case_id).is_pending:
                _move(self.pending_label(case_id), self.label(case_id))
        for case_id in absent:
            self._keep_own_label(case_id)
            self.label(case_id).unlink(missing_ok=True)
            _move(self.image(case_id), self.set_aside(case_id))

    def _keep_own_label(self, case_id: str) -> None:
        if not self.pending_label(case_id).is_file():
            _move(self.label(case_id), self.pending_label(case_id))


def _move(path: Path, destination: Path) -> None:
    if path.exists() or path.is_symlink():
        os.replace(path, destination)


def file_states(files: Iterable[Path]) -> dict[str, list[int]]:
    """File -> size and time of change, to notice that a source file was replaced; folders count with all they hold."""
    states = {}
    for path in files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            status = file.stat()
            states[str(file)] = [status.st_size, status.st_mtime_ns]
    return states
