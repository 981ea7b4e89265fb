"""Which scans are in a file or folder (NIfTI, DICOM, NRRD, MetaImage, zips of them), and the voxels of each."""

# Shapes: X Y Z voxels in the file's own axis order.

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib

from nnunetv2_clip.errors import UserError, printable
from nnunetv2_clip.files import few, is_utf8, leaves_its_folder, walk_once
from nnunetv2_clip.imaging.dicom.header import is_dicom, other_kind
from nnunetv2_clip.imaging.dicom.series import has_series, holds_ct, inspect_series, is_slice_name, read_series
from nnunetv2_clip.imaging.dicom.sources import SourceSlices, source_slices
from nnunetv2_clip.imaging.findings import ScanFinding
from nnunetv2_clip.imaging.intake import header_findings
from nnunetv2_clip.imaging.itk import ITK_SUFFIXES, read_itk
from nnunetv2_clip.imaging.nifti import SUFFIXES, Geometry, Volume, inspect, nifti_header, read_image

CHANNEL, ZIP = "_0000", ".zip"
SCAN_SUFFIXES = (*SUFFIXES, *ITK_SUFFIXES, ZIP)
LARGEST_ZIP_BYTES = 20_000_000_000  # unpacked; the largest series of CT have a few GB
JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini", "DICOMDIR", "LICENSE", "VERSION", "README"}
EXPECTED = (
    "a CT as NIfTI, NRRD, MetaImage, DICOM series or a zip of one, or a folder of them (with or without _0000); "
    "DICOM series may lie in folders of folders"
)
_BAD_ZIP = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Case:
    """One CT: a file, or the folder of a DICOM series.

    Attributes:
        series: which series of the folder; empty: the only one.
    """

    name: str
    path: Path
    series: str = ""

    @property
    def may_be_dicom(self) -> bool:
        return suffix_of(self.path) in ("", ZIP)


@dataclass(frozen=True)
class FoundScans:
    """What is in a file or folder.

    Attributes:
        cases: in alphabetical order.
        left_out: what is no case, and why; a line each.
    """

    cases: list[Case]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ScanVoxels:
    """A CT as it is stored.

    Attributes:
        header: of a NIfTI file, for the shape of its voxels; None for other files.
        notes: what was left out beside it, in words.
        findings: what looks wrong in the header.
    """

    volume: Volume
    header: nib.Nifti1Header | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[ScanFinding, ...] = ()


def find_scans(path: Path, series: str = "") -> FoundScans:
    """The scans of a file, of a folder, and the DICOM series of all folders below it.

    Args:
        series: number, beginning of the identifier or part of the description: other DICOM series are left out.

    Raises:
        UserError: nothing there, a second channel, or two files for one case.
    """
    if not path.exists():
        raise UserError(f"-i {path}", "does not exist", EXPECTED, "check the path")
    if path.is_file():
        if not suffix_of(path) and not is_dicom(path):
            raise UserError(f"-i {path}", "is no CT by its name or content", EXPECTED, "name the folder of a series")
        return FoundScans([Case(case_name(path), path, series)])
    cases: dict[str, Case] = {}
    left_out: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for folder, subfolders, names in walk_once(path):
        for name in [name for name in subfolders if _is_junk(name) or not is_utf8(name)]:
            subfolders.remove(name)
            if not _is_junk(name):
                left_out[folder, "name is not UTF-8; rename it"].append(name)
        files = [folder / name for name in names if not _is_junk(name)]
        found, others = _cases_in(path, folder, files, series)
        for case in found:
            _add(cases, case, path)
        for file, reason in others:
            left_out[folder, reason].append(file.name)
    _require_one_channel(path, cases)
    lines = [printable(f"{folder}: {few(names)} ({reason})") for (folder, reason), names in left_out.items()]
    if not cases:
        found = "; ".join(["holds neither NIfTI files nor DICOM slices, nor other CTs", *lines[:5]])
        raise UserError(f"-i {path}", found, EXPECTED, "check the path")
    return FoundScans([cases[name] for name in sorted(cases)], lines)


def suffix_of(path: Path) -> str:
    """The ending of a file that can be a scan by its name, in small letters; else empty."""
    return next((suffix for suffix in SCAN_SUFFIXES if path.name.lower().endswith(suffix)), "")


def read_voxels(case: Case, check_grid: Callable[[Path, Geometry], None] = lambda path, grid: None) -> ScanVoxels:
    """Read one case of any kind.

    Args:
        check_grid: called with the file (or folder of slices) and its grid before the voxels are read; may raise.

    Raises:
        UserError: damaged, several scans, or not a volume.
    """
    suffix = suffix_of(case.path)
    if suffix == ZIP:
        with _unpacked(case) as inner:
            found = read_voxels(inner, check_grid)
            return replace(found, volume=Volume(found.volume.data, found.volume.affine))
    if suffix in ITK_SUFFIXES:
        return ScanVoxels(read_itk(case.path, check_grid))
    if not suffix:
        series = inspect_series(case.path, wanted=case.series)
        check_grid(case.path, series.geometry)
        return ScanVoxels(read_series(series), None, series.notes)
    check_grid(case.path, inspect(case.path))
    volume = read_image(case.path)
    header = nifti_header(case.path)
    header.set_data_shape(volume.data.shape)
    return ScanVoxels(volume, header, findings=header_findings(case.path))


def read_source(case: Case) -> SourceSlices:
    """The slices of a DICOM series, to which masks of the case refer.

    Raises:
        UserError: no DICOM series, or one without the identifiers of its slices.
    """
    suffix = suffix_of(case.path)
    if suffix == ZIP:
        with _unpacked(case) as inner:
            return read_source(inner)
    if suffix or not case.path.exists():
        remedy = "give the series from which the file was made, or leave out dicom_seg"
        raise UserError(case.path, "is no DICOM series", "slices for a DICOM segmentation to refer to", remedy)
    return source_slices(inspect_series(case.path, wanted=case.series))


