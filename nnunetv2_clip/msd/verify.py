"""Check a Decathlon submission that anyone has made: names, paths, geometry and label values."""

import gzip
import stat
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
from tqdm import tqdm

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import leaves_its_folder
from nnunetv2_clip.imaging.nifti import FILE_ENDING, UNREADABLE
from nnunetv2_clip.msd.masks import BadMask, check_geometry, check_values, open_image
from nnunetv2_clip.msd.tasks import TASKS, ListedImage, MsdTask, listed_images

MAX_BYTES_PER_VOXEL = 8
MAX_HEADER_BYTES = 1 << 20


def verify(path: Path, msd_root: Path, tasks: Sequence[MsdTask] = TASKS) -> list[str]:
    """Everything wrong with a submission; an empty list when nothing is.

    Nothing is unpacked to disk, and no file is read beyond the size that its test image allows.

    Raises:
        UserError: no zip file, or the challenge's data are not where `msd_root` says.
    """
    images = {image.label: image for task in tasks for image in listed_images(msd_root, task)}
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(path, f"cannot be read as a zip file ({error})", "a submission", "make it again") from None
    with archive:
        problems, files = _names(archive, images)
        for label, info in tqdm(files.items(), "verify", unit="mask"):
            try:
                _check_mask(archive, info, images[label])
            except BadMask as error:
                problems.append(f"{label} {error}")
    return problems


def _names(archive: zipfile.ZipFile, images: Mapping[str, ListedImage]) -> tuple[list[str], dict[str, zipfile.ZipInfo]]:
    """Problems with names, and the entries that are a test image's mask."""
    problems: list[str] = []
    files: dict[str, zipfile.ZipInfo] = {}
    entries = [info for info in archive.infolist() if not info.is_dir()]
    problems += [f"{name!r} is there {n} times" for name, n in Counter(e.filename for e in entries).items() if n > 1]
    for info in entries:
        evil = _evil(info)
        if evil:
            problems.append(f"{info.filename!r} {evil}")
        elif info.filename in images:
            files[info.filename] = info
        else:
            problems.append(f"{info.filename!r} {_unexpected(info.filename, images)}")
    return problems + _missing(files, images), files


def _evil(info: zipfile.ZipInfo) -> str | None:
    name = info.orig_filename
    if leaves_its_folder(name):
        return "is a path that leaves the folder into which the zip is unpacked"
    if "\\" in name:
        return "has a backslash in its path"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, not a file"
    if info.flag_bits & 1:
        return "is encrypted"
    return None


def _unexpected(name: str, images: Mapping[str, ListedImage]) -> str:
    """Why a file does not belong, as far as its name tells."""
    path = PurePosixPath(name)
    if path.name.startswith("._") or path.parts[0] == "__MACOSX" or path.name == ".DS_Store":
        return "is a leftover of macOS; make the zip without it"
    inner = "/".join(path.parts[-2:])
    if len(path.parts) > 2 and inner in images:
        return f"lies in a wrapper folder; it must be {inner!r}"
    plain = name.replace("_0000" + FILE_ENDING, FILE_ENDING)
    if plain != name and plain in images:
        return f"must be named {plain!r}"
    if path.parts[0] not in {image.task.folder for image in images.values()}:
        return f"lies in none of the task folders {', '.join(sorted({i.task.folder for i in images.values()}))}"
    return "is not in the task's test list"


def _missing(files: Mapping[str, object], images: Mapping[str, ListedImage]) -> list[str]:
    """Missing files, with one line for a task that is missing altogether."""
    problems = []
    for folder in dict.fromkeys(image.task.folder for image in images.values()):
        labels = [label for label, image in images.items() if image.task.folder == folder]
        missing = [f"{label} is missing" for label in labels if label not in files]
        whole = f"{folder} is missing with all its {len(labels)} masks"
        problems += [whole] if len(missing) == len(labels) else missing
    return problems


def _check_mask(archive: zipfile.ZipFile, info: zipfile.ZipInfo, image: ListedImage) -> None:
    try:
        reference = open_image(image.path)
    except BadMask as error:
        raise BadMask(f"cannot be checked: the test image {image.path} {error}") from None
    voxels = int(np.prod(reference.shape[:3]))
    mask = _from_bytes(_unzip(archive, info, voxels * MAX_BYTES_PER_VOXEL + MAX_HEADER_BYTES))
    check_geometry(mask, reference)
    if not np.issubdtype(mask.get_data_dtype(), np.integer):
        raise BadMask(f"has the data type {mask.get_data_dtype()}; a mask has integers")
    slope, inter = mask.header.get_slope_inter()
    if slope not in (None, 1) or inter not in (None, 0):
        raise BadMask(f"scales its integers by {slope} and shifts them by {inter}")
    try:
        check_values(np.asanyarray(mask.dataobj), image.task.values)
    except UNREADABLE as error:
        raise BadMask(f"cannot be read to its end ({error})") from None


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The uncompressed NIfTI file, refused beyond `limit` bytes (a zip bomb)."""
    try:
        with archive.open(info) as packed, gzip.open(packed) as unpacked:
            content = unpacked.read(limit + 1)
    except (*UNREADABLE, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadMask(f"cannot be unpacked ({error})") from None
    if len(content) > limit:
        raise BadMask("is larger than any mask of its test image can be")
    return content


def _from_bytes(content: bytes) -> nib.Nifti1Image:
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        try:
            return kind.from_bytes(content)
        except UNREADABLE:
            continue
    raise BadMask("is no NIfTI file")
