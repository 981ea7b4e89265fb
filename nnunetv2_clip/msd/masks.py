"""One mask of a Decathlon submission: from a prediction to the bytes of its file."""

# Shapes: X Y Z voxels in the order of the file (as nibabel reads it).

import gzip
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.imaging.nifti import UNREADABLE, Geometry
from nnunetv2_clip.labels import value_counts
from nnunetv2_clip.msd.post_processing import PostProcessing
from nnunetv2_clip.msd.tasks import MsdTask


class BadMask(ValueError):
    """What is wrong with one file of a submission; collected into one list for the user."""


def painted_to_task(painted: np.ndarray, task: MsdTask, taxonomy: Taxonomy = UNIVERSAL) -> np.ndarray:
    """A task's label values from a label map of universal indices.

    A class takes its own voxels and those of every class inside it, for nnU-Net has painted these over it;
    classes later in the task (tumours) take theirs back. A painted map holds one class per voxel, so that where
    two sub-structures of an organ overlap only the one painted last is known (see docs/msd.md).

    Args:
        painted: integer array of any shape, 0 = background.

    Returns:
        uint8 array of the same shape.

    Raises:
        BadMask: a value is no index of the taxonomy.
    """
    index_of = {row.name: row.index for row in taxonomy}
    unknown = sorted(set(value_counts(painted)) - {0, *index_of.values()})
    if unknown:
        raise BadMask(f"holds the values {unknown}, which are no universal class indices")
    value_of = np.zeros(max(index_of.values()) + 1, dtype=np.uint8)
    for row in taxonomy.subset(task.classes):
        inside = {row.name, *taxonomy.descendants(row.name)}
        value_of[[index_of[name] for name in inside]] = task.classes[row.name]
    return value_of[painted]


def task_mask(
    image: nib.Nifti1Image, task: MsdTask, taxonomy: Taxonomy | None, post: PostProcessing | None = None
) -> np.ndarray:
    """(X, Y, Z) the task's label values of a prediction.

    Args:
        taxonomy: the classes whose universal indices were painted; None: the file holds the task's own values.

    Raises:
        BadMask: damaged, or with values that mean nothing.
    """
    mask = read_integers(image)
    if taxonomy is not None:
        mask = painted_to_task(mask, task, taxonomy)
    check_values(mask, task.values)
    if post is not None:
        mask = post.apply(mask, task, float(np.prod(nib.affines.voxel_sizes(image.affine))) / 1000)
    return mask


def read_integers(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """The voxels of an image whose values are whole numbers, whatever the file's data type.

    Raises:
        BadMask: the voxels cannot be read, or some are no whole numbers.
    """
    try:
        data = np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise BadMask(f"cannot be read to its end ({error})") from None
    if not np.issubdtype(data.dtype, np.integer):
        with np.errstate(invalid="ignore"):
            whole = data.astype(np.int32)
        if not np.array_equal(whole, data):
            raise BadMask("holds values that are no whole numbers (probabilities?)")
        data = whole
    return data


def check_values(mask: np.ndarray, values: Iterable[int]) -> None:
    """Raises BadMask when `mask` holds anything but 0 and `values`."""
    allowed = {0, *values}
    foreign = sorted(set(value_counts(mask)) - allowed)
    if foreign:
        raise BadMask(f"holds the values {foreign}; the task has {sorted(allowed)}")


def open_image(path: Path) -> nib.Nifti1Image:
    """The header of a NIfTI file; voxels are read later. Raises BadMask: not there or no NIfTI file."""
    try:
        image = nib.load(path)
    except FileNotFoundError:
        raise BadMask("is missing") from None
    except UNREADABLE as error:
        raise BadMask(f"cannot be read ({error})") from None
    if not isinstance(image, nib.Nifti1Image):
        raise BadMask("is no NIfTI file")
    return image


def check_geometry(mask: nib.Nifti1Image, reference: nib.Nifti1Image) -> None:
    """Raises BadMask unless the mask is 3-D and lies on the (first three) axes of the reference image."""
    if mask.ndim != 3:
        raise BadMask(f"has {mask.ndim} dimensions {mask.shape}; a mask has 3")
    if mask.shape != reference.shape[:3]:
        raise BadMask(f"has shape {mask.shape}; the test image has {reference.shape[:3]}")
    difference = Geometry(mask.shape, mask.affine).difference(Geometry(mask.shape, reference.affine))
    if difference:
        raise BadMask(f"lies elsewhere in space than the test image: {difference}")


def mask_bytes(mask: np.ndarray, reference: nib.Nifti1Image) -> bytes:
    """The .nii.gz file of a mask with the test image's header.

    Only what a uint8 mask must change differs from the image's header: data type, scaling, display range,
    extensions, and the fourth dimension of 4-D images. The same mask gives the same bytes.
    """
    header = reference.header.copy()
    header.set_data_shape(mask.shape)
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    header.extensions.clear()
    image = type(reference)(mask.astype(np.uint8), reference.affine, header)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
