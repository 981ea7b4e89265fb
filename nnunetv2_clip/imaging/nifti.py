"""NIfTI files: read them completely or not at all, compare their geometry, write them reproducibly."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing

# Shapes: X Y Z voxels in the file's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

FILE_ENDING = ".nii.gz"  # of everything that we write
SUFFIXES = (FILE_ENDING, ".nii")
REORIENTING_READER = "NibabelIOWithReorient"  # nnU-Net's reader that turns every volume to RAS
# Headers store 32-bit floats, and a rotation as a quaternion: positions agree to about a hundredth of a voxel.
POSITION_TOLERANCE = 0.1  # of the smallest voxel edge
ROUNDING_TOLERANCE = 1e-3  # of a label value, for files that store labels with a scale factor
COMPRESSION_LEVEL = 1  # label maps compress well at any level, and writing is the slow part
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError, WrapStructError)
_REMEDY = "download or unpack the file again"


@dataclass(frozen=True, eq=False)
class Geometry:
    """The voxel grid of an image: shape (X, Y, Z) and affine."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three array axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000

    def difference(self, other: Geometry) -> str:
        """What differs between two grids, in words; empty when they agree within `POSITION_TOLERANCE`."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in self.shape], indexing="ij")).reshape(3, -1)
        moved = (self.affine - other.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
        distance_mm = float(np.linalg.norm(moved[:3], axis=0).max())
        if distance_mm <= POSITION_TOLERANCE * min(self.spacing_mm.min(), other.spacing_mm.min()):
            return ""
        return f"the same voxel lies up to {distance_mm:.3g} mm apart ({self.describe()} against {other.describe()})"

    def describe(self) -> str:
        spacing = ", ".join(f"{edge:.4g}" for edge in self.spacing_mm)
        origin = ", ".join(f"{x:.4g}" for x in self.affine[:3, 3])
        axes = "".join(nib.orientations.aff2axcodes(self.affine))
        return f"spacing ({spacing}) mm, axes {axes}, origin ({origin})"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their position in the body.

    Attributes:
        data: (X, Y, Z).
        affine: voxel index -> RAS+ mm.
        path: the file that holds exactly this volume; None when it was assembled or repaired in memory.
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path | None = None

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.data.shape, self.affine)

    def turned_to_ras(self) -> Volume:
        """The same voxels with the array axes that are nearest to R, A, S."""
        turn = nib.io_orientation(self.affine)
        data = nib.orientations.apply_orientation(self.data, turn)
        return Volume(data, self.affine @ nib.orientations.inv_ornt_aff(turn, self.data.shape))


def stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    return next((path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.stem)


def nifti_header(path: Path) -> nib.Nifti1Header:
    """The header as it is stored.

    Raises:
        UserError: no NIfTI file, or damaged.
    """
    return _parse_header(path, _first_bytes(path, 540))


def inspect(path: Path) -> Geometry:
    """The grid of a NIfTI file from its header, after the cheap tests for a truncated file.

    Raises:
        UserError: no NIfTI file, truncated, not three-dimensional, or without a usable position.
    """
    path = Path(path)
    header = nifti_header(path)
    geometry = _geometry_of(path, header)
    with _damaged_header(path):
        expected = int(header["vox_offset"]) + int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 4, 0))
        stored = int.from_bytes(file.read(4), "little")
    if path.name.lower().endswith(".gz"):
        # A gzip member ends with its uncompressed length; files of several members are unpacked to be sure.
        if stored != expected % 2**32:
            _check_length(path, len(_read_bytes(path)), expected)
    else:
        _check_length(path, size, expected)
    return geometry


def read_image(path: Path) -> Volume:
    """An image in its stored number type (scaled where the header says so).

    Raises:
        UserError: as `inspect`, or the image holds NaN or infinite values.
    """
    volume = _read(Path(path))
    require_finite(path, volume.data)
    return volume


def require_finite(where: object, data: np.ndarray) -> None:
    """Raises UserError: some voxels of an image are NaN or infinite."""
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        count = int(data.size - np.isfinite(data).sum())
        raise UserError(where, f"{count} voxels are NaN or infinite", "Hounsfield units", "mend or exclude the case")


def read_label_map(path: Path) -> Volume:
    """A label file as integers, in the smallest type that holds them.

    Raises:
        UserError: as `inspect`, or a value is no integer.
    """
    volume = _read(Path(path))
    data = volume.data
    if data.dtype.kind == "f":
        rounded = np.rint(data)
        wrong = ~(np.abs(data - rounded) <= ROUNDING_TOLERANCE)  # the negation catches NaN as well
        if wrong.any():
            raise UserError(
                path,
                f"{int(wrong.sum())} voxels of the label map are no integers (for instance {data[wrong][0]:.4g})",
                "one integer label per voxel",
                "resample label maps with nearest neighbour, or take the original file",
            )
        data = rounded.astype(np.int64)
    lowest, highest = int(data.min()), int(data.max())
    return Volume(data.astype(np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest))), volume.affine)


def read_pair(image: Path, label: Path) -> tuple[Volume, Volume]:
    """An image and its label map on the same grid; the label takes over the image's affine.

    Raises:
        UserError: one of them cannot be read, or their geometry differs.
    """
    image_volume, label_volume = read_image(image), read_label_map(label)
    require_same_grid(image, image_volume.geometry, label, label_volume.geometry)
    return image_volume, Volume(label_volume.data, image_volume.affine)


def require_same_grid(image: Path, image_grid: Geometry, label: Path, label_grid: Geometry) -> None:
    """Raise a UserError unless both files lie on one voxel grid."""
    difference = label_grid.difference(image_grid)
    if difference:
        raise UserError(
            label,
            f"does not lie on the grid of its image {image}: {difference}",
            "the same shape, spacing, direction and origin",
            "take label and image of the same release, or resample the label onto the image yourself",
        )


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray, compression: int = COMPRESSION_LEVEL) -> None:
    """Write a .nii.gz whose bytes depend on voxels, affine and compression only (no time stamp, no name).

    Args:
        compression: gzip's level, 1 (fast) to 9 (small).
    """
    content = nib.Nifti1Image(data, affine).to_bytes()
    with replacing(path) as beside:
        beside.write_bytes(gzip.compress(content, compression, mtime=0))


def fingerprint(image: Volume) -> str:
    """16 hexadecimal digits of the voxel values in RAS order: the same for re-saved or re-oriented copies of a scan."""
    data = image.turned_to_ras().data
    if data.dtype != np.int16:
        data = np.clip(np.rint(data), -32768, 32767).astype(np.int16)
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data))
    return digest.hexdigest()[:16]


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of all files below a folder with their names."""
    path, digest = Path(path), hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Volume:
    """All voxels of a file; a trailing axis of length 1 is dropped (then `path` is None, as the voxels moved)."""
    content = _read_bytes(path)
    header = _parse_header(path, content)
    geometry = _geometry_of(path, header)
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with _blaming(path, "is truncated or damaged"):
        data = np.asanyarray(image_class.from_bytes(content).dataobj)
    if data.ndim > 3:
        return Volume(data.reshape(geometry.shape), geometry.affine)
    return Volume(data, geometry.affine, path)


