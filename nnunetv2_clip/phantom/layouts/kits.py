"""KiTS19, KiTS21 and KiTS23: one folder per case, arrays ordered (slice, row, column), origin zero."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from nnunetv2_clip.files import write_json
from nnunetv2_clip.phantom.layouts.base import Request, Scan, annotated_classes, painted, qform_only, with_affine

KIDNEYS = ("right_kidney", "left_kidney")
WITH_CYSTS = ((1, KIDNEYS), (3, ("kidney_cyst",)), (2, ("kidney_tumor",)))
RECIPES = {
    "kits19": ((1, KIDNEYS), (2, ("kidney_tumor",))),  # cysts are kidney
    "kits21": WITH_CYSTS,
    "kits23": WITH_CYSTS,
}
UINT16_QFORM_ONLY = (15, 23, 37, 39, 116, 125, 144, 157, 176)  # labels of KiTS19
NUMBERS = {
    "kits19": tuple(chain(*zip(range(9), UINT16_QFORM_ONLY, strict=True))),
    "kits21": range(300),
    "kits23": tuple(chain(*zip(range(100), range(400, 500), strict=True))),  # there are no cases 300-399
}


def write(request: Request) -> Path:
    """Write the repository's folder; returns it."""
    layout = request.layout
    data = {"kits19": "data", "kits21": "kits21/data", "kits23": "dataset"}[layout]
    root = request.folder / layout
    for n, seed, labelled in request.numbers(NUMBERS[layout], range(210, 300)):
        scan, case = at_zero_origin(request.scan(seed, ("IPL",))), f"case_{n:05d}"
        folder = root / data / case
        image = scan.save(folder / "imaging.nii.gz", scan.phantom.image, sform_only)
        labels = _write_labels(layout, n, folder, scan) if labelled else []
        request.add(case, scan, image, labels, annotated_classes(RECIPES[layout]) if labelled else ())
    patient = {"gender": "male", "age_at_nephrectomy": 60, "tumor_histology": "clear_cell_rcc"}
    entries = [{"case_id": case, **patient} for case in request.cases]
    write_json(root / data / f"{layout if layout == 'kits23' else 'kits'}.json", entries)
    return root


def at_zero_origin(scan: Scan) -> Scan:
    """The scan moved so that the first stored voxel lies at (0, 0, 0)."""
    affine = scan.phantom.affine.copy()
    affine[:3, 3] -= scan.nifti(scan.phantom.image).affine[:3, 3]
    return replace(scan, phantom=replace(scan.phantom, affine=affine))


def sform_only(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return with_affine(image, image.affine, (0, 2))


def _write_labels(layout: str, n: int, folder: Path, scan: Scan) -> list[Path]:
    label_map = painted(scan.phantom, RECIPES[layout])
    if layout == "kits21":
        return _write_aggregated(folder, scan, label_map)
    if layout == "kits19" and n in UINT16_QFORM_ONLY:
        return [scan.save(folder / "segmentation.nii.gz", label_map.astype(np.uint16), qform_only)]
    if layout == "kits23":
        _write_instances(folder / "instances", scan)
    return [scan.save(folder / "segmentation.nii.gz", label_map, sform_only)]


def _write_aggregated(folder: Path, scan: Scan, majority: np.ndarray) -> list[Path]:
    """The three aggregations of the annotators' work; only MAJ is the truth here. MAJ is the first of the list."""
    hull, lesions = majority > 0, majority >= 2
    smaller = np.where(lesions & ~ndimage.binary_erosion(lesions), 1, majority).astype(np.uint8)
    larger = np.where(ndimage.binary_dilation(majority == 2) & hull, 2, majority).astype(np.uint8)
    maps = {"MAJ": majority, "AND": smaller, "OR": larger}
    (folder / "raw").mkdir()
    (folder / "segmentations").mkdir()
    return [scan.save(folder / f"aggregated_{name}_seg.nii.gz", maps[name], sform_only) for name in maps]


def _write_instances(folder: Path, scan: Scan) -> None:
    """Each kidney, tumour and cyst on its own; the numbers do not tell the side."""
    masks = scan.phantom.masks
    kidneys = [masks[name] for name in KIDNEYS[:: 1 if scan.phantom.seed % 2 else -1] if masks[name].any()]
    structures = {"kidney": kidneys, "tumor": [masks["kidney_tumor"]], "cyst": [masks["kidney_cyst"]]}
    for structure, found in structures.items():
        for number, mask in enumerate((mask for mask in found if mask.any()), start=1):
            for annotation in (1, 2, 3):
                name = f"{structure}_instance-{number}_annotation-{annotation}.nii.gz"
                scan.save(folder / name, mask.astype(np.uint8), sform_only)
