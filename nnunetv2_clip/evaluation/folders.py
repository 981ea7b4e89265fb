"""Which files belong together: references, predictions, dataset.json and manifest on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.cases import Coding
from nnunetv2_clip.evaluation.volumes import MaskCoding, PaintedCoding, coding_of
from nnunetv2_clip.imaging.nifti import SUFFIXES, stem
from nnunetv2_clip.labels import load_dataset_json
from nnunetv2_clip.manifest import FILE_NAME, Manifest
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON, ModelTables

NAME_IT = "give that of the reference labels with --dataset-json"


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


def reference_side(folder: Path, json_file: Path | None, taxonomy: Taxonomy) -> Side:
    """Label maps in the values of dataset.json, a folder of predictions, or mask folders.

    Raises:
        UserError: label maps without a dataset.json.
    """
    files, are_masks = find_label_files(folder)
    if are_masks:
        return _mask_side(folder, files, taxonomy)
    if json_file is None:
        raise UserError(
            folder,
            "no dataset.json beside or above the label maps",
            "a dataset.json whose 'labels' say what the values mean",
            "give it with --dataset-json",
        )
    tables = ModelTables.beside(folder)
    if PLANS_JSON in tables.files and json_file == folder / DATASET_JSON:  # nnU-Net leaves both beside predictions
        return _label_side(folder, files, tables.dataset_json, taxonomy, json_file, True, tables.known)
    return _label_side(folder, files, load_dataset_json(json_file, NAME_IT), taxonomy, json_file)


def prediction_side(folder: Path, taxonomy: Taxonomy, json_file: Path | None, label_values: bool = False) -> Side:
    """Label maps or mask folders. What the values of label maps mean, and which classes the model has learnt, say
    dataset.json and plans.json beside them, or those of the model whose validation they are.

    Args:
        json_file: dataset.json of the references. It stands in where the predictions have none, if they cannot be
            but universal indices.
        label_values: the predictions hold the label values of `json_file`, whatever stands beside them.

    Raises:
        UserError: nothing says what the values mean.
    """
    files, are_masks = find_label_files(folder)
    if are_masks:
        return _mask_side(folder, files, taxonomy)
    if label_values and json_file is not None:
        return _label_side(folder, files, load_dataset_json(json_file, NAME_IT), taxonomy, json_file)
    tables = tables_of_predictions(folder)
    if DATASET_JSON in tables.files:
        where = tables.label(DATASET_JSON)
        return _label_side(folder, files, tables.dataset_json, taxonomy, where, True, tables.known)
    if json_file is None:
        return Side(folder, files, PaintedCoding(taxonomy), frozenset(taxonomy.names))
    side = _label_side(folder, files, load_dataset_json(json_file, NAME_IT), taxonomy, json_file, True)
    if isinstance(side.coding, PaintedCoding) and side.coding.values is None:
        return side
    found = f"no dataset.json says whether the values are universal indices or those of {json_file}"
    remedy = "copy dataset.json of the model into the folder, or, for the values of the references, add --label-values"
    raise UserError(folder, found, "a dataset.json beside the predictions, as nnU-Net leaves it", remedy)


def tables_of_predictions(folder: Path) -> ModelTables:
    """Those that nnU-Net leaves beside predictions, or of the model whose validation the folder holds."""
    model = folder.resolve().parent.parent
    of_training = folder.resolve().name == "validation" and (model / PLANS_JSON).is_file()
    return ModelTables.beside(model if of_training else folder)


def _label_side(
    folder: Path,
    files: dict[str, Path],
    dataset_json: dict,
    taxonomy: Taxonomy,
    where: object,
    painted: bool = False,
    known: Iterable[str] | None = None,
) -> Side:
    coding = coding_of(dataset_json, taxonomy, where, painted, known)
    learnt = frozenset(coding.names if known is None else (taxonomy.find(name, where).name for name in known))
    return Side(folder, files, coding, learnt)


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
