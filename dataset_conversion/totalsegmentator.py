"""TotalSegmentator v1 and v2: one folder per case with a binary mask per structure; the masks overlap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.conversion.source import ClassNames, MaskSource, SourceCase, require_folder
from nnunetv2_clip.errors import UserError

IMAGE, MASKS = "ct.nii.gz", "segmentations"
ONLY_IN_V2 = "prostate"
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
    ONLY_IN_V2: ("prostate",),
    "kidney_cyst_right": ("kidney_cyst", "right_kidney"),
    "kidney_cyst_left": ("kidney_cyst", "left_kidney"),
}
WRONG_LABELS = dict.fromkeys(("s0092", "s0143", "s0201", "s0513", "s0605", "s1196"), "users report wrong labels")
WRONG_IMAGES = dict.fromkeys(
    ("s0184", "s0224", "s0830", "s0864", "s0992"),
    "its image is broken in release 2.0.0, and nothing tells 2.0.0 from 2.0.1",
)


@dataclass(frozen=True)
class MaskFolderSource(MaskSource):
    """Case folders with ct.nii.gz and segmentations/<structure>.nii.gz."""

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
        other = {"totalsegmentator_v1": "totalsegmentator_v2", "totalsegmentator_v2": "totalsegmentator_v1"}[self.name]
        is_v2 = (folder / MASKS / f"{ONLY_IN_V2}.nii.gz").is_file()
        if is_v2 != (ONLY_IN_V2 in self.structures) and (folder / MASKS).is_dir():
            has = "has" if is_v2 else "has no"
            found = f"{has} {MASKS}/{ONLY_IN_V2}.nii.gz, as in {other}"
            raise UserError(folder, found, self.unpack, f"use --source {other}={folder.parent}")
        masks = {name: folder / MASKS / f"{name}.nii.gz" for name in self.structures}
        missing = [path for path in (folder / IMAGE, *masks.values()) if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(missing[0], f"is missing{more}", self.unpack, "unpack the whole archive again")
        return self.case(folder.name, folder / IMAGE, masks)

    def settings(self) -> dict:
        return {**super().settings(), "structures": {name: list(classes) for name, classes in self.structures.items()}}


def _version(version: str, num_cases: int, record: int, structures: dict, left_out: dict) -> MaskFolderSource:
    return MaskFolderSource(
        name=f"totalsegmentator_v{version[0]}",
        title=f"TotalSegmentator CT dataset, version {version}",
        licence="CC BY 4.0",
        url=f"https://zenodo.org/records/{record}",
        unpack=f"the folder of version {version} with s0000/ct.nii.gz and s0000/segmentations/*.nii.gz",
        num_cases=num_cases,
        label_table={},  # masks instead of label values
        annotated=tuple(dict.fromkeys(name for classes in structures.values() for name in classes)),
        left_out=left_out,
        structures=structures,
    )


SOURCES = (
    _version("1", 1204, 6802614, STRUCTURES, {"s0864": "its ct.nii.gz is damaged", **WRONG_LABELS}),
    _version("2.0.1", 1228, 10047292, STRUCTURES_V2, {**WRONG_IMAGES, **WRONG_LABELS}),
)
