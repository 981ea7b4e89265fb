"""The dataset that holds truth and pseudo labels, and what a finished case leaves for the end.

nnUNet_raw/DatasetXXX_Name/
    imagesTr/ labelsTr/ label_presence.json splits_final.json pseudo_labels.csv pseudo_labels.txt dataset.json
    .pseudo/                    see `DatasetFolder`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.imaging.nifti import Volume, read_label_map, write_nifti
from nnunetv2_clip.job_folder import DatasetFolder, FileStates
from nnunetv2_clip.labels import ClassMap, ClassSet
from nnunetv2_clip.pseudo_labels.case import PairResult


@dataclass(frozen=True)
class CompletedCase:
    """The meaning of the values of a label map that waits for its final ones, and what became of each class."""

    sets: dict[int, ClassSet | None]
    results: tuple[PairResult, ...]


class CompletedDataset(DatasetFolder):
    """The raw folder of the new dataset and its twin in nnUNet_preprocessed."""

    command = "pseudo-label"
    same = "the same dataset, model and options as before"
    remedy = "choose another id with -o, or move the folder away"
    state_name = ".pseudo"

    def files(self, case_id: str) -> list[Path]:
        final = [self.image(case_id), self.label(case_id)] if self.dataset_json.is_file() else []
        return [self.pending_label(case_id), *final]

    def save_case(
        self, case_id: str, inputs: FileStates, labels: ClassMap, affine: np.ndarray, results: Sequence[PairResult]
    ) -> None:
        """Label map in the case's own values, then its record."""
        write_nifti(self.pending_label(case_id), labels.values, affine)
        self.write_record(
            case_id,
            {
                "inputs": inputs,
                "sets": {value: None if classes is None else sorted(classes) for value, classes in labels.sets.items()},
                "results": [asdict(result) for result in results],
            },
        )

    def read_case(self, case_id: str) -> CompletedCase:
        """Of a case that is done."""
        content = self.record(case_id)
        sets = {int(value): classes and frozenset(classes) for value, classes in content["sets"].items()}
        return CompletedCase(sets, tuple(PairResult(**result) for result in content["results"]))

    def read_pending_label(self, case_id: str) -> Volume:
        return read_label_map(self.pending_label(case_id))
