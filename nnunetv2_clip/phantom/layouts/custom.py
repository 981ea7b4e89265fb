"""The `custom` layout: images/NAME.nii.gz and labels/NAME.nii.gz with label values of one's choice.

Options: `recipe`, the label values in painting order; `root` and `prefix`, the names of folder and files.
"""

from __future__ import annotations

from pathlib import Path

from nnunetv2_clip.phantom.layouts.base import Request, annotated_classes, oriented, paint, save_nifti

RECIPE = ((1, ("liver",)), (2, ("liver_tumor",)), (5, ("right_kidney", "left_kidney")), (7, ("spleen",)))


def write(request: Request) -> Path:
    """Write images/ and labels/; returns their folder. Test cases lie in images_test/."""
    root = request.folder / request.options.get("root", "custom")
    recipe, prefix = request.options.get("recipe", RECIPE), request.options.get("prefix", "case")
    for position, seed in enumerate([*request.seeds, *request.test_seeds]):
        labelled = position < len(request.seeds)
        phantom, codes = request.phantom(seed), request.orientation(position)
        name = f"{prefix}_{position + 1:03d}"
        image = oriented(phantom.image, phantom.affine, codes)
        image_file = save_nifti(root / ("images" if labelled else "images_test") / f"{name}.nii.gz", image)
        labels = []
        if labelled:
            label_map = oriented(paint(phantom, recipe), phantom.affine, codes)
            labels = [save_nifti(root / "labels" / f"{name}.nii.gz", label_map)]
        request.add(name, phantom, image, image_file, labels, annotated_classes(recipe) if labelled else ())
    return root
