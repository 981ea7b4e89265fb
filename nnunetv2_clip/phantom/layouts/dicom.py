"""DICOM series: one CT or mask volume as axial slices."""

# Shapes: X Y Z voxels: columns, rows, slices along their normal (LPS: left, back, head; LAI: left, front, feet).

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnunetv2_clip.phantom.layouts.base import Scan

INTERCEPT = -1024


@dataclass(frozen=True)
class SeriesFiles:
    """What one series looks like on disk.

    Attributes:
        file_name: number of the slice, counted from 0 along the normal -> file name.
        instance: the same -> InstanceNumber.
        is_mask: 8 bit without rescaling; else 16 bit Hounsfield units.
    """

    patient: str
    file_name: Callable[[int], str]
    instance: Callable[[int], int]
    description: str = "CT"
    is_mask: bool = False


def write_series(folder: Path, scan: Scan, array: np.ndarray, series: SeriesFiles) -> Path:
    """Write a RAS array as axial slices; returns the folder.

    The scan must be stored as pixels of axial slices may lie, slices along their normal.
    """
    assert scan.codes in ("LPS", "LAI"), "columns to the left, slices along the normal"
    folder.mkdir(parents=True, exist_ok=True)
    image = scan.nifti(array)
    rows_first = np.asarray(image.dataobj).transpose(2, 1, 0)
    if series.is_mask:
        pixels = rows_first.astype(np.uint8)
    else:
        pixels = np.clip(rows_first.astype(np.int32) - INTERCEPT, 0, None).astype("<u2")
    dataset = _header(series, image.affine, pixels, scan.phantom.seed)
    for k, slice_pixels in enumerate(pixels):
        uid = _uid(scan.phantom.seed, series.patient, series.description, k)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.InstanceNumber = series.instance(k)
        x, y, z = (image.affine @ (0, 0, k, 1))[:3]
        dataset.ImagePositionPatient = [f"{value:.6g}" for value in (-x, -y, z)]
        content = slice_pixels.tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
        dataset["PixelData"].VR = "OB" if series.is_mask else "OW"
        dataset.save_as(folder / series.file_name(k))
    return folder


def _header(series: SeriesFiles, affine: np.ndarray, pixels: np.ndarray, seed: int) -> FileDataset:
    """What all slices share. Equal arguments give equal bytes."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", series.patient, series.patient
    dataset.StudyInstanceUID = _uid(seed, series.patient, "study")
    dataset.SeriesInstanceUID = _uid(seed, series.patient, series.description)
    dataset.FrameOfReferenceUID = _uid(seed, series.patient, "frame")
    dataset.SeriesDescription, dataset.SeriesNumber, dataset.PatientPosition = series.description, 1, "HFS"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, int(np.sign(-affine[1, 1])), 0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    dataset.PixelSpacing = [f"{spacing[1]:.6g}", f"{spacing[0]:.6g}"]
    dataset.SliceThickness = f"{spacing[2]:.6g}"
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 8 * pixels.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    if not series.is_mask:
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT, 1, "HU"
    return dataset


def _uid(*parts: object) -> str:
    return generate_uid(entropy_srcs=[str(part) for part in parts])
