"""KiTS19, KiTS21 and KiTS23: kidneys of both sides under one value, their tumours and cysts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import PairedSource, SourceCase, listed
from nnunetv2_clip.errors import UserError

CASE, IMAGE = "case_[0-9][0-9][0-9][0-9][0-9]", "imaging.nii.gz"
FIRST_ONLY_IN_KITS23 = 400


@dataclass(frozen=True)
class KitsSource(PairedSource):
    """One folder per case.

    Attributes:
        label, label_as_paper: file name of the label map.
        num_labelled: cases from this number on were published without label.
    """

    label: str = "segmentation.nii.gz"
    label_as_paper: str = "segmentation.nii.gz"
    num_labelled: int = 1000

    def find_files(self, root: Path) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images, labels = self._files(root)
        return images, {name: path for name, path in labels.items() if name in images or not images}

    def remarks(self, root: Path, cases: Sequence[SourceCase]) -> list[str]:
        images, labels = self._files(root)
        missing = sorted(set(labels) - set(images))
        return [f"left out, for their images are not downloaded: {listed(missing)}"] if missing else []

    def _files(self, root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """All images and all labels; a clone brings all labels, its script the images one by one."""
        parents = (root / "data", root / "dataset", root / self.name / "data", root)  # in KiTS21 below a second kits21
        parent = next((path for path in parents if any(path.glob(CASE))), root)
        folders = {path.name: path for path in sorted(parent.glob(CASE)) if path.is_dir()}
        self._require_release(root, parent, folders)
        images = {name: path / IMAGE for name, path in folders.items() if folder_number(name) < self.num_labelled}
        label = self.label_as_paper if self.as_paper else self.label
        labels = {name: path / label for name, path in folders.items()}
        return tuple({name: path for name, path in each.items() if path.is_file()} for each in (images, labels))

    def _require_release(self, root: Path, parent: Path, folders: dict[str, Path]) -> None:
        """KiTS19 and KiTS23 have the same file names, but only in KiTS23 is a cyst no kidney."""
        is_kits23 = (
            any((folder / "kits23.json").is_file() for folder in (root, parent))
            or any((path / "instances").is_dir() for path in folders.values())
            or any(folder_number(name) >= FIRST_ONLY_IN_KITS23 for name in folders)
        )
        if folders and self.name == "kits23" and not is_kits23:
            raise UserError(
                parent,
                "nothing shows that these labels are those of KiTS23 and not of KiTS19, which knows no cysts",
                f"kits23.json, the folders 'instances', or cases from {FIRST_ONLY_IN_KITS23} on",
                "keep kits23.json beside the case folders, or use --source kits19=PATH",
            )
        if self.name == "kits19" and is_kits23:
            raise UserError(parent, "holds KiTS23", self.unpack, f"use --source kits23={root}")


def folder_number(case: str) -> int:
    return int(case.removeprefix("case_"))


def _release(year: int, num_cases: int, lesions: tuple[str, ...], folder: str, **options) -> KitsSource:
    """A release whose label values are 1 for both kidneys and 2, 3 for `lesions`, which lie in them."""
    pair = Pair("right_kidney", "left_kidney", tuple(range(1, len(lesions) + 2)))
    return KitsSource(
        name=f"kits{year}",
        title=f"KiTS{year}, Kidney Tumor Segmentation Challenge 20{year}",
        licence="CC BY-NC-SA 4.0",
        url=f"https://github.com/neheller/kits{year}",
        unpack=f"the cloned repository kits{year} after its script has downloaded the images into {folder}/case_*",
        num_cases=num_cases,
        label_table={1: (), **{value: (name,) for value, name in enumerate(lesions, start=2)}},
        annotated=(pair.right, pair.left, *lesions),
        pairs=(pair,),
        **options,
    )


# In KiTS19 a cyst is part of the kidney: class kidney_cyst is not annotated there.
SOURCES = (
    _release(19, 210, ("kidney_tumor",), "data", num_labelled=210),
    _release(
        21,
        300,
        ("kidney_tumor", "kidney_cyst"),
        "kits21/data",
        label="aggregated_MAJ_seg.nii.gz",
        label_as_paper="aggregated_OR_seg.nii.gz",
        as_in_paper="a lesion is where any annotator drew one (aggregated_OR), not where most did (aggregated_MAJ)",
    ),
    _release(23, 489, ("kidney_tumor", "kidney_cyst"), "dataset"),
)
