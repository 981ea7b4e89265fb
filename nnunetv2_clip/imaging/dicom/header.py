"""What a DICOM file says about itself: a slice of a CT, the frames of an enhanced CT, or something else."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from nnunetv2_clip.errors import UserError

DIRECTION_TOLERANCE = 1e-3  # of the direction cosines, which are stored as decimal text
MAGIC, MAGIC_AT = b"DICM", 128
REMEDY = "download or unpack the series again"
REQUIRED = ("Rows", "Columns", "BitsAllocated", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
# A scanner stores several stacks as one series; slices of one stack agree in these.
STACK_ATTRIBUTES = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "StackID"),
    *("ConvolutionKernel", "KVP", "NominalPercentageOfCardiacPhase", "ImageType"),
)
OPTIONAL = (
    *("Modality", "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SamplesPerPixel"),
    *("NumberOfFrames", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", *STACK_ATTRIBUTES),
)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
FRAME_NAMES = {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameType": "ImageType"}
CT_STORAGE = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
NOT_CT = {
    *("MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF"),
    *("RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "RTIMAGE", "SR", "SEG", "PR", "KO", "REG", "DOC", "RWV"),
}
_DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
UNREADABLE_DICOM = (*_DAMAGED, struct.error, InvalidDicomError, IndexError)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice's header: a file, or a frame of one.

    Attributes:
        frame: number of the frame, from 0; None: the file is one slice.
        number, description: of the series, for people.
        position: (3,) centre of the first pixel, LPS mm.
        axes: (2, 3) unit vectors along which the column and the row index grow, LPS.
        spacing_mm: distance of the columns, of the rows.
        scale: slope and intercept of the rescaling to Hounsfield units; None where the file names none.
        stack: values of `STACK_ATTRIBUTES`.
    """

    path: Path
    frame: int | None
    uid: str
    number: str
    description: str
    shape: tuple[int, int]
    position: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]
    scale: tuple[float, float] | None
    is_signed: bool
    stack: tuple[str, ...]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.axes)

    @property
    def height_mm(self) -> float:
        """Position along the normal."""
        return float(self.position @ self.normal)


def is_dicom(path: Path) -> bool:
    """Does a file begin as DICOM files do."""
    try:
        with open(path, "rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def read_headers(path: Path) -> list[Slice] | str:
    """The slice or the frames of a file; or, in words, what it is instead of a CT's.

    Raises:
        UserError: no DICOM file, or a slice without position, of several colours, or truncated.
    """
    try:
        dataset = _load(path)
        other = _other_kind(dataset)
        if other:
            return other
        slices = [_parse(path, header, frame) for frame, header in _frames(dataset)]
    except UserError:
        raise
    except UNREADABLE_DICOM as error:
        raise UserError(path, f"is no readable DICOM file ({error})", "a complete slice", REMEDY) from None
    _require_complete(path, dataset)
    return slices


def other_kind(path: Path) -> str:
    """What a DICOM file is instead of a CT's slice, in words; empty: a slice, or damaged."""
    try:
        return _other_kind(_load(path))
    except UNREADABLE_DICOM:
        return ""


def _load(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*REQUIRED, *OPTIONAL, *GROUPS])


def _other_kind(dataset: pydicom.Dataset) -> str:
    storage = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    kind = "a directory of a medium (DICOMDIR)" if storage == MediaStorageDirectoryStorage else ""
    modality = "SEG" if storage == SegmentationStorage else dataset.get("Modality")
    if modality in NOT_CT:
        kind = f"of modality {modality}"
    elif "LOCALIZER" in _text(dataset, "ImageType").upper().split("\\"):
        kind = "a scout (LOCALIZER)"
    elif storage and storage not in CT_STORAGE and not kind:
        if "Rows" not in dataset:
            kind = f"no image ({UID(storage).name})"
        elif storage == SecondaryCaptureImageStorage and not dataset.get("ImagePositionPatient"):
            kind = "a picture of a screen"
    return kind


def _frames(dataset: pydicom.Dataset) -> Iterator[tuple[int | None, pydicom.Dataset]]:
    """(number, flat header) of every frame of an enhanced CT: DICOM part 3, section C.7.6.16; else the file's own."""
    shared, single = (dataset.get(name) or [] for name in GROUPS)
    if not single:
        yield None, dataset
    for number, own in enumerate(single):
        flat = pydicom.Dataset()
        flat.update({element.tag: element for element in dataset if element.VR != "SQ"})
        for group in (*shared[:1], own):
            for sequence in group:
                if sequence.VR == "SQ" and sequence.value:
                    flat.update(sequence.value[0])
        for name, plain in FRAME_NAMES.items():
            if name in flat:
                setattr(flat, plain, flat.get(name))
        flat.NumberOfFrames = 1
        yield number, flat


def _parse(path: Path, dataset: pydicom.Dataset, frame: int | None) -> Slice:
    missing = [name for name in REQUIRED if not dataset.get(name)]
    if missing:
        raise UserError(path, f"has no {', '.join(missing)}", "a CT slice", "remove the file from the series")
    colours, frames = (int(dataset.get(name) or 1) for name in ("SamplesPerPixel", "NumberOfFrames"))
    if colours > 1 or frames > 1:
        found = f"is a file of modality {dataset.get('Modality')} with {frames} frames of {colours} colours"
        raise UserError(path, found, "a CT slice, or an enhanced CT", "remove the file from the series")
    numbers = [float(value) for value in (*dataset.ImagePositionPatient, *dataset.ImageOrientationPatient)]
    spacing = [float(value) for value in dataset.PixelSpacing]
    if len(numbers) != 9 or len(spacing) != 2 or not np.isfinite(numbers + spacing).all() or min(spacing) <= 0:
        raise UserError(path, "has no usable position, direction or pixel size", "a CT slice", REMEDY)
    axes = np.array(numbers[3:]).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=10 * DIRECTION_TOLERANCE):
        raise UserError(path, f"has direction cosines {numbers[3:]}", "two unit vectors at a right angle", REMEDY)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return Slice(
        path=path,
        frame=frame,
        uid=_text(dataset, "SeriesInstanceUID"),
        number=_text(dataset, "SeriesNumber"),
        description=_text(dataset, "SeriesDescription"),
        shape=(int(dataset.Columns), int(dataset.Rows)),
        position=np.array(numbers[:3]),
        axes=axes / np.linalg.norm(axes, axis=1, keepdims=True),
        spacing_mm=(spacing[1], spacing[0]),
        scale=None if slope is None or intercept is None else (float(slope), float(intercept)),
        is_signed=bool(dataset.get("PixelRepresentation")),
        stack=tuple(_text(dataset, name) for name in STACK_ATTRIBUTES),
    )


def _text(dataset: pydicom.Dataset, name: str) -> str:
    value = dataset.get(name)
    if value is None:
        return ""
    return str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(map(str, value))


def _require_complete(path: Path, dataset: pydicom.Dataset) -> None:
    """A cheap test for truncated files, where pixels are stored as they are."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None or UID(syntax).is_compressed:
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 * frames
    if path.stat().st_size < expected:
        raise UserError(path, f"is truncated: {path.stat().st_size} of {expected} bytes", "a complete slice", REMEDY)
