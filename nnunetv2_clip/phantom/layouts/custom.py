"""The `custom` layout: images/NAME.nii.gz and labels/NAME.nii.gz with label values of one's choice.

Options: `recipe`, the label values in painting order; `root` and `prefix`, the names of folder and files.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from nnunetv2_clip.phantom.layouts.base import Request, annotated_classes, painted

RECIPE = ((1, ("liver",)), (2, ("liver_tumor",)), (5, ("right_kidney", "left_kidney")), (7, ("spleen",)))


def write(request: Request) -> Path:
    """Write images/ and labels/; returns their folder. Test cases lie in images_test/."""
    root = request.folder / request.option("root", "custom")
    recipe, prefix = request.option("recipe", RECIPE), request.option("prefix", "case")
    for number, seed, labelled in request.numbers(count(1), count(len(request.seeds) + 1)):
        scan, name = request.scan(seed), f"{prefix}_{number:03d}"
        image = scan.save(root / ("images" if labelled else "images_test") / f"{name}.nii.gz", scan.phantom.image)
        labels = [scan.save(root / "labels" / f"{name}.nii.gz", painted(scan.phantom, recipe))] if labelled else []
        request.add(name, scan, image, labels, annotated_classes(recipe) if labelled else ())
    return root
