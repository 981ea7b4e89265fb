"""One NIfTI image and one label map per case: BTCV, LiTS, CT-ORG, WORD, AbdomenCT-1K and -12organ, FLARE22, custom;
images alone: unlabelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.phantom.layouts.base import (
    UNIT_SPACING_NUMBERS,
    Change,
    Paint,
    Request,
    annotated_classes,
    claims_ras,
    numbered,
    painted,
    qform_only,
    unit_spacing,
    with_affine,
)

WORD_VALIDATION = (1, 7, 15, 25, 31, 35, 39, 45, 48, 66, 75, 80, 83, 85, 98, 112, 137, 139, 141, 149)
WORD_TEST = (14, 16, 17, 19, 21, 23, 24, 33, 34, 37, 43, 50, 52, 54, 57, 60, 69, 74, 76, 77, 88, 92, 97, 99)
WORD_TRAINING = tuple(n for n in range(1, 151) if n not in (*WORD_VALIDATION, *WORD_TEST, 103, 110, 120, 124, 129, 131))
ABDOMENCT_1K_UNLABELLED = (10, 13, 16, 27, 28, 32, 33, 38, 43, 58, 218, 224, 228, 236, 241, 246, 274, 404, 408, 415)
ABDOMENCT_1K_SHEARED = (11, 21, 49, 51, 57, 205, 213, 217, 219, 221, 232, 238, 240, 244, 249, 251, 401, 403, 405)
# Cases that are LiTS 28-47 and inherit their voxel size (fact sheet, section 3.3).
ABDOMENCT_1K_UNIT_SPACING = (
    273, 462, 574, 575, 576, 577, 274, 78, 275, 276, 277, 278, 280, 281, 282, 283, 284, 285, 286, 578,
)  # fmt: skip
SHEAR = 0.002
CUSTOM_RECIPE = ((1, ("liver",)), (2, ("liver_tumor",)), (5, ("right_kidney", "left_kidney")), (7, ("spleen",)))


@dataclass(frozen=True)
class Layout:
    """Where the files lie below `root` and what their values mean. A case is called like its image.

    Attributes:
        image, label, test_image: paths with {n}, the case number, and {part}, what `part(n)` gives.
        recipe: label values in painting order.
        numbers, test_numbers: published case numbers, the ones with traps early.
        orientations: usual axis codes, in turn.
    """

    root: str
    image: str
    label: str
    recipe: Paint
    numbers: Iterable[int]
    test_image: str = ""
    test_numbers: Iterable[int] = ()
    orientations: tuple[str, ...] = ("LPS",)
    part: Callable[[int], str] = lambda n: ""


LAYOUTS = {
    "btcv": Layout(
        "RawData",
        "Training/img/img{n:04d}.nii.gz",
        "Training/label/label{n:04d}.nii.gz",
        numbered(
            "spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta postcava "
            "portal_and_splenic_vein pancreas right_adrenal_gland left_adrenal_gland"
        ),
        tuple(chain(range(1, 11), range(21, 41))),
        "Testing/img/img{n:04d}.nii.gz",
        range(61, 81),
        ("LAS",),
    ),
    "lits": Layout(
        "LiTS",
        "Training Batch {part}/volume-{n}.nii",
        "Training Batch {part}/segmentation-{n}.nii",
        numbered("liver liver_tumor"),
        tuple(chain(*zip(range(28), range(48, 76), strict=True))),  # both batches
        "LITS-Challenge-Test-Data/test-volume-{n}.nii",
        range(70),
        ("LPS", "RAS"),
        lambda n: "1" if n < 28 else "2",
    ),
    "ct_org": Layout(
        "PKG - CT-ORG",
        "CT-ORG/OrganSegmentations/volume-{n}.nii.gz",
        "CT-ORG/OrganSegmentations/labels-{n}.nii.gz",
        ((5, ("bone",)), *numbered("liver bladder right_lung+left_lung right_kidney+left_kidney")),
        tuple(chain(*zip(range(28), range(48, 76), strict=True))),
        orientations=("LPS", "RAS"),
    ),
    "word": Layout(
        "WORD-V0.1.0",
        "images{part}/word_{n:04d}.nii.gz",
        "labels{part}/word_{n:04d}.nii.gz",
        numbered(
            "liver spleen left_kidney right_kidney stomach gallbladder esophagus pancreas duodenum colon intestine "
            "right_adrenal_gland+left_adrenal_gland rectum bladder left_femur_head right_femur_head"
        ),
        tuple(chain(*zip(WORD_TRAINING[:20], WORD_VALIDATION, strict=True))),
        "imagesTs/word_{n:04d}.nii.gz",
        WORD_TEST,
        ("LPS",),
        lambda n: "Val" if n in WORD_VALIDATION else "Tr",
    ),
    "abdomenct_1k": Layout(
        "AbdomenCT-1K",
        "Image/Case_{n:05d}_0000.nii.gz",
        "Mask/Case_{n:05d}.nii.gz",
        numbered("liver right_kidney+left_kidney spleen pancreas"),
        tuple(chain(*zip(range(1, 10), ABDOMENCT_1K_SHEARED[:9], strict=True))),
        "Image/Case_{n:05d}_0000.nii.gz",
        ABDOMENCT_1K_UNLABELLED,
    ),
    "abdomenct_12organ": Layout(
        "Organ-12-Subset",
        "Image/Organ12_{n:04d}_0000.nii.gz",
        "Mask/Organ12_{n:04d}.nii.gz",
        numbered(
            "liver right_kidney+left_kidney spleen pancreas aorta postcava stomach gallbladder esophagus "
            "right_adrenal_gland left_adrenal_gland celiac_trunk"
        ),
        range(1, 51),
    ),
    "flare22": Layout(
        "FLARE22",
        "Training/FLARE22_LabeledCase50/images/FLARE22_Tr_{n:04d}_0000.nii.gz",
        "Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_{n:04d}.nii.gz",
        numbered(
            "liver right_kidney spleen pancreas aorta postcava right_adrenal_gland left_adrenal_gland gallbladder "
            "esophagus stomach duodenum left_kidney"
        ),
        range(1, 51),
        "Training/FLARE22_UnlabeledCase1-1000/Case_{n:05d}_0000.nii.gz",
        range(1, 1001),
    ),
    "unlabelled": Layout("scans", "scan_{n:03d}.nii.gz", "", (), range(1, 1000)),
}


def write(request: Request) -> Path:
    """Write the dataset's folder; returns it.

    Options of `custom`, which has label values of one's choice: `recipe`, the values in painting order; `root` and
    `prefix`, the names of folder and files.
    Option of LiTS: `label_headers`, the segmentations' headers say RAS though their arrays are those of the volumes.
    CT-ORG: a patient without a bladder stands for a scan that ends above it; its bladder is not annotated.
    """
    wrong_labels = request.layout == "lits" and request.option("label_headers", False)
    layout = custom_layout(request) if request.layout == "custom" else LAYOUTS[request.layout]
    return write_cases(request, layout, label_header=claims_ras if wrong_labels else None)


def custom_layout(request: Request) -> Layout:
    """Test cases lie in images_test/."""
    root, recipe = request.option("root", "custom"), request.option("recipe", CUSTOM_RECIPE)
    file = f"{request.option('prefix', 'case')}_{{n:03d}}.nii.gz"
    image, label, test_image = (f"{folder}/{file}" for folder in ("images", "labels", "images_test"))
    return Layout(root, image, label, recipe, count(1), test_image, count(len(request.seeds) + 1), ("RAS",))


def write_cases(
    request: Request, layout: Layout, header: Change | None = None, label_header: Change | None = None
) -> Path:
    """Write images and label maps; returns their folder.

    Args:
        header: what happened to the headers of all files; by default what a labelled case's header is known for.
        label_header: the same for label maps alone.
    """
    root = request.folder / layout.root
    for n, seed, labelled in request.numbers(layout.numbers, layout.test_numbers):
        scan = request.scan(seed, layout.orientations)
        change = header or (header_change(request.layout, n) if labelled else None)
        place = lambda path: root / path.format(n=n, part=layout.part(n))  # noqa: B023, E731
        image = scan.save(place(layout.image if labelled else layout.test_image), scan.phantom.image, change)
        labels, annotated = [], set()
        if labelled and layout.label:
            labels = [scan.save(place(layout.label), painted(scan.phantom, layout.recipe), label_header or change)]
            annotated = set(annotated_classes(layout.recipe))
        if request.layout == "ct_org" and not scan.phantom.masks["bladder"].any():
            annotated -= {"bladder"}
        request.add(image.name.split(".")[0].removesuffix("_0000"), scan, image, labels, annotated)
    return root


def header_change(layout: str, n: int) -> Change | None:
    """What the publisher's header of this case is known for."""
    if layout in ("lits", "ct_org", "msd_liver") and n in UNIT_SPACING_NUMBERS:
        return unit_spacing
    if layout == "abdomenct_1k" and n in ABDOMENCT_1K_UNIT_SPACING:
        return unit_spacing
    if layout == "abdomenct_1k" and n in ABDOMENCT_1K_SHEARED:
        return sheared
    if layout == "word":
        return qform_only if n % 2 else None
    return None


def sheared(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Directions that are not quite orthogonal; only the sform can tell."""
    shear = np.eye(4)
    shear[0, 1] = SHEAR
    return with_affine(image, image.affine @ shear, (0, 1))
