"""Which files belong together: references, predictions, dataset.json and manifest on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.cases import Coding
from nnunetv2_clip.evaluation.volumes import LabelCoding, MaskCoding, PaintedCoding
from nnunetv2_clip.imaging.nifti import SUFFIXES, stem
from nnunetv2_clip.manifest import FILE_NAME, Manifest
from nnunetv2_clip.trained_model import ModelTables


@dataclass(frozen=True)
class Side:
    """References or predictions: the files of each case and how to read them.

    Attributes:
        files: case -> label file or folder of masks.
        classes: the classes that this side can know.
    """

    folder: Path
    files: dict[str, Path]
    coding: Coding
    classes: frozenset[str]

    def classes_of(self, case_id: str) -> frozenset[str]:
        """The classes of one case: for mask folders those with a file."""
        if isinstance(self.coding, MaskCoding):
            return frozenset(self.coding.files(self.files[case_id]))
        return self.classes


def find_label_files(folder: Path) -> tuple[dict[str, Path], bool]:
    """Case -> path, and whether the paths are folders of masks.

    Raises:
        UserError: no such folder, or neither label maps nor folders of masks in it.
    """
    if not folder.is_dir():
        raise UserError(folder, "is no folder", "a folder of label maps, or of folders with one mask per class")
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = {stem(path): path for path in entries if path.is_file() and is_image(path)}
    if files:
        return files, False
    folders = {path.name: path for path in entries if path.is_dir() and any(map(is_image, path.iterdir()))}
    if not folders:
        raise UserError(folder, "holds no label map", "files *.nii.gz, or a folder with <class>.nii.gz per case")
    return folders, True


def reference_side(folder: Path, dataset_json: dict | None, taxonomy: Taxonomy) -> Side:
    """Label maps in the values of dataset.json, or mask folders.

    Raises:
        UserError: label maps without a dataset.json.
    """
    files, are_masks = find_label_files(folder)
    if are_masks:
        return _mask_side(folder, files, taxonomy)
    if dataset_json is None:
        raise UserError(
            folder,
            "no dataset.json beside or above the label maps",
            "a dataset.json whose 'labels' say what the values mean",
            "give it with --dataset-json",
        )
    coding = LabelCoding.of(dataset_json["labels"], taxonomy, "dataset.json")
    return Side(folder, files, coding, coding.names)


def prediction_side(folder: Path, taxonomy: Taxonomy, labels: dict | None) -> Side:
    """Painted label maps, mask folders, or label maps in the label values of `labels`.

    The classes that the model knows are those that its training supervised, as the dataset.json and plans.json say that
    nnU-Net leaves beside its predictions.
    """
    files, are_masks = find_label_files(folder)
    if are_masks:
        return _mask_side(folder, files, taxonomy)
    if labels is not None:
        coding = LabelCoding.of(labels, taxonomy, "dataset.json")
        return Side(folder, files, coding, coding.names)
    known = ModelTables.beside(folder).known or taxonomy.names
    names = frozenset(taxonomy.find(name, folder).name for name in known)
    return Side(folder, files, PaintedCoding(taxonomy), names)


def _mask_side(folder: Path, files: dict[str, Path], taxonomy: Taxonomy) -> Side:
    coding = MaskCoding(taxonomy)
    return Side(folder, files, coding, frozenset().union(*(coding.files(path) for path in files.values())))


def find_dataset_json(folder: Path, levels: int = 1) -> Path | None:
    """dataset.json beside the files, or up to `levels` folders above (labelsTr and gt_segmentations lie one below)."""
    # By name, not by resolve(): reports then show paths as they were given.
    candidates = [Path(os.path.normpath(folder / Path(*[".."] * level))) for level in range(levels + 1)]
    return next((path / "dataset.json" for path in candidates if (path / "dataset.json").is_file()), None)


def find_manifest(given: Path | None, dataset_json: Path | None) -> Manifest | None:
    """The manifest that was named, else the one beside dataset.json, else None."""
    if given is not None:
        return Manifest.load(given / FILE_NAME if given.is_dir() else given)
    beside = dataset_json.parent / FILE_NAME if dataset_json is not None else None
    return Manifest.load(beside) if beside is not None and beside.is_file() else None


def is_image(path: Path) -> bool:
    """A NIfTI file by its name, and not a hidden one."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")
