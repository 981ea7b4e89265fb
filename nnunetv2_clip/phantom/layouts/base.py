"""What all layouts share: the cases to write, label values painted from masks, NIfTI in any orientation, the truth.

The label values here are what the publishers distribute, written down independently of dataset_conversion: a converter
that reads a value wrongly does not agree with its phantom.
"""

# Shapes: X Y Z voxels; RAS unless an orientation is named.

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.manifest import write_json
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, DEFAULT_SPACING_MM, Phantom, make_phantom

# A label file's recipe: (label value, classes) in painting order, a later entry takes the voxels of an earlier one.
Paint = Sequence[tuple[int, tuple[str, ...]]]

LAYOUT_MODULES = {
    "msd_liver": "msd",
    "msd_lung": "msd",
    "msd_pancreas": "msd",
    "msd_hepaticvessel": "msd",
    "msd_spleen": "msd",
    "msd_colon": "msd",
    "custom": "custom",
}


@dataclass(frozen=True)
class TruthCase:
    """One written scan.

    Attributes:
        case_id: its name in the source dataset.
        seed: of the phantom; equal seeds are the same scan.
        image: the image file, or the folder of its DICOM series.
        labels: label files or folders; empty for a test case.
        annotated: the classes that the source's labels of this case tell.
        truth: label map of all 32 classes in the grid of the image.
        is_test: distributed without label.
    """

    case_id: str
    seed: int
    image: Path
    labels: tuple[Path, ...]
    annotated: tuple[str, ...]
    truth: Path
    is_test: bool = False


@dataclass(frozen=True)
class SourceTruth:
    """A written source dataset. `root` is the folder that a user of the real dataset would have."""

    layout: str
    folder: Path
    root: Path
    cases: dict[str, TruthCase]


@dataclass
class Request:
    """What to write; handed to each layout's writer.

    Attributes:
        layout: the source key.
        folder: where to write; the layout makes its own root folder inside.
        orientations: per-case axis codes ("LPS"), used in turn; the layout's own ones when empty.
        options: what only this layout understands.
    """

    layout: str
    folder: Path
    seeds: Sequence[int]
    test_seeds: Sequence[int]
    orientations: Sequence[str]
    phantom: Callable[[int], Phantom]
    options: Mapping
    progress: Callable[[], None] = lambda: None
    cases: dict[str, TruthCase] = field(default_factory=dict)

    def orientation(self, number: int, own: str = "RAS") -> str:
        return self.orientations[number % len(self.orientations)] if self.orientations else own

    def add(
        self,
        case_id: str,
        phantom: Phantom,
        grid: nib.Nifti1Image,
        image: Path,
        labels: Sequence[Path] = (),
        annotated: Collection[str] = (),
    ) -> None:
        """Note a written case and write its truth in the grid of the written image."""
        truth = self.folder / "truth" / f"{case_id}.nii.gz"
        save_nifti(truth, oriented(truth_map(phantom), phantom.affine, axcodes(grid)))
        ordered = tuple(row.name for row in UNIVERSAL if row.name in annotated)
        assert case_id not in self.cases, case_id
        self.cases[case_id] = TruthCase(case_id, phantom.seed, image, tuple(labels), ordered, truth, not labels)
        self.progress()


def layout_names() -> tuple[str, ...]:
    return tuple(LAYOUT_MODULES)


def write_source(
    layout: str,
    folder: Path | str,
    seeds: Sequence[int],
    test_seeds: Sequence[int] = (),
    *,
    spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM,
    body_mm: tuple[float, float, float] = DEFAULT_BODY_MM,
    orientation: str | Sequence[str] = (),
    anatomy: Mapping[int, Mapping] | None = None,
    progress: Callable[[], None] = lambda: None,
    **options,
) -> SourceTruth:
    """Write phantoms as one source dataset, with the truth beside them; all or nothing.

    Args:
        layout: one of `layout_names()`.
        folder: must not hold anything yet. Gets the dataset's own root folder and `truth/`.
        seeds: one labelled case each. The same seed in two sources is the same scan in two datasets.
        test_seeds: one case without label each.
        orientation: axis codes of all cases, or of each in turn; the dataset's usual one when empty.
        anatomy: seed -> further arguments of `make_phantom`, e.g. `{3: {"missing": {"left_kidney"}}}`.
        progress: called after each case.
        options: what only this layout understands (see its module).

    Raises:
        UserError: unknown layout or orientation, folder in use.
    """
    folder = Path(folder)
    module = importlib.import_module(f"nnunetv2_clip.phantom.layouts.{LAYOUT_MODULES[known_layout(layout)]}")
    orientations = tuple(
        known_orientation(codes) for codes in ([orientation] if isinstance(orientation, str) else orientation)
    )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(folder, "is not empty", "a new folder", "choose another folder or remove this one")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    extra = anatomy or {}
    request = Request(
        layout=layout,
        folder=beside,
        seeds=seeds,
        test_seeds=test_seeds,
        orientations=orientations,
        phantom=lambda seed: make_phantom(seed, spacing_mm, body_mm, **extra.get(seed, {})),
        options=options,
        progress=progress,
    )
    try:
        root = module.write(request)
        write_json(beside / "truth" / "dataset.json", truth_dataset_json())
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return _moved(SourceTruth(layout, beside, root, request.cases), folder)


