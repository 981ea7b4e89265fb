"""3D-IRCADb-01: DICOM image and one DICOM series per structure, in folders whose names are free text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunetv2_clip.phantom.layouts.base import Request, Scan, named
from nnunetv2_clip.phantom.layouts.dicom import SeriesFiles, write_series

# Structure folder -> classes or extras; "#1" and "#2" are the two halves of a mask that comes in two folders.
RICH = named(
    "liver livertumor01=liver_tumor#1 livertumor02=liver_tumor#2 leftkidney=left_kidney rightkidney=right_kidney "
    "leftlung=left_lung rightlung=right_lung spleen gallbladder pancreas leftsurrenalgland=left_adrenal_gland "
    "rightsurrenalgland=right_adrenal_gland venacava=postcava aorta "
    "portalvein=portal_and_splenic_vein+hepatic_vessel bone skin"  # the tree inside and outside the liver
)
JOINT = named(  # patient 7: sides together, one gland under a name without side, a tumour that is none of the liver
    "liver kidneys=right_kidney+left_kidney lungs=right_lung+left_lung "
    "surrenalgland=left_adrenal_gland tumor=right_adrenal_gland#1 stomach "
    "venoussystem=hepatic_vessel+postcava portalvein1=portal_and_splenic_vein bone skin"
)
ODD = named(
    "liver livertumors=liver_tumor livercyst=gallbladder#1 colon smallintestin=intestine duodenum bladder "
    "artery=aorta+celiac_trunk biliarysystem=gallbladder heart portalvein=portal_and_splenic_vein bone skin"
)
# What each kind of patient annotates, by the names that mean one class alone.
PATIENTS = {
    "rich": (
        RICH,
        "liver liver_tumor left_kidney right_kidney left_lung right_lung spleen gallbladder pancreas "
        "left_adrenal_gland right_adrenal_gland postcava aorta",
    ),
    "joint": (
        JOINT,
        "liver right_kidney left_kidney right_lung left_lung left_adrenal_gland stomach",
    ),
    "odd": (ODD, "liver liver_tumor colon intestine duodenum bladder"),
}
NUMBERS = (1, 7, 3, 2, 5, 4, 6, 11, 8, 9, 14, 10, 12, 20, 13)
WITHOUT_LIVER_TUMOUR = (5, 7, 11, 14, 20)


def write(request: Request) -> Path:
    """Write 3Dircadb1/ with the zips unpacked; returns it."""
    root = request.folder / "3Dircadb1"
    for n, seed, _ in request.numbers(NUMBERS):
        kind = "joint" if n in WITHOUT_LIVER_TUMOUR else "odd" if n % 3 == 0 else "rich"
        structures, annotated = PATIENTS[kind]
        missing = {"hepatic_vessel_tumor"} | ({"liver_tumor"} if kind == "joint" else set())
        scan, folder = request.scan(seed, ("LPS",), missing), root / f"3Dircadb1.{n}"
        image = write_series(folder / "PATIENT_DICOM", scan, scan.phantom.image, _series(n, scan, "CT"))
        labels = []
        for name, parts in structures.items():
            mask = np.any([_part(scan, part) for part in parts], axis=0)
            series = _series(n, scan, name, is_mask=True)
            labels.append(write_series(folder / "MASKS_DICOM" / name, scan, mask.astype(np.uint8) * 255, series))
        coded = scan.phantom.masks["liver"].astype(np.uint8) * 17  # another code for each patient
        write_series(folder / "LABELLED_DICOM", scan, coded, _series(n, scan, "labelled", is_mask=True))
        absent = ("liver_tumor",) if kind == "joint" else ()
        request.add(f"3Dircadb1.{n}", scan, image, labels, annotated.split(), absent)
    return root


def _series(n: int, scan: Scan, description: str, is_mask: bool = False) -> SeriesFiles:
    """image_0 is the uppermost slice; names are not padded, so that their text order is wrong."""
    count = scan.phantom.image.shape[2]
    return SeriesFiles(f"3Dircadb1.{n}", lambda k: f"image_{count - 1 - k}", lambda k: count - k, description, is_mask)


def _part(scan: Scan, name: str) -> np.ndarray:
    """(X, Y, Z) bool RAS: a class, an extra, or one half of it."""
    name, _, half = name.partition("#")
    mask = scan.phantom.masks[name] if name in scan.phantom.masks else scan.phantom.extras[name]
    if not half or not mask.any():
        return mask
    z = np.indices(mask.shape)[2]
    lower = z <= np.median(z[mask])
    return mask & (lower if half == "1" else ~lower)
