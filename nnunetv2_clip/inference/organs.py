"""What the organs that were found tell about the image: right and left exchanged, or no CT of these organs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from nibabel.affines import apply_affine

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.imaging.anatomy import organs_on_wrong_side
from nnunetv2_clip.inference.masks import Mask


def organ_warnings(masks: Mapping[str, Mask], affine: np.ndarray, taxonomy: Taxonomy) -> tuple[str, ...]:
    """What is probably wrong with the image of these masks, in words.

    Args:
        masks: class -> mask, of all classes that were looked for.
        affine: 4 x 4, voxel index -> RAS+ mm.
    """
    found = {name: mask.centre() for name, mask in masks.items() if mask}
    are_organs = any(not row.parents for row in taxonomy.subset(masks))
    if not found and are_organs:  # a lesion or a vessel may well be missing
        return (f"nothing was found at all, of {len(masks)} classes: not a CT of these organs, or turned?",)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    centres_mm = {name: apply_affine(affine, centre) for name, (centre, _) in found.items()}
    volumes_ml = {name: number * voxel_ml for name, (_, number) in found.items()}
    return organs_on_wrong_side(centres_mm, volumes_ml, taxonomy)
