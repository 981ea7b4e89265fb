"""TotalSegmentator v1, v2 and v3: one folder per case with a binary mask per structure; the masks overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from nnunetv2_clip.conversion.source import ClassNames, MaskSource, SourceCase, require_folder
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.labels import ClassMap

IMAGE, MASKS = "ct.nii.gz", "segmentations"
MR_IMAGE = "mri.nii.gz"
CYST = "kidney_cyst"  # only large ones were drawn
VERSION_MARKS = {"3": "vertebrae_L6", "2": "prostate"}  # a structure that this version has and earlier ones have not
# Structure -> classes. By name: the numbers differ between the versions. femur_left and femur_right are whole femurs,
# not their heads, and are not used.
STRUCTURES: dict[str, ClassNames] = {
    "spleen": ("spleen",),
    "kidney_right": ("right_kidney",),
    "kidney_left": ("left_kidney",),
    "gallbladder": ("gallbladder",),
    "esophagus": ("esophagus",),
    "liver": ("liver",),
    "stomach": ("stomach",),
    "aorta": ("aorta",),
    "inferior_vena_cava": ("postcava",),
    "portal_vein_and_splenic_vein": ("portal_and_splenic_vein",),
    "pancreas": ("pancreas",),
    "adrenal_gland_right": ("right_adrenal_gland",),
    "adrenal_gland_left": ("left_adrenal_gland",),
    "duodenum": ("duodenum",),
    "lung_upper_lobe_right": ("right_lung",),
    "lung_middle_lobe_right": ("right_lung",),
    "lung_lower_lobe_right": ("right_lung",),
    "lung_upper_lobe_left": ("left_lung",),
    "lung_lower_lobe_left": ("left_lung",),
    "colon": ("colon",),
    "small_bowel": ("intestine",),
    "urinary_bladder": ("bladder",),
}
STRUCTURES_V2: dict[str, ClassNames] = {
    **STRUCTURES,
    "prostate": ("prostate",),
    "kidney_cyst_right": ("kidney_cyst", "right_kidney"),
    "kidney_cyst_left": ("kidney_cyst", "left_kidney"),
}
# Case -> the structure that users report to be wrong in versions 1 and 2 (in v1 the heart has parts).
WRONG_LABELS = {
    "s0092": "lung_upper_lobe_right",
    "s0143": "heart",
    "s0201": "heart",
    "s0513": "humerus_right",
    "s0605": "lung_lower_lobe_left",
    "s1196": "heart",
}
DAMAGED_V1 = {"s0864": "its ct.nii.gz is damaged"}
WRONG_IMAGES = {
    **dict.fromkeys(
        ("s0184", "s0224", "s0248", "s0830", "s0864", "s0992"),
        "its image is reported to be broken in release 2.0.0, and nothing tells 2.0.0 from 2.0.1",
    ),
    "s1104": "reported to be faulty",
}


@dataclass(frozen=True)
class MaskFolderSource(MaskSource):
    """Case folders with ct.nii.gz and segmentations/<structure>.nii.gz.

    Attributes:
        version: its first number.
        wrong_labels: case -> structure that is wrong there.
    """

    version: str = ""
    wrong_labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    mask_values, mask_remedy = "0 and 1", "download the file again"

    def is_mask(self, values: np.ndarray) -> bool:
        return set(values.tolist()) <= {0, 1}

    def num_expected(self, root: Path) -> int:
        """Without those that are there and left out; `num_cases` counts what is published."""
        there = root.is_dir() and {path.name for pattern in ("s*", "*/s*") for path in root.glob(pattern)}
        return self.num_cases - len(set(self.left_out) & (there or set()))

    def find_cases(self, root: Path) -> list[SourceCase]:
        folders = self._case_folders(require_folder(root, self.unpack))
        return [self._case(folder) for folder in folders if folder.name not in self.left_out]

    def _case_folders(self, root: Path) -> list[Path]:
        """The case folders in `root`, or in the only folder below it that has some."""
        for parent in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            folders = [path for path in sorted(parent.glob("s[0-9][0-9][0-9][0-9]")) if path.is_dir()]
            if folders:
                return folders
        raise UserError(root, "has no folders s0000, s0001, ...", self.unpack, "check the path given with --source")

    def _case(self, folder: Path) -> SourceCase:
        if (folder / MR_IMAGE).is_file():
            raise UserError(folder, "holds the MR dataset of TotalSegmentator", self.unpack, "give the CT dataset")
        version = next((each for each, name in VERSION_MARKS.items() if mask_file(folder, name).is_file()), "1")
        if version != self.version and (folder / MASKS).is_dir():
            other = self.name.replace(self.version, version)
            raise UserError(folder, f"is of version {version}", self.unpack, f"use --source {other}={folder.parent}")
        masks = {name: mask_file(folder, name) for name in self.structures}
        missing = [path for path in (folder / IMAGE, *masks.values()) if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(missing[0], f"is missing{more}", self.unpack, "unpack the whole archive again")
        return self.case(folder.name, folder / IMAGE, masks)

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        wrong = self.wrong_labels.get(case.image.parent.name)
        return {name: f"users report that {wrong} is wrong" for name in self.structures.get(wrong, ())}

    def settings(self) -> dict:
        return {**super().settings(), "structures": {name: list(classes) for name, classes in self.structures.items()}}


def mask_file(folder: Path, structure: str) -> Path:
    """Of a structure in a case folder."""
    return folder / MASKS / f"{structure}.nii.gz"


def _version(version: str, num_cases: int, record: int, structures: dict, **known) -> MaskFolderSource:
    return MaskFolderSource(
        name=f"totalsegmentator_v{version[0]}",
        title=f"TotalSegmentator CT dataset, version {version}",
        licence="CC BY 4.0",
        url=f"https://zenodo.org/records/{record}",
        unpack=f"the folder of version {version} with s0000/ct.nii.gz and s0000/segmentations/*.nii.gz",
        num_cases=num_cases,
        label_table={},  # masks instead of label values
        annotated=tuple(name for name in dict.fromkeys(chain.from_iterable(structures.values())) if name != CYST),
        incomplete=(CYST,) if any(CYST in classes for classes in structures.values()) else (),
        structures=structures,
        version=version[0],
        **known,
    )


# Version 3 has children too and mended labels; whether its numbers are those of version 2 is not said.
SOURCES = (
    _version("1", 1204, 6802614, STRUCTURES, left_out=DAMAGED_V1, wrong_labels=WRONG_LABELS),
    _version("2.0.1", 1228, 10047292, STRUCTURES_V2, left_out=WRONG_IMAGES, wrong_labels=WRONG_LABELS),
    _version("3.0.0", 1939, 22688904, STRUCTURES_V2),
)
