"""LiTS: liver and its tumours; headers of volumes and segmentations are known to disagree."""

from __future__ import annotations

from nnunetv2_clip.conversion.source import LABEL_HEADER, UNIT_SPACING, PairedSource

SOURCES = (
    PairedSource(
        name="lits",
        title="LiTS, Liver Tumor Segmentation Challenge 2017",
        licence="CC BY-NC-ND 4.0",
        url="https://competitions.codalab.org/competitions/17094",
        unpack="the folder that holds 'Training Batch 1' and 'Training Batch 2'",
        num_cases=131,
        label_table={1: ("liver",), 2: ("liver_tumor",)},
        annotated=("liver", "liver_tumor"),
        repairs={
            UNIT_SPACING: "voxel size of 28 to 47, overwritten with 1 x 1 x 1 mm, from the table of 3D-IRCADb-01",
            LABEL_HEADER: "a segmentation takes over the position of its volume where only its header differs",
        },
        image=r"(.*/)?volume-(?P<case>\d+)",
        label=r"(.*/)?segmentation-(?P<case>\d+)",
    ),
)
