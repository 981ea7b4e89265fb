"""CT-ORG: organs of both sides under one value; the bladder is annotated in some cases only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import LABEL_HEADER, UNIT_SPACING, LoadedCase, PairedSource, SourceCase
from nnunetv2_clip.imaging.anatomy import check_anatomy
from nnunetv2_clip.labels import ClassMap

LUNGS, KIDNEYS = Pair("right_lung", "left_lung", (3,)), Pair("right_kidney", "left_kidney", (4,))
# Users report faulty cases, and cases whose headers they had to mend; what exactly is wrong with them is not published.
FAULTY = frozenset({19, 70, 74, 76})
MENDED = frozenset({20, *range(28, 48), 131, 133, *range(135, 140)})


@dataclass(frozen=True)
class CtOrgSource(PairedSource):
    """Files by number. Where no voxel is bladder, it lies outside the scan or was not drawn: nothing tells which."""

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        return {} if labels.mask("bladder").any() else {"bladder": "the label map has none"}

    def load_case(self, case: SourceCase) -> LoadedCase:
        """Sides that were split by a header that the anatomy contradicts are not annotated."""
        loaded = super().load_case(case)
        problem = check_anatomy(loaded.image, loaded.labels).problem
        if not problem:
            return loaded
        sided = {name for pair in self.pairs for name in (pair.right, pair.left)}
        annotated = tuple(name for name in loaded.annotated if name not in sided)
        return replace(loaded, annotated=annotated, fixes=(*loaded.fixes, f"sides not annotated: looks {problem}"))

    def remarks(self, root: Path, cases: Sequence[SourceCase]) -> list[str]:
        known = (("faulty", FAULTY), ("to have had wrong headers", MENDED))
        found = [(what, [case.number for case in cases if case.number in numbers]) for what, numbers in known]
        return [f"reported {what}, look at them: {' '.join(map(str, there))}" for what, there in found if there]


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
            LABEL_HEADER: "a label takes over the position of its volume where only its header differs",
        },
        as_in_paper="the bladder counts as annotated in all cases, also where the label map has none",
        image=r"(.*/)?volume-(?P<case>\d+)",
        label=r"(.*/)?labels-(?P<case>\d+)",
    ),
)
