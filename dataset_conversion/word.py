"""WORD: whole abdominal organs on radiotherapy planning CT; left stands before right in its label values."""

from __future__ import annotations

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import PairedSource, named_in

LABEL_TABLE = {
    1: ("liver",),
    2: ("spleen",),
    3: ("left_kidney",),
    4: ("right_kidney",),
    5: ("stomach",),
    6: ("gallbladder",),
    7: ("esophagus",),
    8: ("pancreas",),
    9: ("duodenum",),
    10: ("colon",),
    11: ("intestine",),
    12: (),  # adrenal glands of both sides
    13: ("rectum",),
    14: ("bladder",),
    15: ("left_femur_head",),  # 15 and 16: the proximal femur, 54 to 99 mm of it
    16: ("right_femur_head",),
}
ADRENAL_GLANDS = Pair("right_adrenal_gland", "left_adrenal_gland", (12,))

# The labels of imagesTs are a separate archive (WORD_V0.1.0_labelsTs.zip); without it there are 120 labelled cases.
SOURCES = (
    PairedSource(
        name="word",
        title="WORD, Whole abdominal ORgan Dataset",
        licence="GPL-3.0, academic use",
        url="https://github.com/HiLab-git/WORD",
        unpack="the folder WORD-V0.1.0 with imagesTr, labelsTr, imagesVal, labelsVal (and labelsTs if you have it)",
        num_cases=150,
        label_table=LABEL_TABLE,
        annotated=(*named_in(LABEL_TABLE), ADRENAL_GLANDS.right, ADRENAL_GLANDS.left),
        pairs=(ADRENAL_GLANDS,),
        image=r"(.*/)?images(Tr|Val|Ts)/word_(?P<case>\d{4})",
        label=r"(.*/)?labels(Tr|Val|Ts)/word_(?P<case>\d{4})",
        test_folders=("imagesTs",),
    ),
)