def _is_junk(name: str) -> bool:
    return name.startswith((".", "._")) or name in JUNK


def case_name(file: Path) -> str:
    """The name of the scan in a file: without ending and nnU-Net's channel."""
    name = file.name[: len(file.name) - len(suffix_of(file))]
    return name.removesuffix(CHANNEL) or name


def _add(cases: dict[str, Case], case: Case, root: Path) -> None:
    if case.name in cases:
        first, second = (one.path.relative_to(root) for one in (cases[case.name], case))
        found = f"{first} and {second} are the same case {case.name!r}"
        raise UserError(root, found, "one file per case", "remove or rename one")
    cases[case.name] = case


def _require_one_channel(root: Path, cases: Iterable[str]) -> None:
    for name in cases:
        if name.endswith("_0001") and name[: -len(CHANNEL)] in cases:
            raise UserError(root, f"{name} is a second channel", "CTs of one channel", "remove it")


def _cases_in(root: Path, folder: Path, files: list[Path], series: str) -> tuple[list[Case], list[tuple[Path, str]]]:
    """The cases that lie directly in a folder, and its other files with the reason why they are none."""
    cases, others, slices, parts = [], [], [], _parts_of_headers(files)
    for file in files:
        if not is_utf8(file.name):
            others.append((file, "name is not UTF-8; rename it"))
        elif suffix_of(file) and folder == root:
            cases.append(Case(case_name(file), file, series))
        elif suffix_of(file):
            others.append((file, "only DICOM series are looked for in folders below that of -i"))
        elif file.name in parts:
            continue
        elif is_slice_name(file.name):
            slices.append(file)
        else:
            others.append((file, "no CT by its name"))
    if not holds_ct(slices):
        return cases, [*others, *((file, _why_no_ct(file)) for file in slices)]
    if series and not _may_hold(folder, series):
        return cases, [*others, *((file, f"no series {series!r}") for file in slices)]
    return [*cases, Case(_folder_name(root, folder), folder, series)], others


def _may_hold(folder: Path, series: str) -> bool:
    try:
        return has_series(folder, series)
    except UserError:
        return True  # is said when it is read


def _why_no_ct(file: Path) -> str:
    if not file.exists():
        return "a link to nothing"
    return f"DICOM, but {other_kind(file) or 'no CT'}" if is_dicom(file) else "no CT by its content"


def _parts_of_headers(files: Iterable[Path]) -> set[str]:
    """The names of the files that hold the voxels of .mhd and .nhdr headers."""
    headers = [file for file in files if file.suffix.lower() in (".mhd", ".nhdr") and file.is_file()]
    lines = (line for file in headers for line in file.read_text("utf-8", "replace").splitlines())
    return {line.replace("=", ":").rpartition(":")[2].strip() for line in lines}


def _folder_name(root: Path, folder: Path) -> str:
    parts = folder.relative_to(root).parts or (folder.resolve().name,)
    return "_".join("_".join(part.split()) for part in parts)


@contextmanager
def _unpacked(case: Case) -> Iterator[Case]:
    """The only scan of a zip, in a temporary folder that lives inside the `with`; errors name the zip.

    Raises:
        UserError: damaged, too large, with paths that leave the folder, or not one scan.
    """
    with tempfile.TemporaryDirectory(prefix="nnunetv2_clip_") as folder:
        try:
            with zipfile.ZipFile(case.path) as archive:
                _require_harmless(case.path, archive)
                archive.extractall(folder)
        except UserError:
            raise
        except _BAD_ZIP as error:
            found = f"cannot be unpacked ({error})"
            raise UserError(case.path, found, "a zip of one CT", "unpack it yourself") from None
        try:
            yield _only_scan(Path(folder), case)
        except UserError as error:
            texts = (error.where, error.found, error.expected, error.remedy)
            raise UserError(*(text.replace(folder, str(case.path)) for text in texts)) from None


def _require_harmless(path: Path, archive: zipfile.ZipFile) -> None:
    evil = [info.filename for info in archive.infolist() if leaves_its_folder(info.orig_filename)]
    if evil:
        found = f"holds paths that leave the folder it is unpacked into: {few(evil)}"
        raise UserError(path, found, "paths below one folder", "do not unpack this zip; ask its author for another")
    size = sum(info.file_size for info in archive.infolist())
    if size > LARGEST_ZIP_BYTES:
        found, limit = f"holds {size / 1e9:.1f} GB", f"at most {LARGEST_ZIP_BYTES / 1e9:.0f} GB"
        raise UserError(path, found, limit, "unpack it and name the folder of the series")


def _only_scan(folder: Path, case: Case) -> Case:
    """Of all folders of the zip: a series, or one file wherever it lies."""
    files = [parent / name for parent, _, names in walk_once(folder) for name in names if not _is_junk(name)]
    scans = [Case(case.name, file) for file in files if suffix_of(file) not in ("", ZIP)]
    parents = sorted({file.parent for file in files if not suffix_of(file)})
    holding = [parent for parent in parents if holds_ct(file for file in files if file.parent == parent)]
    scans += [Case(case.name, parent, case.series) for parent in holding]
    if len(scans) != 1:
        names = few([scan.path.relative_to(folder).as_posix() for scan in scans])
        found = f"holds {len(scans)} CTs" + (f": {names}" if names else "")
        raise UserError(case.path, found, "a zip of one CT", "unpack it, and name the folder of its CTs")
    return scans[0]
