"""The `custom` layout: images/NAME.nii.gz and labels/NAME.nii.gz with label values of one's choice.

Options: `recipe`, the label values in painting order; `root` and `prefix`, the names of folder and files.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from nnunetv2_clip.phantom.layouts.base import Request
from nnunetv2_clip.phantom.layouts.nifti import Layout, write_cases

RECIPE = ((1, ("liver",)), (2, ("liver_tumor",)), (5, ("right_kidney", "left_kidney")), (7, ("spleen",)))


def write(request: Request) -> Path:
    """Write images/ and labels/; returns their folder. Test cases lie in images_test/."""
    root, recipe = request.option("root", "custom"), request.option("recipe", RECIPE)
    file = f"{request.option('prefix', 'case')}_{{n:03d}}.nii.gz"
    test_numbers = count(len(request.seeds) + 1)
    paths = f"images/{file}", f"labels/{file}"
    return write_cases(
        request, Layout(root, *paths, recipe, count(1), f"images_test/{file}", test_numbers, orientations=("RAS",))
    )
