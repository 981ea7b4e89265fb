"""Folders that one job fills, case after case, and goes on with after an interruption.

The plan of the job is written first; a folder that was begun with another one is refused. A case is done when its
record and all its files can be read and it was made of the files that are there today.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import changed_keys, locked, read_record, remove_leftovers, replacing, write_json
from nnunetv2_clip.imaging.nifti import FILE_ENDING, inspect

FileStates = dict[str, list[int] | None]


class JobFolder:
    """What all such folders have in common.

    Attributes:
        same, remedy: expected when a folder is continued, and what to do where it is not so, in words.
    """

    folder: Path
    same: ClassVar[str]
    remedy: ClassVar[str]

    def record(self, case_id: str) -> dict | None:
        """What was written down of a finished case; None where that is missing, empty or broken."""
        raise NotImplementedError

    def files(self, case_id: str) -> Sequence[Path]:
        """Every file that a finished case has."""
        raise NotImplementedError

    def is_done(self, case_id: str, inputs: object) -> bool:
        """The case was made of these inputs (as its record has them), and its files are whole."""
        record = self.record(case_id)
        return record is not None and record.get("inputs") == inputs and all(map(is_readable, self.files(case_id)))

    def require_same(
        self, before: Mapping | None, plan: dict, where: Path | None = None, keys: Sequence[str] | None = None
    ) -> None:
        """Make sure that the folder was begun with the same plan.

        Args:
            keys: that are compared; None: all.

        Raises:
            UserError: it was not; says what has changed.
        """
        changed = changed_keys(before, plan, keys or list({**plan, **(before or {})}))
        if changed:
            found = f"was begun with other {' and '.join(changed)}"
            raise UserError(where or self.folder, found, self.same, self.remedy)

    def remove_leftovers(self) -> None:
        """Remove what killed processes were writing in the folder and in those directly inside."""
        remove_leftovers(self.folder, *(path for path in self.folder.iterdir() if path.is_dir()))


@dataclass(frozen=True)
class DatasetFolder(JobFolder):
    """A raw dataset of nnU-Net that is being made, and its twin in nnUNet_preprocessed.

    nnUNet_raw/DatasetXXX_Name/
        imagesTr/ labelsTr/
        dataset.json            written last: the dataset is complete
        STATE/plan.json         what the cases depend on
        STATE/lock              held by whoever is at work
        STATE/cases/*.json      one record per finished case, written after its files
        STATE/labels/           label maps whose final values follow from all cases

    Attributes:
        command: that begins such a folder.
        state_name: of the hidden folder STATE.
        state_folders: inside of it.
    """

    folder: Path
    preprocessed: Path
    command: ClassVar[str]
    state_name: ClassVar[str]
    state_folders: ClassVar[tuple[str, ...]] = ("cases", "labels")

    @property
    def state(self) -> Path:
        return self.folder / self.state_name

    @property
    def dataset_json(self) -> Path:
        return self.folder / "dataset.json"

    def image(self, case_id: str) -> Path:
        return self.folder / "imagesTr" / f"{case_id}_0000{FILE_ENDING}"

    def label(self, case_id: str) -> Path:
        return self.folder / "labelsTr" / f"{case_id}{FILE_ENDING}"

    def pending_label(self, case_id: str) -> Path:
        return self.state / "labels" / f"{case_id}{FILE_ENDING}"

    def check(self, plan: dict) -> None:
        """Make sure that the folder is free, or was begun with the same plan. Writes nothing.

        Raises:
            UserError: somebody else's folder, the id of another dataset, or another plan.
        """
        if self._plan() is None:
            self._require_free()
        else:
            self.require_same(self._plan(), plan)

    @contextmanager
    def claim(self, plan: dict, part: int | None = None) -> Iterator[None]:
        """Hold the folder, with its plan written down and its folders made, while the block lasts.

        Args:
            part: of several that work at the same time; None: nobody else may.

        Raises:
            UserError: see `check`; or another process holds the folder or part.
        """
        self.check(plan)
        self.state.mkdir(parents=True, exist_ok=True)
        remedy = "wait until it has ended, or end it; parts with different -part_id may run at the same time"
        with locked(self.state / "lock", self.folder, remedy, part):
            self._begin(plan)
            yield

    def _begin(self, plan: dict) -> None:
        if self._plan() is None:  # else begun before, or by another part just now
            write_json(self._plan_file, plan)  # before anything that would look like somebody else's dataset
        self.require_same(self._plan(), plan)
        folders = [self.folder / "imagesTr", self.folder / "labelsTr", *map(self.state.joinpath, self.state_folders)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()
        remove_leftovers(*(path for path in self.state.iterdir() if path.is_dir()), self.preprocessed)

    @property
    def _plan_file(self) -> Path:
        return self.state / "plan.json"

    def _plan(self) -> dict | None:
        return read_record(self._plan_file) if self._plan_file.is_file() else None

    def _require_free(self) -> None:
        in_use = self.folder.exists() and any(path.name != self.state_name for path in self.folder.iterdir())
        if in_use and self._plan() is not None:  # another part has begun just now
            return
        if in_use or self.folder.is_file():
            found = f"is in use and was not begun by 'nnunetv2_clip {self.command}'"
            expected = "an unused dataset id, or the same command as before: nothing is ever overwritten"
            raise UserError(self.folder, found, expected, self.remedy)
        namesakes = self._namesakes()
        if namesakes:
            raise UserError(namesakes[0], "has the same dataset id", "an unused dataset id", self.remedy)
        if self.preprocessed.is_dir() and any(self.preprocessed.iterdir()):
            raise UserError(self.preprocessed, "holds another dataset", "an unused dataset id", self.remedy)

    def _namesakes(self) -> list[Path]:
        """Other datasets of the same id; nnU-Net looks for the name of an id in all its three folders."""
        number, results = self.folder.name.split("_")[0], os.environ.get("nnUNet_results")
        parents = [self.folder.parent, self.preprocessed.parent, *([Path(results)] if results else [])]
        found = [path for parent in parents for path in sorted(parent.glob(f"{number}_*"))]
        return [path for path in found if path.name != self.folder.name]

    def _record_file(self, case_id: str) -> Path:
        return self.state / "cases" / f"{case_id}.json"

    def record(self, case_id: str) -> dict | None:
        return read_record(self._record_file(case_id))

    def write_record(self, case_id: str, content: dict) -> None:
        """Written last: it marks the case as done."""
        assert "inputs" in content
        write_json(self._record_file(case_id), content)

    def recorded_cases(self) -> list[str]:
        """The cases with a record, sorted."""
        paths = (self.state / "cases").glob("*.json")
        return sorted(path.stem for path in paths if not path.name.startswith("."))

    def forget(self, case_id: str) -> None:
        """Remove everything that was made of a case; the record goes first."""
        self._record_file(case_id).unlink(missing_ok=True)
        for path in (self.image(case_id), self.label(case_id), self.pending_label(case_id)):
            path.unlink(missing_ok=True)

    def place_image(self, case_id: str, source: Path, copy: bool) -> None:
        """Link the image, or copy it where that is wanted or links are not to be had."""
        with replacing(self.image(case_id)) as beside:
            if copy or not _link(source, beside):
                shutil.copyfile(source, beside)


def _link(source: Path, beside: Path) -> bool:
    """Make a symbolic link; False where the file system has none."""
    try:
        os.symlink(source.resolve(), beside)
    except (OSError, NotImplementedError):
        return False
    return True


def is_readable(path: Path) -> bool:
    """The file is there and, as far as its beginning and end tell, whole: no dangling link, not empty, not cut off."""
    readers = {".gz": inspect, ".nii": inspect, ".npy": np.load, ".npz": np.load, ".json": _load_json}
    try:
        readers.get(path.suffix, _require_content)(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False
    return True


def _load_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _require_content(path: Path) -> None:
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")


def file_states(files: Iterable[Path]) -> FileStates:
    """File -> size in bytes and time of change in ns, to notice that an input was replaced; None: it is not there.

    Folders count with all they hold.
    """
    states: FileStates = {}
    for path in files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            states[str(file)] = None
            with suppress(OSError):
                status = file.stat()
                states[str(file)] = [status.st_size, status.st_mtime_ns]
    return states


def digest(states: object) -> str:
    """24 hexadecimal digits of file states: short enough for a name."""
    return hashlib.sha256(repr(states).encode()).hexdigest()[:24]
