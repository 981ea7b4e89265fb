"""Medical Segmentation Decathlon, the six CT tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.conversion.source import (
    UNIT_SPACING,
    LoadedCase,
    Source,
    SourceCase,
    match_pairs,
    nifti_files,
    require_folder,
)
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.anatomy import mend_half_turn
from nnunetv2_clip.imaging.nifti import read_pair
from nnunetv2_clip.labels import ClassMap
from nnunetv2_clip.msd.tasks import CT_TASKS, MsdTask

HALF_TURN = "half_turn"
REPAIRS = {HALF_TURN: "a header that is rotated by 180 degrees about the long axis, where the anatomy leaves no doubt"}
LIVER_REPAIRS = {UNIT_SPACING: "voxel size of 28 to 47, overwritten with 1 x 1 x 1 mm, from the table of 3D-IRCADb-01"}


@dataclass(frozen=True)
class MsdSource(Source):
    """A task folder with imagesTr and labelsTr; image and label have the same name, test images have no labels."""

    folder: str = ""
    stem: str = ""

    def find_cases(self, root: Path) -> list[SourceCase]:
        folder = self._task_folder(root)
        files = {}
        for part in ("imagesTr", "labelsTr"):
            if not (folder / part).is_dir():
                raise UserError(folder, f"has no folder {part}", self.unpack, "unpack the whole archive")
            files[part] = nifti_files(folder / part)
            foreign = [name for name in files[part] if not re.fullmatch(rf"{self.stem}_\d+", name)]
            if foreign:
                raise UserError(
                    folder / part,
                    f"holds {files[part][foreign[0]].name}",
                    f"files named {self.stem}_<number>.nii.gz ({self.folder})",
                    f"give {self.name} its own task folder",
                )
        pairs = match_pairs(files["imagesTr"], files["labelsTr"], folder)
        return [SourceCase(f"msd_{name}", image, {"label": label}) for name, image, label in pairs]

    def load_case(self, case: SourceCase) -> LoadedCase:
        image, label = read_pair(case.image, case.labels["label"])
        image, fixes = self.repaired(image, case)
        labels = ClassMap(label.data, self.label_table)
        if self.repairs_with(HALF_TURN):
            image, fix = mend_half_turn(image, labels)
            fixes = (*fixes, fix) if fix else fixes
        return self.interpret(image, labels, fixes)

    def _task_folder(self, root: Path) -> Path:
        """The task folder itself, or the folder that holds it."""
        require_folder(root, self.unpack)
        return root / self.folder if (root / self.folder).is_dir() else root


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
