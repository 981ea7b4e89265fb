"""The dataset that holds truth and pseudo labels: who began it, which cases are done, and how it becomes complete.

nnUNet_raw/DatasetXXX_Name/
    imagesTr/ labelsTr/ label_presence.json splits_final.json pseudo_labels.csv pseudo_labels.txt
    dataset.json              written last: the dataset is complete
    .pseudo/plan.json         what it is made of; another plan is refused
    .pseudo/cases/*.json      one record per finished case, written after its label map
    .pseudo/labels/           label maps whose final values follow from all cases
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import changed_keys, read_json, replacing, write_json
from nnunetv2_clip.imaging.nifti import Volume, read_label_map, write_nifti
from nnunetv2_clip.labels import ClassMap, ClassSet
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.pseudo_labels.case import PairResult
from nnunetv2_clip.pseudo_labels.source import FILE_ENDING


@dataclass(frozen=True)
class CaseRecord:
    """What a finished case leaves for the end: the meaning of its values, and what became of each class."""

    sets: dict[int, ClassSet | None]
    results: tuple[PairResult, ...]


@dataclass(frozen=True)
class Target:
    """The raw folder of the new dataset and its twin in nnUNet_preprocessed."""

    folder: Path
    preprocessed: Path

    @property
    def _state(self) -> Path:
        return self.folder / ".pseudo"

    def image(self, case_id: str) -> Path:
        return self.folder / "imagesTr" / f"{case_id}_0000{FILE_ENDING}"

    def label(self, case_id: str) -> Path:
        return self.folder / "labelsTr" / f"{case_id}{FILE_ENDING}"

    @property
    def _plan_file(self) -> Path:
        return self._state / "plan.json"

    def check(self, plan: dict) -> None:
        """Make sure that the folder is free, or was begun with the same plan. Writes nothing.

        Raises:
            UserError: somebody else's folder, the id of another dataset, or another plan.
        """
        if not self._plan_file.is_file():
            self._require_free()
            return
        changed = changed_keys(read_json(self._plan_file, "choose another id with -o"), plan)
        if changed:
            raise UserError(
                self.folder,
                f"was begun with other {', '.join(changed)}",
                "the same dataset, model and options as before",
                "choose another id with -o, or move the folder away",
            )

    def claim(self, plan: dict) -> None:
        """Make the folders and write down the plan.

        Raises:
            UserError: see `check`.
        """
        self.check(plan)
        if not self._plan_file.is_file():
            write_json(self._plan_file, plan)
        for folder in (
            self.folder / "imagesTr",
            self.folder / "labelsTr",
            self._state / "cases",
            self._state / "labels",
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def _require_free(self) -> None:
        remedy = "choose another id with -o, or move the folder away"
        if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
            raise UserError(self.folder, "is in use", "a new dataset: nothing is ever overwritten", remedy)
        if self.preprocessed.is_dir() and any(self.preprocessed.iterdir()):
            raise UserError(self.preprocessed, "holds another dataset", "an unused dataset id", remedy)
        number = self.folder.name.split("_")[0]
        results = os.environ.get("nnUNet_results")  # nnU-Net looks for the name of an id there as well
        for parent in (self.folder.parent, self.preprocessed.parent, *([Path(results)] if results else [])):
            for path in sorted(parent.glob(f"{number}_*")):
                if path.name != self.folder.name:
                    raise UserError(path, "has the same dataset id", "an unused dataset id", remedy)

    def is_complete(self) -> bool:
        return (self.folder / "dataset.json").is_file()

    def is_done(self, case_id: str) -> bool:
        return self._record(case_id).is_file()

    def save_case(self, case_id: str, labels: ClassMap, affine: np.ndarray, results: Sequence[PairResult]) -> None:
        """Label map in the case's own values, then its record."""
        path = self._pending(case_id)
        write_nifti(path, labels.values, affine)
        write_json(
            self._record(case_id),
            {
                "sets": {value: None if classes is None else sorted(classes) for value, classes in labels.sets.items()},
                "results": [asdict(result) for result in results],
            },
        )

    def read_case(self, case_id: str) -> CaseRecord:
        content = read_json(self._record(case_id), "remove the folder and begin anew")
        sets = {int(value): classes and frozenset(classes) for value, classes in content["sets"].items()}
        return CaseRecord(sets, tuple(PairResult(**result) for result in content["results"]))

    def pending_label(self, case_id: str) -> Volume:
        return read_label_map(self._pending(case_id))

    def place_image(self, case_id: str, source: Path, copy: bool) -> None:
        """Link the image, or copy it where that is wanted or links are not to be had."""
        with replacing(self.image(case_id)) as beside:
            try:
                if copy:
                    raise OSError
                os.symlink(source.resolve(), beside)
            except (OSError, NotImplementedError):
                shutil.copyfile(source, beside)

    def finish(self, dataset_json: dict) -> None:
        """The dataset is complete: say so, and drop the label maps that were only waiting."""
        assert (self.preprocessed / MANIFEST_FILE).is_file()
        write_json(self.folder / "dataset.json", dataset_json)
        shutil.rmtree(self._state / "labels", ignore_errors=True)

    def _record(self, case_id: str) -> Path:
        return self._state / "cases" / f"{case_id}.json"

    def _pending(self, case_id: str) -> Path:
        return self._state / "labels" / f"{case_id}.nii.gz"
