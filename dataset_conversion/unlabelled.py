"""CTs without any label: every class is unknown in them, until `pseudo-label` completes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.conversion.source import LoadedCase, Source, SourceCase, require_folder
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.series import inspect_series
from nnunetv2_clip.imaging.nifti import inspect, is_nifti
from nnunetv2_clip.imaging.scans import Case, FoundScans, find_scans, read_voxels
from nnunetv2_clip.labels import ClassMap


@dataclass(frozen=True)
class UnlabelledSource(Source):
    """Whatever `predict` takes for a scan."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        return [self.case("_".join(scan.name.split()), scan.path, {}) for scan in self._scans(root).cases]

    def remarks(self, root: Path, cases: Sequence[SourceCase]) -> list[str]:
        return [f"left out: {line}" for line in self._scans(root).left_out]

    def _scans(self, root: Path) -> FoundScans:
        try:
            return find_scans(require_folder(root, self.unpack))
        except UserError as error:
            where = error.where.removeprefix("-i ")
            raise UserError(where, error.found, error.expected, error.remedy) from None

    def check_case(self, case: SourceCase) -> None:
        """Of files in other formats nothing is known before they are read."""
        if case.image.is_dir():
            inspect_series(case.image)
        elif is_nifti(case.image):
            inspect(case.image)

    def load_case(self, case: SourceCase) -> LoadedCase:
        image = read_voxels(Case(case.case_id, case.image)).volume
        return LoadedCase(image, ClassMap(np.zeros(image.data.shape, np.uint8), {}), ())


SOURCES = (
    UnlabelledSource(
        name="unlabelled",
        title="CTs without labels, to be completed by a model",
        licence="that of the images",
        url="images of your own",
        unpack="a folder of CTs and no label maps: NIfTI, NRRD, MetaImage, zips; DICOM series also in folders below it",
        num_cases=None,
        label_table={},
        annotated=(),
    ),
)