def _read_bytes(path: Path) -> bytes:
    """The uncompressed content; gzip's checksum is verified."""
    with _blaming(path, "cannot be read"):
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.lower().endswith(".gz") else content


def _first_bytes(path: Path, count: int) -> bytes:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with _blaming(path, "cannot be read"), opened(path, "rb") as file:
        return file.read(count)


@contextmanager
def _blaming(path: Path, found: str, expected: str = "a complete NIfTI file") -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise UserError(path, f"{found} ({error})", expected, _REMEDY) from None


def _damaged_header(path: Path) -> AbstractContextManager[None]:
    return _blaming(path, "has a damaged header", "a NIfTI file")


def _parse_header(path: Path, content: bytes) -> nib.Nifti1Header:
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        length = header_class.template_dtype.itemsize
        if len(content) >= length and header_class.may_contain_header(content[:length]):
            with _damaged_header(path):
                return header_class(content[:length])
    raise UserError(path, "is no NIfTI file", "a file written as .nii or .nii.gz", _REMEDY)


def _geometry_of(path: Path, header: nib.Nifti1Header) -> Geometry:
    shape = tuple(int(size) for size in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise UserError(
            path,
            f"has shape {shape}",
            "one three-dimensional volume",
            "split series into single volumes and name the one that was labelled",
        )
    if header.get_data_dtype().kind not in "iufb":
        raise UserError(path, f"has voxels of type {header.get_data_dtype()}", "plain numbers", "export grey values")
    with _damaged_header(path):  # a quaternion that is none
        affine = header.get_best_affine()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(path, "has no usable voxel size or direction in its header", "an invertible affine", _REMEDY)
    return Geometry(shape, affine)


def _check_length(path: Path, found: int, expected: int) -> None:
    if found < expected:
        raise UserError(path, f"is truncated: {found} of {expected} bytes", "a complete NIfTI file", _REMEDY)
