"""3D-IRCADb-01: DICOM image and one DICOM mask series per structure, in folders named by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.conversion.label_flip import find_flip, flip_words, flipped
from nnunetv2_clip.conversion.laterality import find_midplane, split_sides
from nnunetv2_clip.conversion.source import (
    LoadedCase,
    Source,
    SourceCase,
    each_once,
    is_junk,
    require_folder,
)
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import walk_once
from nnunetv2_clip.imaging.dicom.series import inspect_series, read_mask_series, read_series, slice_files
from nnunetv2_clip.labels import ClassMap

PATIENT = r"3Dircadb1\.(\d+)"  # 3Dircadb2 is another set
IMAGE, MASKS = "PATIENT_DICOM", "MASKS_DICOM"
# Folder name in small letters -> class. Not here: what holds more than one class or only part of one (artery,
# portalvein, stomachoesophage, venoussystem ...), cysts of the liver, and tumours of the adrenal glands.
STRUCTURES = {
    "liver": "liver",
    "spleen": "spleen",
    "leftkidney": "left_kidney",
    "rightkidney": "right_kidney",
    "leftlung": "left_lung",
    "rightlung": "right_lung",
    "leftsurrenalgland": "left_adrenal_gland",
    "rightsurrenalgland": "right_adrenal_gland",
    "gallbladder": "gallbladder",
    "pancreas": "pancreas",
    "stomach": "stomach",
    "duodenum": "duodenum",
    "smallintestin": "intestine",
    "colon": "colon",
    "bladder": "bladder",
    "aorta": "aorta",
    "venacava": "postcava",
}
BOTH_SIDES = {
    "kidneys": ("right_kidney", "left_kidney"),
    "lungs": ("right_lung", "left_lung"),
    "surrenalgland": ("right_adrenal_gland", "left_adrenal_gland"),
}
MAYBE_ONE_SIDE = ("surrenalgland",)  # in the singular: a side without voxels may not have been drawn
PARTS = {"sigmoid": "colon"}  # belong to a class, but do not say that all of it was drawn
WITHOUT_LIVER_TUMOR = (5, 7, 11, 14, 20)  # patients whose liver is known to have no tumour
LIVER_TUMOR = ("liver", "tum")  # livertumor, livertumor01, livertumors ...; "tumor" alone is one of an adrenal gland


@dataclass(frozen=True)
class Ircadb(Source):
    """A patient annotates the classes for which it has a folder."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        require_folder(root, self.unpack)
        found = each_once(patient_folders(root))
        if not found:
            raise UserError(root, "holds no folder 3Dircadb1.1, 3Dircadb1.2 ...", self.unpack, "check the path")
        return [self._case(number, patient) for number, patient in sorted(found.items())]

    def _case(self, number: int, patient: Path) -> SourceCase:
        image, masks = (self._unpacked(patient, name) for name in (IMAGE, MASKS))
        structures = {path.name: path for path in sorted(masks.iterdir()) if path.is_dir() and meaning(path.name)}
        if "liver" not in map(str.lower, structures):
            raise UserError(masks, "has no folder liver", "which every patient has", f"unpack {MASKS}.zip again")
        return self.case(f"{number:02d}", image, structures)

    def _unpacked(self, patient: Path, name: str) -> Path:
        """The folder of an unpacked zip; some tools put it into another one of the same name."""
        folder = patient / name / name if (patient / name / name).is_dir() else patient / name
        if not folder.is_dir():
            found = f"{name}.zip is not unpacked" if (patient / f"{name}.zip").is_file() else f"has no folder {name}"
            raise UserError(patient, found, self.unpack, f"unpack {IMAGE}.zip and {MASKS}.zip of every patient")
        return folder

    def check_case(self, case: SourceCase) -> None:
        slices = len(inspect_series(case.image).files)
        for folder in case.labels.values():
            if len(slice_files(folder)) != slices:
                found = f"holds {len(slice_files(folder))} slices, the image {slices}"
                raise UserError(folder, found, "one mask slice for each slice of the image", "unpack it again")

    def load_case(self, case: SourceCase) -> LoadedCase:
        series = inspect_series(case.image)
        image, annotated = read_series(series), set()
        liver = next(folder for name, folder in case.labels.items() if name.lower() == "liver")
        is_liver = read_mask_series(liver, series).view(np.uint8)
        flip = find_flip(image, is_liver, (1,), liver, self.repairs_with("label_flip"))
        fixes = list(flip_words(flip))

        def masks() -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
            plane = None
            for name, folder in case.labels.items():
                mask = flipped(read_mask_series(folder, series), flip, image.affine)
                if name.lower() not in BOTH_SIDES:
                    yield mask, meaning(name)
                    annotated.update(() if name.lower() in PARTS else meaning(name))
                    continue
                plane = plane or find_midplane(image)
                sides = split_sides(mask, image, plane)
                fixes.extend([f"{name}: {sides.note}"] if sides.note else [])
                if sides.certain:
                    for side, organ in zip((sides.right, sides.left), meaning(name), strict=True):
                        yield side, (organ,)
                        if side.any() or name.lower() not in MAYBE_ONE_SIDE:
                            annotated.add(organ)

        labels = ClassMap.of_masks(series.geometry.shape, masks())
        is_healthy = case.number in WITHOUT_LIVER_TUMOR and self.repairs_with("known_absent")
        absent = ("liver_tumor",) if is_healthy and "liver_tumor" not in annotated else ()
        return LoadedCase(image, labels, tuple(sorted(annotated)), absent, tuple(fixes))


def meaning(folder: str) -> tuple[str, ...]:
    """The classes of a structure folder; none where it tells nothing about any."""
    name = folder.lower()
    if all(word in name for word in LIVER_TUMOR):
        return ("liver_tumor",)
    if name in BOTH_SIDES:
        return BOTH_SIDES[name]
    return tuple(filter(None, (STRUCTURES.get(name) or PARTS.get(name),)))


def patient_folders(root: Path) -> Iterator[tuple[int, Path]]:
    """(number, folder) of every patient at or below `root`."""
    for parent, subfolders, _ in walk_once(root.absolute()):
        match = re.fullmatch(PATIENT, parent.name, re.IGNORECASE)
        inner = match and parent.name in subfolders  # unpacked into a folder of the same name
        if match and not inner:
            yield int(match[1]), parent
        subfolders[:] = [] if match and not inner else [name for name in subfolders if not is_junk(Path(name))]


SOURCES = (
    Ircadb(
        name="ircadb",
        title="3D-IRCADb-01",
        licence="Creative Commons (see the licence in each patient's folder; usually cited as CC BY-NC-ND)",
        url="https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/",
        unpack="the folder with 3Dircadb1.1 to 3Dircadb1.20, in each PATIENT_DICOM and MASKS_DICOM unpacked",
        num_cases=20,
        label_table={},
        annotated=tuple(
            sorted({*STRUCTURES.values(), *(name for pair in BOTH_SIDES.values() for name in pair), "liver_tumor"})
        ),
        repairs={
            "label_flip": "masks that lie upside down or front to back on their images are flipped",
            "known_absent": f"liver_tumor is recorded as known to be absent in patients {WITHOUT_LIVER_TUMOR}",
        },
    ),
)
