"""Gibson's multi-organ labels for BTCV and Pancreas-CT: labels and crop boxes only, the images come from elsewhere."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from nnunetv2_clip.phantom.layouts.base import Paint, Request, Scan, annotated_classes, numbered, painted, write_table
from nnunetv2_clip.phantom.layouts.pancreas_ct import HEALTHY, write_images, write_label

FOURTEEN = numbered(
    "spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta postcava portal_and_splenic_vein "
    "pancreas right_adrenal_gland left_adrenal_gland duodenum"
)
EIGHT = tuple((value, names) for value, names in FOURTEEN if value not in (2, 8, 9, 10, 12, 13))
TCIA_NUMBERS = tuple(chain(range(2, 15), range(16, 23), (24, 25), range(26, 36), range(38, 49)))
BTCV_NUMBERS = tuple(chain(range(1, 11), range(21, 41), range(61, 71), range(74, 81)))
MIXED = tuple(chain(*zip(range(1, 11), range(61, 71), strict=True)))  # 14 classes and 8 classes in turn
# One row per label file, first Pancreas-CT, then BTCV. Published readers take columns 2 (number), 7 and 8 (slices, from
# the feet), counted from 0, or name publisher, original_id and extent_...
BOX_FIELDS = (
    *("subject", "publisher", "original_id", "extent_left", "extent_right", "extent_ant", "extent_post"),
    *("extent_inf", "extent_sup"),
)
Box = tuple[tuple[int, int], ...]


def write(request: Request) -> Path:
    """Write images, labels and cropping.csv; returns the folder of all three.

    Nothing is annotated outside a case's crop box, which counts to the left, to the back and to the head.
    """
    root = request.folder / request.layout
    is_btcv = request.layout == "gibson_btcv"
    write_case = _write_btcv_case if is_btcv else _write_tcia_case
    numbers = request.numbers(MIXED if is_btcv else [n for n in TCIA_NUMBERS if n != 25])
    boxes = {n: write_case(request, root, n, seed) for n, seed, _ in numbers}
    _write_boxes(root / "cropping.csv", boxes, is_btcv)
    return root


def _write_btcv_case(request: Request, root: Path, n: int, seed: int) -> Box:
    scan = request.scan(seed, ("LAS",))
    recipe, part = (FOURTEEN, "Training") if n <= 40 else (EIGHT, "Testing")
    image = scan.save(root / "RawData" / part / "img" / f"img{n:04d}.nii.gz", scan.phantom.image)
    label_map, box = _cropped(scan, recipe)
    label = scan.save(root / "label_btcv_multiorgan" / f"label{n:04d}.nii.gz", label_map)
    request.add(f"label{n:04d}", scan, image, [label], annotated_classes(recipe), box=box)
    return box


def _write_tcia_case(request: Request, root: Path, n: int, seed: int) -> Box:
    scan = request.scan(seed, ("LAI",), missing=HEALTHY)
    image = write_images(root, scan, n)
    label_map, box = _cropped(scan, EIGHT)
    label = write_label(root / "label_tcia_multiorgan" / f"label{n:04d}.nii.gz", scan, label_map, n)
    request.add(f"label{n:04d}", scan, image, [label], annotated_classes(EIGHT), HEALTHY, box)
    height = label_map.shape[2]
    return (*box[:2], tuple(height - bound for bound in reversed(box[2])))  # slices are written from the head


def _cropped(scan: Scan, recipe: Paint) -> tuple[np.ndarray, Box]:
    """The label map (RAS) within its box: the middle 15/16 in the plane, not the lowest nor the uppermost slices."""
    stored = scan.array(painted(scan.phantom, recipe))
    x, y, z = stored.shape
    box = ((x // 32, x - x // 32), (y // 32, y - y // 32), (z // 6, z - z // 12))
    inside = np.zeros_like(stored)
    inside[tuple(slice(*bounds) for bounds in box)] = 1
    return scan.ras(stored * inside), box


def _write_boxes(path: Path, boxes: dict[int, Box], is_btcv: bool) -> None:
    """All 43 and 47 rows, as published; those of other cases hold a plausible box."""
    other = ((20, 490), (20, 490), (5, 100))
    rows = [("TCIA", n, not is_btcv) for n in TCIA_NUMBERS] + [("BTCV", n, is_btcv) for n in BTCV_NUMBERS]
    lines = [
        (subject, dataset, f"{n:04d}", *chain(*(boxes.get(n, other) if ours else other)))
        for subject, (dataset, n, ours) in enumerate(rows, start=1)
    ]
    write_table(path, [BOX_FIELDS, *lines])
