"""The picture of a prediction: three planes, sides of the patient, the name of the case and a legend, as PNG."""

# Shapes: X Y Z voxels in the axis order of the input file; pixels of the sheet.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.files import replacing
from nnunetv2_clip.imaging.body import ras_spacing, to_ras
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.imaging.pictures import Rgb, color_of, common_window, ct_image, overlay_image, window_in_words
from nnunetv2_clip.imaging.slices import PICTURE_PX, PLANES, Plane, cut, informative_slice, is_flat, picture_size

FONT_PX, LINE_PX, GAP_PX, LEAST_WIDTH_PX = 15, 24, 8, 600
INK = "white"
Point = tuple[int, int]


def write_preview(path: Path, case: str, image: Volume, painted: np.ndarray, rows: Iterable[ClassRow]) -> None:
    """A PNG of three planes through the slices that show most of the prediction.

    Args:
        painted: (X, Y, Z) universal indices.
        rows: the classes that may be in it.
    """
    hu, indices = (to_ras(array, image.affine) for array in (image.data, painted))
    positions = [informative_slice(indices, plane) for plane in PLANES]
    cuts = [[cut(volume, *there) for volume in (hu, indices)] for there in zip(PLANES, positions, strict=True)]
    there = np.unique(np.concatenate([labels.ravel() for _, labels in cuts]))
    shown = [row for row in rows if row.index in there]
    window = common_window(row.name for row in shown)
    sizes = [picture_size(hu.shape, tuple(ras_spacing(image.affine)), plane, *PICTURE_PX) for plane in PLANES]
    colors = {row.index: color_of(row) for row in shown}
    pictures = [
        _picture(*one, colors, plane, size, window) for one, plane, size in zip(cuts, PLANES, sizes, strict=True)
    ]
    sheet = _sheet(pictures, f"{case} · {window_in_words(window)}", shown)
    with replacing(path) as beside:
        sheet.save(beside, "png")


def _picture(
    hu: np.ndarray, labels: np.ndarray, colors: Mapping[int, Rgb], plane: Plane, size: Point, window: str
) -> Image.Image:
    """One plane, with the letters of the patient's sides at its edges."""
    overlay = overlay_image(labels, size, colors)
    picture = Image.alpha_composite(ct_image(hu, size, window).convert("RGBA"), overlay)
    draw, (width, height) = ImageDraw.Draw(picture), size
    _write(draw, (4, height // 2), plane.left, "lm")
    _write(draw, (width - 4, height // 2), plane.right, "rm")
    if height > 3 * LINE_PX:
        _write(draw, (width // 2, 2), plane.top, "ma")
        _write(draw, (width // 2, height - 2), plane.bottom, "md")
    return picture.convert("RGB")


def _sheet(pictures: Sequence[Image.Image], title: str, shown: Sequence[ClassRow]) -> Image.Image:
    """The pictures under the title and above the legend."""
    places = _places(*(picture.size for picture in pictures))
    corners = [(x + one.width, y + one.height) for one, (x, y) in zip(pictures, places, strict=True)]
    width = max(LEAST_WIDTH_PX, *(x for x, _ in corners))
    top = LINE_PX + max(y for _, y in corners) + GAP_PX
    entries = _legend(shown, width)
    height = top + LINE_PX * (1 + max((line for _, line, _ in entries), default=-1))
    sheet = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(sheet)
    _write(draw, (GAP_PX, LINE_PX // 2), title, "lm")
    for picture, (x, y) in zip(pictures, places, strict=True):
        sheet.paste(picture, (x, y + LINE_PX))
    for x, line, row in entries:
        middle = top + line * LINE_PX + LINE_PX // 2
        draw.rectangle((x, middle - 6, x + 12, middle + 6), fill=color_of(row))
        _write(draw, (x + 18, middle), _words(row), "lm")
    return sheet


def _places(axial: Point, coronal: Point, sagittal: Point) -> list[Point]:
    """The upper left corners, from (width, height); low pictures stand above each other."""
    beside = axial[0] + GAP_PX
    if is_flat(coronal):
        return [(0, 0), (beside, 0), (beside, coronal[1] + GAP_PX)]
    return [(0, 0), (beside, 0), (beside + coronal[0] + GAP_PX, 0)]


def _legend(shown: Sequence[ClassRow], width: int) -> list[tuple[int, int, ClassRow]]:
    """(x in pixels, number of the line, class)."""
    entries, x, line = [], GAP_PX, 0
    for row in shown:
        needed = 18 + round(_font().getlength(_words(row))) + 2 * GAP_PX
        if x > GAP_PX and x + needed > width:
            x, line = GAP_PX, line + 1
        entries.append((x, line, row))
        x += needed
    return entries


def _words(row: ClassRow) -> str:
    return row.name.replace("_", " ")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_PX)


def _write(draw: ImageDraw.ImageDraw, place: Point, text: str, anchor: str) -> None:
    draw.text(place, text, INK, _font(), anchor, stroke_width=1, stroke_fill="black")