def _moved(source: SourceTruth, folder: Path) -> SourceTruth:
    move = lambda path: folder / path.relative_to(source.folder)  # noqa: E731
    cases = {
        case_id: TruthCase(
            **{
                **asdict(case),
                "image": move(case.image),
                "truth": move(case.truth),
                "labels": tuple(move(path) for path in case.labels),
            }
        )
        for case_id, case in source.cases.items()
    }
    return SourceTruth(source.layout, folder, move(source.root), cases)


def known_layout(layout: str) -> str:
    if layout not in LAYOUT_MODULES:
        raise UserError(
            "source",
            f"unknown layout {layout!r}.{suggestion(layout, LAYOUT_MODULES)}",
            f"one of {list(LAYOUT_MODULES)}",
        )
    return layout


def known_orientation(codes: str) -> str:
    """The axis codes in capitals: one of R L, one of A P, one of S I, in any order."""
    wanted = ({"R", "L"}, {"A", "P"}, {"S", "I"})
    if len(codes) != 3 or any(len(pair & set(codes.upper())) != 1 for pair in wanted):
        raise UserError("orientation", f"{codes!r}", "three axis codes such as RAS, LPS or IPL")
    return codes.upper()


def paint(phantom: Phantom, recipe: Paint) -> np.ndarray:
    """(X, Y, Z) uint8 label map of a recipe."""
    label_map = np.zeros(phantom.image.shape, dtype=np.uint8)
    for value, classes in recipe:
        for name in classes:
            label_map[phantom.masks[name]] = value
    return label_map


def annotated_classes(recipe: Paint) -> tuple[str, ...]:
    return tuple(name for _, classes in recipe for name in classes)


def truth_map(phantom: Phantom) -> np.ndarray:
    """(X, Y, Z) uint16: all 32 classes at once, in the label values of `LabelTable.of()`."""
    names = UNIVERSAL.names
    bits = np.zeros(phantom.image.shape, dtype=np.int64)
    for number, name in enumerate(names):
        bits |= phantom.masks[name].astype(np.int64) << number
    patterns, inverse = np.unique(bits, return_inverse=True)
    table = LabelTable.of()
    sets = [frozenset(name for k, name in enumerate(names) if int(pattern) >> k & 1) for pattern in patterns]
    return np.array([table.encode(classes) for classes in sets], dtype=np.uint16)[inverse].reshape(bits.shape)


def truth_dataset_json() -> dict:
    """As much of nnU-Net's dataset.json as is needed to decode the truth."""
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, UNIVERSAL.names, ignore=False)
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": order,
        "file_ending": ".nii.gz",
    }


def oriented(array: np.ndarray, affine: np.ndarray, codes: str) -> nib.Nifti1Image:
    """A RAS array as a NIfTI image whose voxel axes run along `codes`."""
    image = nib.Nifti1Image(array, affine)
    image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes))))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    return image


def axcodes(image: nib.Nifti1Image) -> str:
    return "".join(nib.orientations.ornt2axcodes(io_orientation(image.affine)))


def save_nifti(path: Path, image: nib.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def apple_double_twins(folder: Path) -> None:
    """The `._name` twins that macOS leaves in archives, for every file and folder below `folder`."""
    # AppleDouble header: magic, version 2, filler; then no entries of interest.
    content = bytes.fromhex("00051607000200004d6163204f5320580000000000000000") + bytes(139)
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith("."):
            path.with_name(f"._{path.name}").write_bytes(content)
