"""LiTS: liver and its tumours; headers of volumes and segmentations are known to disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.conversion.label_flip import find_flip
from nnunetv2_clip.conversion.source import UNIT_SPACING, PairedSource, SourceCase
from nnunetv2_clip.imaging.nifti import Volume, inspect, read_image, read_label_map, require_same_grid

LABEL_HEADER = "label_header"
LIVER = 1
REPAIRS = {
    UNIT_SPACING: "voxel size of 28 to 47, overwritten with 1 x 1 x 1 mm, from the table of 3D-IRCADb-01",
    LABEL_HEADER: "a segmentation takes over the position of its volume where only its header differs",
}


@dataclass(frozen=True)
class LitsSource(PairedSource):
    """Volumes and segmentations by number; some segmentations' headers are wrong though their arrays fit."""

    def check_case(self, case: SourceCase) -> None:
        image, label = inspect(case.image), inspect(case.labels["label"])
        if image.shape != label.shape or not self.repairs_with(LABEL_HEADER):
            require_same_grid(case.image, image, case.labels["label"], label)

    def read(self, case: SourceCase) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        self.check_case(case)
        image, label = read_image(case.image), read_label_map(case.labels["label"])
        difference = label.geometry.difference(image.geometry)
        if not difference:
            return image, label.data, ()
        find_flip(image, label.data, (LIVER,), case.labels["label"], may_flip=False)  # a wrong header alone is mended
        fix = f"position of the segmentation taken from its volume, on which its array lies ({difference})"
        return image, label.data, (fix,)


SOURCES = (
    LitsSource(
        name="lits",
        title="LiTS, Liver Tumor Segmentation Challenge 2017",
        licence="CC BY-NC-ND 4.0",
        url="https://competitions.codalab.org/competitions/17094",
        unpack="the folder that holds 'Training Batch 1' and 'Training Batch 2'",
        num_cases=131,
        label_table={1: ("liver",), 2: ("liver_tumor",)},
        annotated=("liver", "liver_tumor"),
        repairs=REPAIRS,
        image=r"(.*/)?volume-(?P<case>\d+)",
        label=r"(.*/)?segmentation-(?P<case>\d+)",
    ),
)
