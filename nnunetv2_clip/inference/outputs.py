"""What a prediction leaves behind: label map, masks, probabilities, statistics; preview.py draws the picture."""

# Shapes: X Y Z voxels in the axis order of the input file; H x W pixels.

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from nnunetv2_clip.choices import OUTPUTS
from nnunetv2_clip.classes import ClassRow, Taxonomy
from nnunetv2_clip.files import replacing, write_json
from nnunetv2_clip.imaging.boxes import at_border
from nnunetv2_clip.imaging.itk import itk_like
from nnunetv2_clip.imaging.nifti import COMPRESSION_LEVEL
from nnunetv2_clip.inference.dicom_seg import Algorithm, write_dicom_seg
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.label_names import nifti_extension
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.job_folder import is_readable
from nnunetv2_clip.msd.tasks import CT_TASKS

if TYPE_CHECKING:
    import SimpleITK as sitk

STATISTICS = "statistics"


@dataclass(frozen=True)
class Outputs:
    """Where the files of the cases go, and which are wanted.

    Attributes:
        kinds: out of `choices.OUTPUTS`.
        classes: whose masks and statistics are written (the predictor may know more, which rules look at).
        probabilities: whose probabilities are written.
        tasks: for the kind `msd`: folder of a task -> its classes with their label values, an organ before its tumour.
        algorithm: for the kind `dicom_seg`: what has drawn the masks.
    """

    folder: Path
    kinds: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: tuple[str, ...]
    taxonomy: Taxonomy
    tasks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    algorithm: Algorithm | None = None

    def label_map(self, case: str) -> Path:
        return self.folder / f"{case}.nii.gz"

    def mask(self, case: str, name: str) -> Path:
        return self.folder / case / f"{name}.nii.gz"

    def ct(self, case: str) -> Path:
        return self.folder / case / "ct.nii.gz"

    def probability(self, case: str, name: str) -> Path:
        return self.folder / case / "probabilities" / f"{name}.nii.gz"

    def statistics(self, case: str) -> Path:
        return self.folder / STATISTICS / f"{case}.json"

    def preview(self, case: str) -> Path:
        return self.folder / f"{case}_preview.png"

    def dicom_seg(self, case: str) -> Path:
        return self.folder / f"{case}_seg.dcm"

    def files(self, case: str) -> list[Path]:
        """Every file that a finished case has."""
        one = {"labels": self.label_map, "statistics": self.statistics, "preview": self.preview, "ct": self.ct}
        one["dicom_seg"] = self.dicom_seg
        files = [path(case) for kind, path in one.items() if kind in self.kinds]
        files += [self.mask(case, name) for name in self.classes if "masks" in self.kinds]
        files += [self.label_map(f"{task}/{case}") for task in self.tasks if "msd" in self.kinds]
        return files + [self.probability(case, name) for name in self.probabilities]

    def possible_files(self, case: str) -> list[Path]:
        """Every file that a case may have, whatever was wanted when it was predicted."""
        names, tasks = self.taxonomy.names, {task.folder: task.values for task in CT_TASKS}
        return replace(self, kinds=OUTPUTS, classes=names, probabilities=names, tasks=tasks).files(case)


def write_outputs(
    outputs: Outputs, case: str, image: InputImage, masks: Mapping[str, Mask], probabilities: Mapping[str, np.ndarray]
) -> None:
    """Write every wanted file; each is complete or not there."""
    wanted = {name: masks[name] for name in outputs.classes}
    rows = outputs.taxonomy.subset(wanted)
    if "masks" in outputs.kinds:
        for name, mask in wanted.items():
            write_like(outputs.mask(case, name), mask.full(), image)
    if "ct" in outputs.kinds:
        write_like(outputs.ct(case), image.volume.data, image)
    if "msd" in outputs.kinds:
        for task, values in outputs.tasks.items():
            write_like(outputs.label_map(f"{task}/{case}"), paint_values(masks, values), image)
    for name in outputs.probabilities:
        write_like(outputs.probability(case, name), probabilities[name], image, slope=1 / 65535)
    painted = paint_masks(wanted, rows) if {"labels", "preview"} & set(outputs.kinds) else None
    if "preview" in outputs.kinds:
        from nnunetv2_clip.inference.preview import write_preview

        write_preview(outputs.preview(case), case, image.volume, painted, rows)
    if "statistics" in outputs.kinds:
        write_json(outputs.statistics(case), [statistics(case, name, mask, image) for name, mask in wanted.items()])
    if "dicom_seg" in outputs.kinds:
        assert outputs.algorithm
        path, algorithm = outputs.dicom_seg(case), outputs.algorithm
        write_dicom_seg(path, image.source, wanted, rows, outputs.taxonomy, algorithm)
    if "labels" in outputs.kinds:
        write_like(outputs.label_map(case), painted, image, named=rows)


