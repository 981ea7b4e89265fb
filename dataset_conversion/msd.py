"""Medical Segmentation Decathlon, the six CT tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.conversion.source import HALF_TURN, UNIT_SPACING, PairedSource, nifti_files
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.msd.tasks import CT_TASKS, MsdTask

REPAIRS = {HALF_TURN: "a header that is rotated by 180 degrees about the long axis, where the anatomy leaves no doubt"}
LIVER_REPAIRS = {UNIT_SPACING: "voxel size of 28 to 47, overwritten with 1 x 1 x 1 mm, from the table of 3D-IRCADb-01"}


@dataclass(frozen=True)
class MsdSource(PairedSource):
    """A task folder with imagesTr and labelsTr; image and label have the same name, test images have no labels."""

    folder: str = ""
    stem: str = ""

    def find_files(self, root: Path) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        folder = root / self.folder if (root / self.folder).is_dir() else root
        found = []
        for part in (folder / "imagesTr", folder / "labelsTr"):
            if not part.is_dir():
                raise UserError(folder, f"has no folder {part.name}", self.unpack, "unpack the whole archive")
            files = nifti_files(part)
            foreign = [path.name for name, path in files.items() if not re.fullmatch(rf"{self.stem}_\d+", name)]
            if foreign:
                expected = f"files named {self.stem}_<number>.nii.gz ({self.folder})"
                raise UserError(part, f"holds {foreign[0]}", expected, f"give {self.name} its own task folder")
            found.append({name.removeprefix(f"{self.stem}_"): path for name, path in files.items()})
        return found[0], found[1]


def _source(task: MsdTask) -> MsdSource:
    return MsdSource(
        name=f"msd_{task.stem}",
        title=f"Medical Segmentation Decathlon, {task.title}",
        licence="CC BY-SA 4.0",
        url="http://medicaldecathlon.com",
        unpack=f"the folder {task.folder} of {task.folder}.tar, with imagesTr and labelsTr",
        num_cases=task.num_training,
        label_table={value: (name,) for name, value in task.classes.items()},
        annotated=tuple(task.classes),
        repairs=REPAIRS | (LIVER_REPAIRS if task.stem == "liver" else {}),
        folder=task.folder,
        stem=task.stem,
    )


# The lungs of Task06, the liver of Task08 and the colon of Task10 are not annotated: those classes stay unknown.
SOURCES = tuple(map(_source, CT_TASKS))
