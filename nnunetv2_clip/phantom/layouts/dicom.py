"""DICOM series: one CT or mask volume as axial slices."""

# Shapes: X Y Z voxels in LPS order: columns run left, rows run posterior, slices upwards.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnunetv2_clip.phantom.layouts.base import Scan

INTERCEPT = -1024


@dataclass(frozen=True)
class Series:
    """What one series looks like on disk.

    Attributes:
        file_name: number of the slice, counted from 0 from the lowest -> file name.
        instance: the same -> InstanceNumber.
        is_mask: 8 bit without rescaling; else 16 bit Hounsfield units.
    """

    patient: str
    file_name: Callable[[int], str]
    instance: Callable[[int], int]
    description: str = "CT"
    is_mask: bool = False


def write_series(folder: Path, scan: Scan, array: np.ndarray, series: Series) -> Path:
    """Write a RAS array as axial slices; returns the folder.

    The scan must be stored in LPS order, the one in which pixels of axial slices lie.
    """
    assert scan.codes == "LPS", "DICOM slices are written with columns to the left and rows to the back"
    folder.mkdir(parents=True, exist_ok=True)
    voxels, affine = scan.array(array), scan.nifti(array).affine
    for k in range(voxels.shape[2]):
        dataset = _slice(series, affine, voxels.shape, k, scan.phantom.seed)
        if series.is_mask:
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            dataset.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype(np.uint8)).tobytes()
        else:
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
            stored = np.clip(voxels[:, :, k].T.astype(np.int32) - INTERCEPT, 0, None).astype("<u2")
            dataset.PixelData = np.ascontiguousarray(stored).tobytes()
        dataset["PixelData"].VR = "OB" if series.is_mask else "OW"
        dataset.save_as(folder / series.file_name(k), enforce_file_format=True)
    return folder


def _slice(series: Series, affine: np.ndarray, shape: tuple[int, ...], k: int, seed: int) -> FileDataset:
    """Everything but the pixels. Equal arguments give equal bytes."""
    uid = lambda *parts: generate_uid(entropy_srcs=[str(seed), series.patient, *map(str, parts)])  # noqa: E731
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid(series.description, k)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", series.patient, series.patient
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(series.description)
    dataset.FrameOfReferenceUID, dataset.SeriesDescription = uid("frame"), series.description
    dataset.SeriesNumber, dataset.InstanceNumber = 1, series.instance(k)
    dataset.PatientPosition = "HFS"
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    position = affine @ (0, 0, k, 1)
    dataset.ImagePositionPatient = [f"{value:.6g}" for value in (-position[0], -position[1], position[2])]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [f"{spacing[1]:.6g}", f"{spacing[0]:.6g}"]
    dataset.SliceThickness = f"{spacing[2]:.6g}"
    dataset.Rows, dataset.Columns = shape[1], shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    if not series.is_mask:
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT, 1, "HU"
    return dataset
