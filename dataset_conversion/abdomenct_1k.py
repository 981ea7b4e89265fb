"""AbdomenCT-1K: liver, kidneys, spleen and pancreas on scans of five other datasets."""

from __future__ import annotations

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import DIRECTIONS, UNIT_SPACING, PairedSource

KIDNEYS = Pair("right_kidney", "left_kidney", (2,))
UNLABELLED = """
    10 13 16 27 28 32 33 38 43 58 218 224 228 236 241 246 274 404 408 415 416 422 424 429 439 444 447 456 528 534 552
    553 565 588 669 676 688 691 694 698 701 703 705 707 711 725 730 731 733 737 745 748 750 754 755 758 760 763 781 782
    925 955
"""

SOURCES = (
    PairedSource(
        name="abdomenct_1k",
        title="AbdomenCT-1K",
        licence="CC BY 4.0 or CC BY-NC-SA (sources differ); the parts keep their own licences",
        url="https://github.com/JunMa11/AbdomenCT-1K",
        unpack="the folder with Case_00001_0000.nii.gz (images, all parts) and Case_00001.nii.gz (labels), in any "
        "folders below",
        num_cases=1000,
        label_table={1: ("liver",), 2: (), 3: ("spleen",), 4: ("pancreas",)},
        annotated=("liver", KIDNEYS.right, KIDNEYS.left, "spleen", "pancreas"),
        pairs=(KIDNEYS,),
        repairs={
            DIRECTIONS: "directions that are not orthonormal are replaced by the nearest orthonormal ones",
            UNIT_SPACING: "voxel size of the 20 patients of 3D-IRCADb-01, overwritten with 1 x 1 x 1 mm, from a table",
        },
        image=r"(.*/)?Case_(?P<case>\d{5})_0000",
        # The separate pseudo labels of tumours have the same names.
        label=r"(?i:(?!.*tumou?r))(.*/)?Case_(?P<case>\d{5})",
        unlabelled=frozenset(f"{int(number):05d}" for number in UNLABELLED.split()),
    ),
)
