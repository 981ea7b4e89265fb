"""The partly labelled raw dataset that is to be completed, and the one that holds truth and pseudo labels.

nnUNet_raw/DatasetXXX_Name/
    imagesTr/ labelsTr/ label_presence.json splits_final.json pseudo_labels.csv pseudo_labels.txt dataset.json
    .pseudo/                    see `DatasetFolder`
"""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import FILE_ENDING, Volume, inspect, read_label_map, require_same_grid, write_nifti
from nnunetv2_clip.job_folder import DatasetFolder, FileStates, is_readable
from nnunetv2_clip.labels import IGNORE, UNKNOWN, ClassMap, ClassSet, class_names, label_sets, load_dataset_json
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.pseudo_labels.case import PairResult

REMEDY = "give a raw dataset that 'nnunetv2_clip convert' wrote"


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset of nnU-Net with its manifest.

    Attributes:
        class_sets: label value -> the classes of its voxels; None for the ignore label.
    """

    folder: Path
    dataset_json: dict
    manifest: Manifest
    class_sets: dict[int, ClassSet | None]

    @classmethod
    def read(cls, folder: Path, remedy: str = REMEDY) -> RawDataset:
        """Raises UserError: no dataset with manifest, or label values that are none."""
        content = load_dataset_json(folder / "dataset.json", remedy)
        sets = label_sets(content["labels"], folder / "dataset.json", unknown=content.get(UNKNOWN))
        return cls(folder, content, Manifest.load(folder / MANIFEST_FILE), sets)

    def require_completable(self) -> None:
        """Raises UserError: several channels, or pseudo labels already."""
        where, content = self.folder / "dataset.json", self.dataset_json
        if content.get("file_ending") != FILE_ENDING:
            raise UserError(where, f"has images of type {content.get('file_ending')}", FILE_ENDING, REMEDY)
        if len(content.get("channel_names", ())) != 1:
            raise UserError(where, "has several image channels", "one", REMEDY)
        if self.manifest.has_pseudo_labels:
            expected = "truth only, so that no model learns from its own mistakes twice"
            remedy = "give the dataset from which this one was made"
            raise UserError(self.folder, "holds pseudo labels already", expected, remedy)

    @property
    def classes(self) -> tuple[str, ...]:
        """The declared classes in channel order."""
        return class_names(self.dataset_json["labels"])

    @property
    def rows(self) -> tuple[ClassRow, ...]:
        """Of the declared classes."""
        return tuple(self.manifest.taxonomy.find(name, self.folder / "dataset.json") for name in self.classes)

    @property
    def has_ignore(self) -> bool:
        return IGNORE in self.dataset_json["labels"]

    def case_ids(self) -> tuple[str, ...]:
        """Every case, sorted. Raises UserError: a label file without an entry in the manifest, or the reverse."""
        paths = (self.folder / "labelsTr").glob(f"*{FILE_ENDING}")
        files = {path.name.removesuffix(FILE_ENDING) for path in paths if not path.name.startswith(".")}
        for case_id in sorted(files):
            self.manifest.case(case_id)
        without = sorted(set(self.manifest.cases) - files)
        if without or not files:
            found = f"has no label map of {', '.join(without[:5]) or 'any case'}"
            raise UserError(self.folder / "labelsTr", found, "one for every case of the manifest")
        return tuple(sorted(files))

    def image(self, case_id: str) -> Path:
        return self.folder / "imagesTr" / f"{case_id}_0000{FILE_ENDING}"

    def label(self, case_id: str) -> Path:
        return self.folder / "labelsTr" / f"{case_id}{FILE_ENDING}"

    def read_truth(self, case_id: str) -> tuple[ClassMap, Volume]:
        """The truth of a case as uint16 with the sets that occur, and its label map.

        Raises:
            UserError: an unreadable file, another grid than the image's, or an unknown label value.
        """
        path = self.label(case_id)
        volume = read_label_map(path)
        require_same_grid(self.image(case_id), inspect(self.image(case_id)), path, volume.geometry)
        occurring = ClassMap(volume.data, self.class_sets).require_declared(path)
        return ClassMap(volume.data.astype(np.uint16), {v: self.class_sets[v] for v in occurring}), volume


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
        final = [self.image(case_id), self.label(case_id)] if is_readable(self.dataset_json) else []
        return [self.pending_label(case_id), *final]

    def save_case(
        self, case_id: str, inputs: FileStates, labels: ClassMap, affine: np.ndarray, results: Sequence[PairResult]
    ) -> None:
        """Label map in the case's own values, then its record."""
        write_nifti(self.pending_label(case_id), labels.values, affine)
        sets = {value: None if classes is None else sorted(classes) for value, classes in labels.sets.items()}
        self.write_record(case_id, {"inputs": inputs, "sets": sets, "results": [asdict(result) for result in results]})

    def read_case(self, case_id: str) -> CompletedCase:
        """Of a case that is done."""
        content = self.record(case_id)
        sets = {int(value): classes and frozenset(classes) for value, classes in content["sets"].items()}
        return CompletedCase(sets, tuple(PairResult(**result) for result in content["results"]))
