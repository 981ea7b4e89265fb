"""Gibson's multi-organ labels for BTCV and Pancreas-CT: labels and crop boxes only, the images come from elsewhere."""

from __future__ import annotations

import csv
from itertools import chain
from pathlib import Path

import numpy as np

from nnunetv2_clip.phantom.layouts.base import Request, annotated_classes, painted
from nnunetv2_clip.phantom.layouts.pancreas_ct import HEALTHY, write_images, write_label

EIGHT = (
    (1, ("spleen",)),
    (3, ("left_kidney",)),
    (4, ("gallbladder",)),
    (5, ("esophagus",)),
    (6, ("liver",)),
    (7, ("stomach",)),
    (11, ("pancreas",)),
    (14, ("duodenum",)),
)
FOURTEEN = (
    *EIGHT,
    (2, ("right_kidney",)),
    (8, ("aorta",)),
    (9, ("postcava",)),
    (10, ("portal_and_splenic_vein",)),
    (12, ("right_adrenal_gland",)),
    (13, ("left_adrenal_gland",)),
)
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
    boxes: dict[int, Box] = {}
    for n, seed, _ in request.numbers(MIXED if is_btcv else [n for n in TCIA_NUMBERS if n != 25]):
        boxes[n] = (_write_btcv_case if is_btcv else _write_tcia_case)(request, root, n, seed)
    _write_boxes(root / "cropping.csv", boxes, is_btcv)
    return root


def _write_btcv_case(request: Request, root: Path, n: int, seed: int) -> Box:
    scan = request.scan(seed, ("LAS",))
    recipe, part = (FOURTEEN, "Training") if n <= 40 else (EIGHT, "Testing")
    image = scan.save(root / "RawData" / part / "img" / f"img{n:04d}.nii.gz", scan.phantom.image)
    stored = scan.array(painted(scan.phantom, recipe))
    box = crop_box(stored.shape)
    label_map = scan.ras(stored * _inside(stored.shape, box))
    label = scan.save(root / "label_btcv_multiorgan" / f"label{n:04d}.nii.gz", label_map)
    request.add(f"label{n:04d}", scan, image, [label], annotated_classes(recipe), box=box)
    return box


def _write_tcia_case(request: Request, root: Path, n: int, seed: int) -> Box:
    scan = request.scan(seed, ("LPS",), missing=HEALTHY)
    image = write_images(root, scan, n)
    stored = scan.array(painted(scan.phantom, EIGHT))
    box = crop_box(stored.shape)
    label_map = scan.ras(stored * _inside(stored.shape, box))
    label = write_label(root / "label_tcia_multiorgan" / f"label{n:04d}.nii.gz", scan, label_map, n)
    from_head = (*box[:2], tuple(stored.shape[2] - bound for bound in reversed(box[2])))  # as slices are written
    request.add(f"label{n:04d}", scan, image, [label], annotated_classes(EIGHT), HEALTHY, from_head)
    return box


def crop_box(shape: tuple[int, ...]) -> Box:
    """The middle 15/16 in the plane, and not the lowest nor the uppermost slices."""
    in_plane = [(n // 32, n - n // 32) for n in shape[:2]]
    return (*in_plane, (shape[2] // 6, shape[2] - shape[2] // 12))


def _inside(shape: tuple[int, ...], box: Box) -> np.ndarray:
    inside = np.zeros(shape, dtype=np.uint8)
    inside[tuple(slice(*bounds) for bounds in box)] = 1
    return inside


def _write_boxes(path: Path, boxes: dict[int, Box], is_btcv: bool) -> None:
    """All 43 and 47 rows, as published; those of other cases hold a plausible box."""
    other = ((20, 490), (20, 490), (5, 100))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(BOX_FIELDS)
        rows = [("TCIA", n, not is_btcv) for n in TCIA_NUMBERS] + [("BTCV", n, is_btcv) for n in BTCV_NUMBERS]
        for subject, (dataset, n, ours) in enumerate(rows, start=1):
            box = boxes.get(n, other) if ours else other
            writer.writerow([subject, dataset, f"{n:04d}", *chain(*box)])
