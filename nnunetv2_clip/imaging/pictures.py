"""Slices as pictures inside the page: grey CT below, coloured classes above; one fixed colour per class."""

# Shapes: R x C rows and columns of a slice as it lies on the page; H x W pixels of the picture.

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from nnunetv2_clip.classes import ClassRow

# The presets of OHIF (width and level, here as darkest and brightest HU), so that a picture looks as people know it.
SOFT_TISSUE = "soft tissue"
WINDOWS_HU = {
    SOFT_TISSUE: (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-770.0, 1730.0),
    "liver": (15.0, 165.0),
}
# Words in the names of classes that are looked at in another window.
_OF_LUNGS = {"lung", "lungs", "airway", "airways", "bronchus", "bronchi", "trachea"}
_OF_BONES = {"bone", "bones", "femur", "hip", "rib", "ribs", "sacrum", "spine", "sternum", "vertebra", "vertebrae"}
_OF_BONES |= {"clavicle", "clavicula", "humerus", "scapula", "skull"}
FILL_ALPHA, EDGE_ALPHA = 110, 255
WEBP_QUALITY = 75
Rgb = tuple[int, int, int]

# By universal index. Neighbours in the body differ in hue, left and right in lightness, tumours are vivid.
_HEX = {
    1: "c27ba0",  # spleen
    2: "e8a33d",  # right kidney
    3: "f6cf7a",  # left kidney
    4: "6aa84f",  # gallbladder
    5: "b08d57",  # esophagus
    6: "b5651d",  # liver
    7: "8e7cc3",  # stomach
    8: "e06666",  # aorta
    9: "3d85c6",  # postcava
    10: "76a5d8",  # portal and splenic vein
    11: "d9c84a",  # pancreas
    12: "45818e",  # right adrenal gland
    13: "8cc5cf",  # left adrenal gland
    14: "93c47d",  # duodenum
    15: "2f5fd0",  # hepatic vessel
    16: "5fb3b3",  # right lung
    17: "a4dcdc",  # left lung
    18: "a64d79",  # colon
    19: "d5a6bd",  # intestine
    20: "7f6000",  # rectum
    21: "ffe599",  # bladder
    22: "674ea7",  # prostate
    23: "d0d0c0",  # left femur head
    24: "9a9a86",  # right femur head
    25: "cc0000",  # celiac trunk
    26: "ff5c00",  # kidney tumour
    27: "00e05a",  # liver tumour
    28: "ff2ea6",  # pancreas tumour
    29: "00d8ff",  # hepatic-vessel tumour
    30: "ff4040",  # lung tumour
    31: "b6ff00",  # colon tumour
    32: "7d5fff",  # kidney cyst
}
_GOLDEN_ANGLE = 0.381966


def color_of(row: ClassRow) -> Rgb:
    """The colour of a class; the first ten of a user's table differ well from all of them."""
    if row.index in _HEX:
        return tuple(bytes.fromhex(_HEX[row.index]))
    hue = (row.index * _GOLDEN_ANGLE + 0.3) % 1
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.66, 1.0))


def hex_color(row: ClassRow) -> str:
    return "#" + bytes(color_of(row)).hex()


def window_of(name: str) -> str:
    """The entry of `WINDOWS_HU` in which a class is looked at."""
    words = set(name.split("_"))
    return "lung" if words & _OF_LUNGS else "bone" if words & _OF_BONES else SOFT_TISSUE


def common_window(names: Iterable[str]) -> str:
    """The window of most of the classes; soft tissue when in doubt."""
    windows = [window_of(name) for name in names]
    return max(WINDOWS_HU, key=windows.count)


def window_in_words(window: str) -> str:
    low, high = WINDOWS_HU[window]
    return f"{window} window, {low:.0f} to {high:.0f} HU"


def ct_image(hu: np.ndarray, size: tuple[int, int], window: str = SOFT_TISSUE) -> Image.Image:
    """A grey picture of a CT slice (R, C) in a window of `WINDOWS_HU`, `size` = (width, height)."""
    low, high = WINDOWS_HU[window]
    grey = np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)


def overlay_image(indices: np.ndarray, size: tuple[int, int], colors: Mapping[int, Rgb]) -> Image.Image:
    """Universal indices (R, C) as half-transparent areas with solid outlines, clear where 0."""
    large = np.asarray(Image.fromarray(indices.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(_rgba(large, colors))


def ct_picture(hu: np.ndarray, size: tuple[int, int], window: str = SOFT_TISSUE) -> str:
    """`ct_image` as a data URI."""
    return _data_uri(ct_image(hu, size, window), quality=WEBP_QUALITY)


def overlay_picture(indices: np.ndarray, size: tuple[int, int], colors: Mapping[int, Rgb]) -> str:
    """`overlay_image` as a data URI, pixel by pixel."""
    return _data_uri(overlay_image(indices, size, colors), lossless=True)


def _rgba(indices: np.ndarray, colors: Mapping[int, Rgb]) -> np.ndarray:
    """(H, W, 4) uint8."""
    table = np.zeros((max([*colors, 0]) + 1, 4), np.uint8)
    for index, color in colors.items():
        table[index] = (*color, FILL_ALPHA)
    rgba = table[indices]
    cross = ndimage.generate_binary_structure(2, 1)
    edge = ndimage.grey_dilation(indices, footprint=cross) != ndimage.grey_erosion(indices, footprint=cross)
    rgba[edge & (indices > 0), 3] = EDGE_ALPHA
    return rgba


def _data_uri(image: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "webp", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