def paint_masks(masks: Mapping[str, Mask], rows: Iterable[ClassRow]) -> np.ndarray:
    """(X, Y, Z) universal indices, later rows on top: what nnU-Net's export of a region model makes."""
    return paint_values(masks, {row.name: row.index for row in rows})


def paint_values(masks: Mapping[str, Mask], values: Mapping[str, int]) -> np.ndarray:
    """(X, Y, Z) label values of some classes, later ones on top."""
    dtype = np.uint8 if max(values.values()) < 256 else np.uint16
    painted = np.zeros(masks[next(iter(values))].shape, dtype)
    for name, value in values.items():
        mask = masks[name]
        if mask:
            painted[mask.box][mask.voxels()] = value
    return painted


def write_like(
    path: Path, data: np.ndarray, image: InputImage, slope: float | None = None, named: Iterable[ClassRow] = ()
) -> None:
    """A .nii.gz with the geometry of the input: its header, but for the number type and the scale of the values.

    Args:
        slope: value of one step of the stored integers; None: they are the values.
        named: classes whose indices the voxels hold: a header extension tells their names.
    """
    picture = _nifti_like(data, image)
    picture.header.set_slope_inter(slope or 1, 0)
    if named:
        picture.header.extensions.append(nifti_extension(named))
    with (
        replacing(path) as beside,
        open(beside, "wb") as file,
        gzip.GzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as packed,
    ):
        _write_nifti(packed, picture, data)


def image_like(data: np.ndarray, image: InputImage) -> nib.Nifti1Image | sitk.Image:
    """(X, Y, Z) as an image of the kind that was given, with its geometry: SimpleITK's, else nibabel's."""
    return _nifti_like(data, image) if image.itk is None else itk_like(data, image.itk)


def _nifti_like(data: np.ndarray, image: InputImage) -> nib.Nifti1Image:
    if image.header is None:
        picture = nib.Nifti1Image(data, image.volume.affine)
        picture.header.set_xyzt_units("mm")
        return picture
    header = image.header.copy()
    header.set_data_dtype(data.dtype)
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(data, image.volume.affine, header)  # its own affine: sform and qform stay as they are, to the bit


def _write_nifti(stream, picture: nib.Nifti1Image, data: np.ndarray) -> None:
    """Header, extensions and stored integers as they are (nibabel would divide by the slope), slice by slice."""
    header = picture.header
    header["vox_offset"] = 0  # behind the header and its extensions
    header["magic"] = header.single_magic
    header.write_to(stream)
    stored = data.astype(header.get_data_dtype(), copy=False)
    for z in range(data.shape[2]):
        stream.write(stored[:, :, z].tobytes(order="F"))


def statistics(case: str, name: str, mask: Mask, image: InputImage) -> dict:
    """One row of the table: volume, mean Hounsfield value, bounding box (first and last voxel of each axis of the
    file), and whether the class reaches the border of the image, so that its volume is that of a part only."""
    voxel_ml = float(np.prod(image.volume.geometry.spacing_mm)) / 1000
    row = {"case": case, "class": name, "volume_ml": 0.0, "voxels": 0, "mean_hu": None, "box": None, "at_border": False}
    if not mask:
        return row
    voxels = mask.voxels()
    row["voxels"] = int(np.count_nonzero(voxels))
    row["volume_ml"] = row["voxels"] * voxel_ml
    row["mean_hu"] = float(image.volume.data[mask.box][voxels].mean(dtype=np.float64))
    row["box"] = [[part.start, part.stop - 1] for part in mask.box]
    row["at_border"] = at_border(mask.box, mask.shape)
    return row


def collect_statistics(outputs: Outputs, cases: Iterable[str]) -> None:
    """statistics.csv and statistics.json of these cases; neither is there if none has statistics."""
    files = filter(is_readable, map(outputs.statistics, sorted(cases)))
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    table, tree = (outputs.folder / f"{STATISTICS}{ending}" for ending in (".csv", ".json"))
    if not rows:
        table.unlink(missing_ok=True)
        tree.unlink(missing_ok=True)
        return
    write_json(tree, rows)
    with replacing(table) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*list(rows[0])[:-2], *_BOX_COLUMNS, "at_border"])
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)


_BOX_COLUMNS = [f"{axis}_{end}" for axis in "xyz" for end in ("first", "last")]


def _flat(row: Mapping) -> dict:
    box = [position for part in row["box"] or [["", ""]] * 3 for position in part]
    flat = {key: value for key, value in row.items() if key != "box"} | dict(zip(_BOX_COLUMNS, box, strict=True))
    return flat | {key: round(flat[key], 4) for key in ("volume_ml", "mean_hu") if flat[key] is not None}
