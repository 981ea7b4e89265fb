"""NIfTI files: read them completely or not at all, compare their geometry, write them reproducibly."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing
from nnunetv2_clip.imaging.findings import refuse_scan

# Shapes: X Y Z voxels in the file's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

FILE_ENDING = ".nii.gz"  # of everything that we write
SUFFIXES = (FILE_ENDING, ".nii")
REORIENTING_READER = "NibabelIOWithReorient"  # nnU-Net's reader that turns every volume to RAS
# Headers store 32-bit floats, and a rotation as a quaternion: positions agree to about a hundredth of a voxel.
POSITION_TOLERANCE = 0.1  # of the smallest voxel edge
LARGEST_LABEL = 2**63  # the smallest value that no signed integer holds
ROUNDING_TOLERANCE = 1e-3  # of a label value, for files that store labels with a scale factor
# Standard deviation. CTs in Hounsfield units have more, clipped to a usual window as well; z-scored images, or images
# from 0 to 1, have less.
MIN_HU_SPREAD = 50.0
COMPRESSION_LEVEL = 1  # label maps compress well at any level, and writing is the slow part
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError, WrapStructError)
LARGEST_OFFSET = 1 << 30  # bytes; header extensions are far smaller
SPACING_RANGE_MM, LARGEST_EXTENT_MM = (0.05, 50.0), 3000.0  # the inner ear to a scout; a tall patient and the table
SMALLEST_ANGLE_VOLUME = 0.3  # spanned by unit vectors along the axes; 0.87 for a gantry tilted by 30 degrees
_SILENT = logging.Logger("nibabel's repairs", logging.CRITICAL + 1)  # what matters of them is refused or reported here


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
        axes = "".join(axis or "?" for axis in nib.orientations.aff2axcodes(self.affine))
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


def is_nifti(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith(SUFFIXES)


def nifti_header(path: Path) -> nib.Nifti1Header:
    """The header as it is stored.

    Raises:
        UserError: not a NIfTI file, or one without a usable position.
    """
    header = _parse_header(path, _first_bytes(path, 540))
    _geometry_of(path, header)
    return header


def inspect(path: Path) -> Geometry:
    """The grid of a NIfTI file from its header, after the cheap tests for a truncated file.

    Raises:
        UserError: not a NIfTI file, truncated, not three-dimensional, or without a usable position.
    """
    path = Path(path)
    header = _parse_header(path, _first_bytes(path, 540))
    geometry = _geometry_of(path, header)
    expected = _num_bytes(path, header)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 4, 0))
        stored = int.from_bytes(file.read(4), "little")
    if not path.name.lower().endswith(".gz"):
        _check_length(path, size, expected)
    elif stored != expected % 2**32:
        # A gzip member ends with its uncompressed length; files of several members are unpacked to be sure.
        _check_length(path, len(_read_bytes(path, expected + 1)), expected)
    return geometry


def read_image(path: Path) -> Volume:
    """An image in its stored number type (scaled where the header says so).

    Raises:
        UserError: as `inspect`, or the image holds NaN or infinite values.
    """
    volume = _read(Path(path))
    require_finite(path, volume.data)
    return volume


def of_nibabel(where: object, image: SpatialImage) -> tuple[Volume, nib.Nifti1Header]:
    """Voxels and header of an image of nibabel, in memory or not read yet; other kinds as NIfTI.

    Raises:
        UserError: without affine, not three-dimensional, not plain numbers, without a usable position, or truncated.
    """
    if image.affine is None:
        refuse_scan("position", where, "has no affine", "make it with one: nibabel.Nifti1Image(array, affine)")
    with _blaming(where, "cannot be read"):
        if not isinstance(image, nib.Nifti1Pair):
            image = nib.Nifti1Image.from_image(image)
    grid = _geometry_of(where, image.header)
    with _blaming(where, "is truncated or damaged"):
        data = np.asanyarray(image.dataobj).reshape(grid.shape)
    header = image.header.copy()
    header.set_data_shape(grid.shape)
    return Volume(data, image.affine), header


def require_finite(where: object, data: np.ndarray) -> None:
    """Raises UserError: some voxels of an image are NaN or infinite."""
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        refuse_scan("finite", where, f"{int(data.size - np.isfinite(data).sum())} voxels are NaN or infinite")


def require_plausible(where: object, grid: Geometry) -> None:
    """Raises UserError: no part of a human body has such a voxel grid."""
    shape, spacing = grid.shape, grid.spacing_mm
    low, high = SPACING_RANGE_MM
    if min(spacing) < low or max(spacing) > high or max(np.multiply(shape, spacing)) > LARGEST_EXTENT_MM:
        sizes = ", ".join(f"{edge:.4g}" for edge in spacing)
        refuse_scan("voxel size", where, f"has {' x '.join(map(str, shape))} voxels of {sizes} mm")
    if abs(np.linalg.det(grid.affine[:3, :3])) < SMALLEST_ANGLE_VOLUME * np.prod(spacing):
        refuse_scan("position", where, "has axes that lie almost in one plane")


def read_label_map(path: Path) -> Volume:
    """A label file as integers, in the smallest type that holds them.

    Raises:
        UserError: as `inspect`, or a value is no integer.
    """
    volume = _read(Path(path))
    data = volume.data
    if data.dtype.kind == "f":
        rounded = np.rint(data)
        wrong = ~((np.abs(data - rounded) <= ROUNDING_TOLERANCE) & (np.abs(data) < LARGEST_LABEL))  # of NaN: True
        if wrong.any():
            raise UserError(
                path,
                f"{int(wrong.sum())} voxels of the label map are no integers (for instance {data[wrong][0]:.4g})",
                "one integer label per voxel",
                "resample label maps with nearest neighbour, or take the original file",
            )
        data = rounded.astype(np.int64)
    lowest, highest = int(data.min()), int(data.max())
    if highest >= LARGEST_LABEL:
        raise UserError(path, f"has the label value {highest}", f"below {LARGEST_LABEL}", "take the original file")
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
    """16 hexadecimal digits of the voxel values in RAS order: the same for re-saved or re-oriented copies of a scan.

    Values count as integers; as they are where rounding would take away what tells two scans apart.
    """
    data = image.turned_to_ras().data
    if data.dtype != np.int16:
        rounded = np.clip(np.rint(data), -32768, 32767).astype(np.int16)
        data = data.astype(np.float32) + 0 if _tells_too_little(rounded, data) else rounded  # + 0: no -0
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data))
    return digest.hexdigest()[:16]


def _tells_too_little(rounded: np.ndarray, data: np.ndarray) -> bool:
    """Does an image rounded to 16 bits lack what tells scans apart: it is in another unit than Hounsfield's."""
    is_narrow = float(rounded[::4, ::4, ::4].std()) < MIN_HU_SPREAD
    return is_narrow and not np.array_equal(rounded, data)


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
    header = _parse_header(path, _first_bytes(path, 540))
    geometry, expected = _geometry_of(path, header), _num_bytes(path, header)
    content = _read_bytes(path, expected + 1)
    _check_length(path, len(content), expected)
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with _blaming(path, "is truncated or damaged"):
        data = np.asanyarray(image_class.from_bytes(content).dataobj)
    if data.ndim > 3:
        return Volume(data.reshape(geometry.shape), geometry.affine)
    return Volume(data, geometry.affine, path)


