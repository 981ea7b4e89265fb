"""The patients of the experiments, and the partly labelled datasets that hospitals make of them."""

# Shapes: X Y Z voxels of a patient, RAS.

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from scipy import ndimage

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, Phantom, make_phantom

Sources = Mapping[str, tuple[str, ...]]  # hospital -> the classes that it annotates

# No class is annotated twice.
SOURCES: Sources = {
    "hepatic": ("liver", "liver_tumor"),
    "renal": ("right_kidney", "left_kidney", "kidney_tumor"),
    "gastric": ("spleen", "stomach"),
    "vascular": ("aorta", "postcava"),
}
CLASSES = tuple(row.name for row in UNIVERSAL.subset(name for names in SOURCES.values() for name in names))
TUMOURS = ("liver_tumor", "kidney_tumor")
ORGANS = tuple(name for name in CLASSES if name not in TUMOURS)
TUMOUR_SHARE = 0.6  # of the patients have a tumour, each kind by its own lot
MAY_BE_MISSING, MISSING_SHARE = ("spleen", "gallbladder", "right_kidney", "left_kidney"), 0.15
BODY_RANGE = (0.85, 1.15)  # of the body's size, each axis by its own lot
# The scan goes from above the pelvis to the dome of the liver: shares of the body's height, with a lot of +- 0.02.
SCAN_FROM, SCAN_TO, SCAN_JITTER = 0.40, 0.86, 0.02


@dataclass(frozen=True)
class Scanner:
    """How a hospital's images look.

    Attributes:
        noise_hu: added to the phantom's own noise of 8 to 16 HU.
        blur_mm: of the reconstruction kernel, before the noise.
    """

    name: str
    noise_hu: float = 0
    blur_mm: float = 0

    def scan(self, phantom: Phantom) -> Phantom:
        """The patient in this scanner; the same patient always gives the same image."""
        if not self.noise_hu and not self.blur_mm:
            return phantom
        rng = np.random.default_rng([phantom.seed, zlib.crc32(self.name.encode())])
        image = ndimage.gaussian_filter(
            phantom.image.astype(np.float32), [self.blur_mm / s for s in phantom.spacing_mm]
        )
        image += rng.normal(0, self.noise_hu, image.shape)
        return replace(phantom, image=np.clip(np.rint(image), -1024, 2000).astype(np.int16))


ONE_SCANNER = Scanner("standard")


def make_patient(seed: int, number: int, spacing_mm: tuple[float, float, float]) -> Phantom:
    """An abdominal scan whose body, organs and tumours follow from the study's seed and the patient's number."""
    rng = np.random.default_rng([seed, number])
    body = tuple(np.array(DEFAULT_BODY_MM) * rng.uniform(*BODY_RANGE, 3))
    tumours = {name for name in TUMOURS if rng.random() < TUMOUR_SHARE}
    missing = {str(rng.choice(MAY_BE_MISSING))} if rng.random() < MISSING_SHARE else set()
    phantom = make_phantom(int(rng.integers(2**31)), spacing_mm, body, tumours, missing)
    return abdomen(phantom, *(share + rng.uniform(-SCAN_JITTER, SCAN_JITTER) for share in (SCAN_FROM, SCAN_TO)))


def abdomen(phantom: Phantom, begin: float, end: float) -> Phantom:
    """The slices between two shares of the height."""
    num_slices = phantom.image.shape[2]
    first, last = round(begin * num_slices), round(end * num_slices)
    affine = phantom.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    masks = {name: mask[:, :, first:last] for name, mask in phantom.masks.items()}
    extras = {name: mask[:, :, first:last] for name, mask in phantom.extras.items()}
    return replace(phantom, image=phantom.image[:, :, first:last], masks=masks, extras=extras, affine=affine)


def write_hospital(folder: Path, name: str, annotated: Sequence[str], classes: Sequence[str], patients) -> list[Path]:
    """Images and label maps as a hospital would keep them; the `custom` tables of its own labels and of all.

    Args:
        annotated: what this hospital labels, of all `classes`.
        patients: an iterable of phantoms.

    Returns:
        partial.yaml, full.yaml
    """
    values = {"partial": label_values(annotated), "full": label_values(classes)}
    for case, phantom in enumerate(patients):
        for kind, meanings in values.items():
            label_map = np.zeros(phantom.image.shape, np.uint8)
            for value, names in meanings.items():
                label_map[np.all([phantom.masks[name] for name in names], axis=0)] = value
            save(folder / kind / f"{case:03d}.nii.gz", label_map, phantom.affine)
        save(folder / "images" / f"{case:03d}.nii.gz", phantom.image, phantom.affine)
    tables = []
    for kind, meanings in values.items():
        labels = f"{kind}/{{case}}.nii.gz"
        content = {"name": name, "images": "images/{case}.nii.gz", "labels": labels, "values": meanings}
        tables.append(folder / f"{kind}.yaml")
        tables[-1].write_text(yaml.safe_dump(content))
    return tables


def label_values(names: Sequence[str]) -> dict[int, list[str]]:
    """Value of a label map -> the classes that it means; the values do not depend on what else is labelled."""
    values = {index: [name] for index, name in enumerate(ORGANS, start=1)}
    values |= {101: ["liver", "liver_tumor"], 102: ["right_kidney", "kidney_tumor"]}
    values |= {103: ["left_kidney", "kidney_tumor"]}
    return {value: classes for value, classes in values.items() if set(classes) <= set(names)}


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
