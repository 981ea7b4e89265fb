"""Pancreas-CT (NIH): DICOM images, NIfTI labels whose headers do not fit them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.conversion.label_flip import lay_on_image, require_same_shape
from nnunetv2_clip.conversion.source import PairedSource, SourceCase
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Geometry, Volume, inspect, read_label_map

# Their labels' headers say 3, 4, 2 and 2 mm between slices; the scans have 1 mm.
WRONG_Z_SPACING = frozenset({"0007", "0027", "0032", "0045"})
SPACING_TOLERANCE = 0.01  # of the voxel edge


@dataclass(frozen=True)
class PancreasCt(PairedSource):
    """A folder with TCIA's tree of patients and the label archive, unpacked, anywhere below it."""

    def check_case(self, case: SourceCase) -> None:
        image, label = self.image_grid(case), inspect(case.labels["label"])
        require_same_shape(image.shape, label.shape, case.labels["label"])
        self._spacing_fix(case, image, label)

    def read(self, case: SourceCase) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        path = case.labels["label"]
        image, label = self.read_image(case), read_label_map(path)
        spacing_fix = self._spacing_fix(case, image.geometry, label.geometry)
        may_flip = self.repairs_with("label_flip")
        label_map, fixes = lay_on_image(image, label.data, tuple(self.label_table), path, may_flip)
        return image, label_map, (*spacing_fix, *fixes)

    def _spacing_fix(self, case: SourceCase, image: Geometry, label: Geometry) -> tuple[str, ...]:
        """What is wrong with the label's voxel size, in words.

        Raises:
            UserError: another deviation than the known ones.
        """
        wrong = ~np.isclose(label.spacing_mm, image.spacing_mm, rtol=SPACING_TOLERANCE)
        if not wrong.any():
            return ()
        sizes = " x ".join(f"{edge:.4g}" for edge in label.spacing_mm)
        is_known = case.case_id[-4:] in WRONG_Z_SPACING and not wrong[:2].any()
        if not is_known or not self.repairs_with("z_spacing"):
            raise UserError(
                case.labels["label"],
                f"has voxels of {sizes} mm; its image: {image.describe()}",
                f"the image's voxel size (known to differ between slices: {', '.join(sorted(WRONG_Z_SPACING))})",
                "convert with the repair z_spacing" if is_known else "download image and label of this case again",
            )
        return (f"distance of slices {image.spacing_mm[2]:.4g} mm from DICOM, not {label.spacing_mm[2]:.4g} mm",)


SOURCES = (
    PancreasCt(
        name="pancreas_ct",
        title="Pancreas-CT (NIH, TCIA)",
        licence="CC BY 3.0",
        url="https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU",
        unpack="a folder that holds the DICOM folders PANCREAS_0001 ... and the labels in a folder whose name begins "
        "with TCIA_pancreas_labels (other sets have label files of the same names)",
        num_cases=80,
        label_table={1: ("pancreas",)},
        annotated=("pancreas",),
        absent=("pancreas_tumor",),  # healthy donors and patients without pancreatic lesions
        repairs={
            "label_flip": "labels that lie upside down or front to back on their images are flipped",
            "z_spacing": "the distance of slices comes from DICOM where four labels say 2 to 4 mm instead of 1 mm",
            "known_absent": "pancreas_tumor is recorded as known to be absent: the pancreases are healthy",
        },
        left_out=dict.fromkeys(
            ("0025", "0070"), "withdrawn by the publisher: the scan of case 0002, cropped otherwise"
        ),
        patient=r"PANCREAS_(?P<case>\d{4})",
        # Gibson's and BTCV's labels have the same names.
        label=r"(.*/)?TCIA_pancreas_labels[^/]*/(.*/)?label(?P<case>\d{4})",
    ),
)
