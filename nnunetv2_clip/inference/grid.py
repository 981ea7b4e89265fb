"""From the input file to the array that nnU-Net's preprocessing makes, and the way back."""

# Shapes: X Y Z voxels in the file's axis order; network axes are those of the preprocessed array.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from nnunetv2_clip.imaging.nifti import REORIENTING_READER
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.masks import Placement
from nnunetv2_clip.inference.resampling import AxisMap, axis_maps

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A case as the network sees it.

    Attributes:
        data: (1, Z, Y, X) float32, normalised and resampled.
        maps: from the logits' grid to the cropped grid of the image.
        placement: where the cropped grid lies in the file.
    """

    data: np.ndarray
    maps: tuple[AxisMap, AxisMap, AxisMap]
    placement: Placement


def preprocess(image: InputImage, predictor: nnUNetPredictor) -> Preprocessed:
    """nnU-Net's own preprocessing of one CT, with the orientation that the model's reader gives."""
    plans_manager, configuration_manager = predictor.plans_manager, predictor.configuration_manager
    reorients = plans_manager.image_reader_writer_class.__name__ == REORIENTING_READER
    affine = image.volume.affine
    orientation = nib.io_orientation(affine) if reorients else np.array([[0, 1], [1, 1], [2, 1]])
    turned = nib.orientations.apply_orientation(image.volume.data, orientation)
    spacing_xyz = np.empty(3)
    spacing_xyz[orientation[:, 0].astype(int)] = _spacing(image)
    properties = {"spacing": [float(edge) for edge in spacing_xyz[::-1]]}
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        turned.transpose(2, 1, 0)[None], None, properties, plans_manager, configuration_manager, predictor.dataset_json
    )
    placement = _placement(image.volume.data.shape, orientation, plans_manager.transpose_forward, properties)
    return Preprocessed(data, _maps(data.shape[1:], properties, predictor), placement)


def from_training(data: np.ndarray, properties: dict, predictor: nnUNetPredictor) -> Preprocessed:
    """A case as nnU-Net has stored it for training; its file axes are those of the reader's array, read backwards
    (x y z, and RAS with the reader that reorients)."""
    forward = predictor.plans_manager.transpose_forward
    shape = [0, 0, 0]
    for size, axis in zip(properties["shape_before_cropping"], forward, strict=True):
        shape[2 - axis] = int(size)
    unturned = np.array([[0, 1], [1, 1], [2, 1]])
    placement = _placement(tuple(shape), unturned, forward, properties)
    return Preprocessed(data, _maps(data.shape[1:], properties, predictor), placement)


def _spacing(image: InputImage) -> np.ndarray:
    """(3,) mm along the file's axes, in the header's precision: nnU-Net rounds shapes with it."""
    edges = image.volume.geometry.spacing_mm.astype(np.float32)
    if image.header is None:
        return edges
    stored = np.array(image.header.get_zooms()[:3], np.float32)
    return stored if np.allclose(stored, edges, rtol=1e-4) else edges


def _maps(shape: Sequence[int], properties: dict, predictor: nnUNetPredictor) -> tuple[AxisMap, ...]:
    original = [properties["spacing"][axis] for axis in predictor.plans_manager.transpose_forward]
    target = list(predictor.configuration_manager.spacing)
    if len(target) < 3:  # 2d: slices are not resampled
        target = [original[0], *target]
    options = predictor.configuration_manager.configuration["resampling_fn_probabilities_kwargs"]
    return axis_maps(
        shape,
        properties["shape_after_cropping_and_before_resampling"],
        target,
        original,
        options.get("force_separate_z"),
        options.get("separate_z_anisotropy_threshold"),
    )


def _placement(
    file_shape: tuple[int, int, int], orientation: np.ndarray, transpose_forward: Sequence[int], properties: dict
) -> Placement:
    file_axis = {int(turned): axis for axis, (turned, _) in enumerate(orientation)}
    axes = tuple(file_axis[2 - axis] for axis in transpose_forward)  # the array that is transposed is (z, y, x)
    flipped = tuple(bool(orientation[axis, 1] < 0) for axis in axes)
    start = tuple(int(low) for low, _ in properties["bbox_used_for_cropping"])
    return Placement(tuple(int(size) for size in file_shape), axes, flipped, start)
