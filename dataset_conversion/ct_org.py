"""CT-ORG: organs of both sides under one value; the bladder is annotated in some cases only."""

from __future__ import annotations

from dataclasses import dataclass

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import UNIT_SPACING, PairedSource, SourceCase
from nnunetv2_clip.labels import ClassMap

LUNGS, KIDNEYS = Pair("right_lung", "left_lung", (3,)), Pair("right_kidney", "left_kidney", (4,))


@dataclass(frozen=True)
class CtOrgSource(PairedSource):
    """Files by number. Where no voxel is bladder, it lies outside the scan or was not drawn: nothing tells which."""

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        return {} if labels.mask("bladder").any() else {"bladder": "the label map has none"}


SOURCES = (
    CtOrgSource(
        name="ct_org",
        title="CT-ORG, CT volumes with multiple organ segmentations",
        licence="CC BY 3.0",
        url="https://www.cancerimagingarchive.net/collection/ct-org/",
        unpack="the folder OrganSegmentations of the package, with volume-0.nii.gz and labels-0.nii.gz",
        num_cases=140,
        # 5 is bone, 6 brain.
        label_table={1: ("liver",), 2: ("bladder",), 3: (), 4: (), 5: (), 6: ()},
        annotated=("liver", "bladder", LUNGS.right, LUNGS.left, KIDNEYS.right, KIDNEYS.left),
        pairs=(LUNGS, KIDNEYS),
        repairs={
            UNIT_SPACING: "voxel size of 28 to 47, overwritten with 1 x 1 x 1 mm, from the table of 3D-IRCADb-01",
        },
        as_in_paper="the bladder counts as annotated in all cases, also where the label map has none",
        image=r"(.*/)?volume-(?P<case>\d+)",
        label=r"(.*/)?labels-(?P<case>\d+)",
    ),
)
