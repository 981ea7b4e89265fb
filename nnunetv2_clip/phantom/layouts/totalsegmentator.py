"""TotalSegmentator v1, v2 and v3: one folder per case with one binary mask per structure."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from nnunetv2_clip.phantom.anatomy import Phantom
from nnunetv2_clip.phantom.layouts.base import Request, named, write_table

ROOTS = {
    "totalsegmentator_v1": "Totalsegmentator_dataset",
    "totalsegmentator_v2": "Totalsegmentator_dataset_v201",
    "totalsegmentator_v3": "Totalsegmentator_dataset_v300",
}
CLASSES = named(
    "spleen kidney_right=right_kidney kidney_left=left_kidney gallbladder esophagus liver stomach aorta "
    "inferior_vena_cava=postcava portal_vein_and_splenic_vein=portal_and_splenic_vein pancreas "
    "adrenal_gland_right=right_adrenal_gland adrenal_gland_left=left_adrenal_gland duodenum colon "
    "small_bowel=intestine urinary_bladder=bladder"
)
LOBES = {
    "right_lung": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    "left_lung": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
}
SIDED = (
    *("humerus", "scapula", "clavicula", "femur", "hip", "gluteus_maximus", "gluteus_medius", "gluteus_minimus"),
    *("autochthon", "iliopsoas", "iliac_artery", "iliac_vena"),
)
BOTH_VERSIONS = (
    *(f"vertebrae_{part}{n}" for part, count in (("C", 7), ("T", 12), ("L", 5)) for n in range(1, count + 1)),
    *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
    *(f"{name}_{side}" for name in SIDED for side in ("left", "right")),
    *("sacrum", "trachea", "brain"),
)
ONLY_V1 = (
    *("heart_myocardium", "heart_atrium_left", "heart_ventricle_left", "heart_atrium_right", "heart_ventricle_right"),
    *("pulmonary_artery", "face"),
)
SINCE_V2 = (
    *("prostate", "kidney_cyst_right", "kidney_cyst_left"),
    *("heart", "atrial_appendage_left", "pulmonary_vein", "superior_vena_cava"),
    "brachiocephalic_trunk",
    *("subclavian_artery_left", "subclavian_artery_right", "common_carotid_artery_left", "common_carotid_artery_right"),
    *("brachiocephalic_vein_left", "brachiocephalic_vein_right", "spinal_cord", "skull", "sternum"),
    *("costal_cartilages", "thyroid_gland"),
)
META_FIELDS = ("image_id", "age", "gender", "institute", "study_type", "split")


def structures(layout: str) -> tuple[str, ...]:
    """All file names of the version: 104 in v1, 117 in v2 and v3."""
    own = (*CLASSES, *LOBES["right_lung"], *LOBES["left_lung"], *BOTH_VERSIONS)
    last_vertebra = "vertebrae_S1" if layout == "totalsegmentator_v2" else "vertebrae_L6"
    return (*own, *(ONLY_V1 if layout == "totalsegmentator_v1" else (*SINCE_V2, last_vertebra)))


def write(request: Request) -> Path:
    """Write s0000/, s0001/ ... and meta.csv; returns their folder. Structures outside the scan have empty masks."""
    root = request.folder / ROOTS[request.layout]
    rows = []
    for n, seed, _ in request.numbers(n for n in range(1430) if n % 7 != 5):
        scan, case = request.scan(seed), f"s{n:04d}"
        image = scan.save(root / case / "ct.nii.gz", scan.phantom.image)
        masks = structure_masks(request.layout, scan.phantom)
        empty = np.zeros(scan.phantom.image.shape, dtype=np.uint8)
        labels = [
            scan.save(root / case / "segmentations" / f"{name}.nii.gz", masks.get(name, empty).astype(np.uint8))
            for name in structures(request.layout)
        ]
        request.add(case, scan, image, labels, annotated(request.layout), incomplete=incomplete(request.layout))
        rows.append((case, "60", "m", "A", "ct abdomen", ("train", "val", "test")[len(rows) % 3]))
    is_v3 = request.layout == "totalsegmentator_v3"
    if is_v3:  # without validation part, with a byte order mark
        rows = [(*row, "train" if split == "val" else split) for *row, split in rows]
    write_table(root / "meta.csv", [META_FIELDS, *rows], ";", "utf-8-sig" if is_v3 else "utf-8")
    return root.parent if is_v3 else root


def annotated(layout: str) -> set[str]:
    found = {*chain(*CLASSES.values()), *LOBES}
    return found if layout == "totalsegmentator_v1" else found | {"prostate"}


def incomplete(layout: str) -> tuple[str, ...]:
    """Of cysts only large ones were drawn."""
    return () if layout == "totalsegmentator_v1" else ("kidney_cyst",)


def structure_masks(layout: str, phantom: Phantom) -> dict[str, np.ndarray]:
    """The masks that are not empty. Since v2 a kidney's cyst has a mask of its own and is not in the kidney's."""
    masks = {name: phantom.masks[organ] for name, (organ,) in CLASSES.items()}
    x, y, z = np.indices(phantom.image.shape)
    for lung, names in LOBES.items():
        lower = phantom.masks[lung] & (y < np.median(y[phantom.masks[lung]]))
        upper = phantom.masks[lung] & ~lower
        middle = upper & (z < np.median(z[upper])) if len(names) == 3 else np.zeros_like(upper)
        masks.update(zip(names, (upper & ~middle, middle, lower) if len(names) == 3 else (upper, lower), strict=True))
    bone, mid = phantom.extras["bone"], phantom.image.shape[0] / 2
    for side, half in (("right", x > mid), ("left", x < mid)):
        head = phantom.masks[f"{side}_femur_head"]
        top = z[head].max() if head.any() else 0
        masks[f"femur_{side}"] = head | (bone & half & (z < top * 0.6))  # the whole femur, not the head
    if layout != "totalsegmentator_v1":
        masks["heart"] = phantom.extras["heart"]
        masks["prostate"] = phantom.masks["prostate"]
        for side in ("right", "left"):
            kidney, cyst = phantom.masks[f"{side}_kidney"], phantom.masks["kidney_cyst"]
            masks[f"kidney_cyst_{side}"], masks[f"kidney_{side}"] = kidney & cyst, kidney & ~cyst
    return masks
