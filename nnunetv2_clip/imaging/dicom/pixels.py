"""Stored values of DICOM slices, whatever their compression."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import JPEGExtended12Bit, SecondaryCaptureImageStorage, generate_uid

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.dicom.header import REMEDY, UNREADABLE_DICOM, Slice

PIXEL_MODULE = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation"),
)


def read_pixels(row: Slice) -> np.ndarray:
    """(X, Y) stored values of a slice.

    Raises:
        UserError: truncated, damaged, or compressed in a way that neither pydicom nor SimpleITK knows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd identifiers and padding; too few bytes are an error
            dataset = pydicom.dcmread(row.path)
            if _needs_simpleitk(dataset):
                return _decoded_by_simpleitk(dataset, row.frame or 0).T
            return (dataset.pixel_array if row.frame is None else pixel_array(row.path, index=row.frame)).T
    except UNREADABLE_DICOM as error:
        found = f"has pixels that cannot be read ({' '.join(str(error).split())})"
        raise UserError(row.path, found, "a complete slice", f"{REMEDY}, or export it uncompressed") from None


def _needs_simpleitk(dataset: pydicom.Dataset) -> bool:
    """pydicom alone knows no lossless JPEG, and Pillow no JPEG of 12 bits."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return syntax.is_compressed and (syntax == JPEGExtended12Bit or not get_decoder(syntax).is_available)


def _decoded_by_simpleitk(dataset: pydicom.Dataset, frame: int) -> np.ndarray:
    """(Y, X) stored values: of a copy without rescaling, as SimpleITK would apply it."""
    import SimpleITK as sitk

    count = int(dataset.get("NumberOfFrames") or 1)
    copy = pydicom.Dataset()
    copy.update({dataset[name].tag: dataset[name] for name in PIXEL_MODULE})
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID = SecondaryCaptureImageStorage
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID = generate_uid()
    copy.PixelData = encapsulate([get_frame(dataset.PixelData, frame, number_of_frames=count)])
    copy["PixelData"].VR, copy["PixelData"].is_undefined_length = "OB", True
    with TemporaryDirectory() as folder:
        path = Path(folder, "slice.dcm")
        copy.save_as(path, enforce_file_format=True)
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    return _stored_bits(values.reshape(dataset.Rows, dataset.Columns), dataset)


def _stored_bits(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Without bits above those of the values, and with their sign."""
    bits = int(dataset.BitsStored)
    values = values.astype(np.int64) & (2**bits - 1)
    return values - (values >= 2 ** (bits - 1)) * 2**bits if dataset.PixelRepresentation else values
