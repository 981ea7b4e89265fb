"""CHAOS, CT part: livers of healthy donors as DICOM, the truth as one PNG per slice in an order of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_clip.conversion.label_flip import lay_on_image
from nnunetv2_clip.conversion.source import Source, SourceCase, each_once, is_junk, require_folder
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import walk_once
from nnunetv2_clip.imaging.dicom.series import inspect_series, read_series
from nnunetv2_clip.imaging.nifti import Volume

IMAGES, MASKS, MODALITY, TEST_FOLDER = "DICOM_anon", "Ground", "ct", "test_sets"


@dataclass(frozen=True)
class Chaos(Source):
    """Patients' folders below one called CT; MR is left alone, and so are the test sets, which have no truth."""

    def find_cases(self, root: Path) -> list[SourceCase]:
        require_folder(root, self.unpack)
        patients = filter(self._has_truth, ct_folders(root.absolute()))
        found = each_once((int(patient.name), patient) for patient in patients)
        if not found:
            raise UserError(root, "holds no labelled CT of CHAOS", self.unpack, "check the path given with --source")
        return [
            self.case(f"{number:02d}", patient / IMAGES, {"label": patient / MASKS})
            for number, patient in sorted(found.items())
        ]

    def _has_truth(self, patient: Path) -> bool:
        if (patient / MASKS).is_dir():
            return True
        if TEST_FOLDER not in (part.lower() for part in patient.parts):
            raise UserError(patient, f"has no folder {MASKS}", self.unpack, "unpack CHAOS_Train_Sets.zip again")
        return False

    def check_case(self, case: SourceCase) -> None:
        slices, pictures = inspect_series(case.image, one_uid=False).files, mask_files(case.labels["label"])
        if len(slices) != len(pictures):
            raise UserError(
                case.labels["label"],
                f"holds {len(pictures)} PNG files for {len(slices)} DICOM slices",
                "one PNG for each slice",
                "unpack CHAOS_Train_Sets.zip again",
            )

    def read(self, case: SourceCase) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        self.check_case(case)
        image, masks = read_series(inspect_series(case.image, one_uid=False)), case.labels["label"]
        # Published stacks count from the head; whether this one does, the image decides.
        return image, *lay_on_image(image, read_masks(masks), (1,), masks, self.repairs_with("label_flip"))


def ct_folders(root: Path) -> list[Path]:
    """Every folder CT/<number> below `root` (or `root` itself being CT) that holds DICOM slices."""
    return sorted(
        parent
        for parent, subfolders, _ in walk_once(root)
        if IMAGES in subfolders
        and parent.name.isdecimal()
        and parent.parent.name.lower() == MODALITY
        and not any(is_junk(Path(part)) for part in parent.relative_to(root).parts)
    )


def mask_files(folder: Path) -> list[Path]:
    """The PNG files by the number at the end of their names.

    Raises:
        UserError: two of the same number, or one is missing in between.
    """
    matches = ((re.fullmatch(r".*?(\d+)\.png", path.name, re.IGNORECASE), path) for path in sorted(folder.iterdir()))
    numbered = each_once((int(match[1]), path) for match, path in matches if match and not is_junk(path))
    missing = sorted(set(range(min(numbered, default=0), max(numbered, default=-1) + 1)) - set(numbered))
    if missing:
        raise UserError(folder, f"has no PNG of number {missing[0]}", "one PNG for each slice", "unpack it again")
    return [path for _, path in sorted(numbered.items())]


def read_masks(folder: Path) -> np.ndarray:
    """(X, Y, Z) uint8: 1 where a picture is not black, pictures by number.

    Raises:
        UserError: a damaged picture, one of another size, or one with grey values (as those of the MR part).
    """
    pictures = [_read_mask(path) for path in mask_files(folder)]
    for path, picture in zip(mask_files(folder), pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(path, f"has {picture.shape} pixels instead of {pictures[0].shape}", "pictures of one size")
    return np.stack(pictures, axis=2)


def _read_mask(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:  # PIL reports a damaged PNG as SyntaxError
        raise UserError(path, f"cannot be read ({error})", "a complete PNG", "unpack it again") from None
    values = np.unique(pixels).tolist()
    if pixels.ndim != 2 or len(set(values) - {0}) > 1:
        raise UserError(path, f"is no mask: shape {pixels.shape}, values {values[:5]}", "black and one other value")
    return (pixels != 0).T.astype(np.uint8)


SOURCES = (
    Chaos(
        name="chaos",
        title="CHAOS, Combined Healthy Abdominal Organ Segmentation, CT part",
        licence="CC BY-NC-SA 4.0",
        url="https://doi.org/10.5281/zenodo.3431873",
        unpack="the folder Train_Sets of CHAOS_Train_Sets.zip, with CT/<number>/DICOM_anon and Ground",
        num_cases=20,
        label_table={1: ("liver",)},
        annotated=("liver",),
        absent=("kidney_tumor", "liver_tumor"),
        repairs={
            "label_flip": "PNG stacks that count from the head, or lie front to back, are flipped",
            "known_absent": "kidney_tumor and liver_tumor are recorded as known to be absent: the donors are healthy",
        },
    ),
)
