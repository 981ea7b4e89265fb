"""CHAOS, CT part: DICOM slices and one PNG per slice, numbered from the other end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_clip.phantom.layouts.base import Request, Scan
from nnunetv2_clip.phantom.layouts.dicom import SeriesFiles, write_series

NUMBERS = (1, 2, 5, 6, 8, 10, 14, 16, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
TEST_NUMBERS = (3, 4, 7, 9, 11, 12, 13, 15, 17, 20)
HEALTHY = ("liver_tumor", "hepatic_vessel_tumor", "kidney_tumor", "kidney_cyst")
ABSENT = ("kidney_tumor", "liver_tumor")


def write(request: Request) -> Path:
    """Write Train_Sets/ and Test_Sets/ with CT and a bit of MR; returns their folder.

    Option `label_flip`: axes ("y", "z", "yz") along which the PNG stack lies the other way round than usual.
    """
    root, flip = request.folder / "CHAOS", request.option("label_flip", "")
    for n, seed, labelled in request.numbers(NUMBERS, TEST_NUMBERS):
        scan = request.scan(seed, ("LPS",), missing=HEALTHY)
        folder = root / ("Train_Sets" if labelled else "Test_Sets") / "CT" / str(n)
        image = write_series(folder / "DICOM_anon", scan, scan.phantom.image, _series(n, scan))
        labels = [_write_masks(folder / "Ground", scan, n, flip)] if labelled else []
        request.add(f"CT_{n}", scan, image, labels, ("liver",) if labelled else (), ABSENT)
    _write_mr(root / "Train_Sets" / "MR" / "1" / "T1DUAL", scan)
    return root


def _series(n: int, scan: Scan) -> SeriesFiles:
    """Two ways of naming files: one counts from the head, the other from the feet."""
    count = scan.phantom.image.shape[2]
    if n % 2:
        return SeriesFiles(f"CHAOS_CT_{n}", lambda k: f"i{count - 1 - k:04d},0000b.dcm", lambda k: count - k)
    return SeriesFiles(f"CHAOS_CT_{n}", lambda k: f"IMG-0004-{k + 1:05d}.dcm", lambda k: k + 1)


def _write_masks(folder: Path, scan: Scan, n: int, flip: str) -> Path:
    """liver_GT_000.png is the uppermost slice; bilevel in some patients, 0 and 255 in the others."""
    folder.mkdir(parents=True)
    liver = scan.array(scan.phantom.masks["liver"].astype(np.uint8))[:, :, ::-1]
    liver = np.flip(liver, ["xyz".index(axis) for axis in flip])
    for number in range(liver.shape[2]):
        picture = Image.fromarray(np.ascontiguousarray(liver[:, :, number].T) * np.uint8(255))
        (picture.convert("1") if n % 2 else picture).save(folder / f"liver_GT_{number:03d}.png")
    return folder


def _write_mr(folder: Path, scan: Scan) -> None:
    """A magnetic resonance series with its grey-coded truth, which is none of our business."""
    series = SeriesFiles("CHAOS_MR_1", lambda k: f"IMG-0004-{k + 1:05d}.dcm", lambda k: k + 1, "T1 DUAL")
    write_series(folder / "DICOM_anon" / "InPhase", scan, np.clip(scan.phantom.image, 0, None), series)
    (folder / "Ground").mkdir(parents=True)
    codes = scan.array(scan.phantom.masks["liver"].astype(np.uint8) * 63)
    for k in range(codes.shape[2]):
        Image.fromarray(np.ascontiguousarray(codes[:, :, k].T)).save(folder / "Ground" / f"IMG-0004-{k + 1:05d}.png")
