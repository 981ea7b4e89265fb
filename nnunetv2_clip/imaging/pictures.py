"""Slices as pictures inside the page: grey CT below, coloured classes above."""

# Shapes: R x C rows and columns of a slice as it lies on the page; H x W pixels of the picture.

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from nnunetv2_clip.imaging.colors import Rgb

CT_WINDOW_HU = (-160.0, 240.0)
FILL_ALPHA, EDGE_ALPHA = 110, 255
WEBP_QUALITY = 80


def ct_picture(hu: np.ndarray, size: tuple[int, int]) -> str:
    """A data URI of a CT slice (R, C) in the soft-tissue window, `size` = (width, height)."""
    low, high = CT_WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    image = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
    return _data_uri(image, "webp", quality=WEBP_QUALITY)


def overlay_picture(indices: np.ndarray, size: tuple[int, int], colors: Mapping[int, Rgb]) -> str:
    """A data URI of universal indices (R, C): half-transparent areas with solid outlines, nothing where 0."""
    large = np.asarray(Image.fromarray(indices.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    return _data_uri(Image.fromarray(_rgba(large, colors)), "png", optimize=True)


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


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