def _read_bytes(path: Path, limit: int) -> bytes:
    """The uncompressed content, of a file that unpacks to more (a "bomb") no more than `limit` bytes; gzip's checksum
    is verified."""
    with _blaming(path, "cannot be read"), open(path, "rb") as file:
        if not path.name.lower().endswith(".gz"):
            return file.read(limit)
        packed, members = file.read(), []
        while packed and limit:
            unpacker = zlib.decompressobj(wbits=31)
            members.append(unpacker.decompress(packed, limit))
            limit -= len(members[-1])
            if limit and not unpacker.eof:
                raise EOFError("the compressed data end too early")
            packed = unpacker.unused_data.lstrip(b"\0")
    return b"".join(members)


def _first_bytes(path: Path, count: int) -> bytes:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with _blaming(path, "cannot be read"), opened(path, "rb") as file:
        return file.read(count)


@contextmanager
def _blaming(path: object, found: str, kind: str = "file") -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        refuse_scan(kind, path, f"{found} ({error})")


def _damaged_header(path: object) -> AbstractContextManager[None]:
    return _blaming(path, "has a damaged header", "header")


def _parse_header(path: Path, content: bytes) -> nib.Nifti1Header:
    """The header as it is stored, where nibabel can read its file."""
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        length = header_class.template_dtype.itemsize
        if len(content) >= length and header_class.may_contain_header(content[:length]):
            with _damaged_header(path):
                header = header_class(content[:length], check=False)
                read = header.copy()
                read.check_fix(logger=_SILENT)
            for code in ("sform_code", "qform_code"):  # of an unknown one nibabel, and so nnU-Net, takes 0
                if header[code] != read[code]:
                    refuse_scan("header", path, f"has a damaged header: its {code.replace('_', ' ')} is {header[code]}")
            offset, magic = header["vox_offset"], header["magic"]
            if magic != header.single_magic or not header.single_vox_offset <= offset < LARGEST_OFFSET:
                found = f"has a damaged header: its voxels begin at byte {offset}, magic {magic.item()!r}"
                refuse_scan("header", path, found)
            return header
    refuse_scan("header", path, "is not a NIfTI file")


def _geometry_of(path: object, header: nib.Nifti1Header) -> Geometry:
    shape = tuple(int(size) for size in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        refuse_scan("dimensions", path, f"has shape {shape}")
    if header.get_data_dtype().kind not in "iufb":
        refuse_scan("number type", path, f"has voxels of type {header.get_data_dtype()}")
    with _damaged_header(path):  # a quaternion that is none
        affine = header.get_best_affine()
    pixdim = header["pixdim"][1:4]
    if header["sform_code"] == 0 and not (np.isfinite(pixdim) & (pixdim > 0)).all():
        refuse_scan("voxel size", path, f"has voxels of {', '.join(f'{edge:.4g}' for edge in pixdim)} mm")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        refuse_scan("position", path, "has no usable voxel size or direction in its header")
    grid = Geometry(shape, affine)
    require_plausible(path, grid)
    return grid


def _num_bytes(path: Path, header: nib.Nifti1Header) -> int:
    """Of the uncompressed file, as its header tells."""
    with _damaged_header(path):
        return int(header["vox_offset"]) + int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize


def _check_length(path: Path, found: int, expected: int) -> None:
    if found < expected:
        refuse_scan("file", path, f"is truncated: {found} of {expected} bytes")
    if found > expected:
        refuse_scan("file", path, f"holds more than the {expected} bytes of its header's shape")
