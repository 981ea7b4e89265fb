"""BTCV: the abdomen part of "Multi-Atlas Labeling Beyond the Cranial Vault", with its official 13 labels."""

from __future__ import annotations

from nnunetv2_clip.conversion.source import PairedSource

LABELS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)

# Gibson's labels of the same scans (14 classes) are a source of their own: either of them, not both.
SOURCES = (
    PairedSource(
        name="btcv",
        title="BTCV, Multi-Atlas Labeling Beyond the Cranial Vault, abdomen",
        licence="CC BY 4.0 (as usually cited; registration needed)",
        url="https://www.synapse.org/Synapse:syn3193805",
        unpack="the folder RawData of the abdomen's RawData.zip, with Training/img and Training/label",
        num_cases=30,
        label_table={value: (name,) for value, name in enumerate(LABELS, start=1)},
        annotated=LABELS,
        image=r"(.*/)?img(?P<case>\d{4})",
        label=r"(.*/)?label(?P<case>\d{4})",
        test_folders=("Testing", "Test", "imagesTs"),
    ),
)
