"""The slices of a series as DICOM objects that are derived from it refer to them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.valuerep import DA, TM, format_number_as_ds

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.header import GROUPS
from nnunetv2_clip.imaging.dicom.series import Series

IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# Of patient and study, type 2 of the standard: empty where a publisher has removed them.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
KINDS = {"DA": DA, "TM": TM, "CS": ("", "M", "F", "O").index}  # the only code among them is the sex
UTF8 = "ISO_IR 192"
OF_ALL_FRAMES = ("PlaneOrientationSequence", "PixelMeasuresSequence")
REMEDY = "export the series again with its identifiers, or leave out --outputs dicom_seg"


@dataclass(frozen=True, eq=False)
class SourceSlices:
    """What a mask on the grid of a series refers to.

    Attributes:
        headers: of the slices in the order of the grid's last axis; of an enhanced CT, the one of its file.
        positions: centre of the first pixel of each slice, LPS mm.
    """

    headers: tuple[pydicom.Dataset, ...]
    positions: tuple[np.ndarray, ...]


def source_slices(series: Series) -> SourceSlices:
    """The headers of a series that was read, complete enough to be referred to.

    Raises:
        UserError: a slice lacks an identifier, or has that of another.
    """
    owner: dict[str, Path] = {}
    headers: list[pydicom.Dataset] = []
    distance_mm = float(series.geometry.spacing_mm[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are copied, not judged
        for path in dict.fromkeys(series.files):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            other = owner.setdefault(_identified(path, header), path)
            if other != path:
                raise UserError(path, f"has the SOPInstanceUID of {other.name}", "one identifier per slice", REMEDY)
            headers.append(_completed(header, headers[0] if headers else header, distance_mm))
    return SourceSlices(tuple(headers), tuple(row.position for row in series.slices))


def _identified(path: Path, header: pydicom.Dataset) -> str:
    """Its SOPInstanceUID. Raises UserError: an identifier is missing."""
    missing = [name for name in IDENTIFIERS if not header.get(name)]
    if missing:
        raise UserError(path, f"has no {', '.join(missing)}", "identifiers to which masks can refer", REMEDY)
    return header.SOPInstanceUID


def _completed(header: pydicom.Dataset, first: pydicom.Dataset, distance_mm: float) -> pydicom.Dataset:
    """With what highdicom asks for; what differs by rounding is that of the first slice, what is no date is empty."""
    header.decode()  # from one alphabet, several (Japan, Korea), none, or a misspelt one
    header.SpecificCharacterSet = UTF8
    for name in MAY_BE_EMPTY:
        if name not in header or not _is_possible(header[name]):
            setattr(header, name, "")
    shared, frames = (header.get(name) for name in GROUPS)
    for name in OF_ALL_FRAMES if frames and shared else ():
        if name not in shared[0] and name in frames[0]:
            shared[0][name] = frames[0][name]
    if not frames:
        header.ImageOrientationPatient = first.ImageOrientationPatient
    measures = shared[0].PixelMeasuresSequence[0] if frames and shared else header
    measures.SpacingBetweenSlices = format_number_as_ds(distance_mm)
    if not measures.get("SliceThickness"):
        measures.SliceThickness = measures.SpacingBetweenSlices
    return header


def _is_possible(element: pydicom.DataElement) -> bool:
    """Are a date, a time and a sex such; True for other elements."""
    try:
        KINDS.get(element.VR, str)(element.value or "")
    except ValueError:
        return False
    return True
