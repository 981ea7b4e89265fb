"""What all layouts share: the cases to write, label values painted from masks, NIfTI in any orientation, the truth.

The label values here are what the publishers distribute, written down independently of dataset_conversion: a converter
that reads a value wrongly does not agree with its phantom.
"""

# Shapes: X Y Z voxels; RAS unless an orientation is named.

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from pydantic import TypeAdapter

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_json, replacing_folder, write_json, write_text
from nnunetv2_clip.labels import ClassMap, LabelTable, nnunet_labels
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, DEFAULT_SPACING_MM, Phantom, make_phantom

# What a publisher did to the header of a file.
Change = Callable[[nib.Nifti1Image], nib.Nifti1Image]
# A label file's recipe: (label value, classes) in painting order, a later entry takes the voxels of an earlier one.
Paint = Sequence[tuple[int, tuple[str, ...]]]

LAYOUT_MODULES = {
    "msd_liver": "msd",
    "msd_lung": "msd",
    "msd_pancreas": "msd",
    "msd_hepaticvessel": "msd",
    "msd_spleen": "msd",
    "msd_colon": "msd",
    "btcv": "nifti",
    "gibson_btcv": "gibson",
    "gibson_pancreas_ct": "gibson",
    "pancreas_ct": "pancreas_ct",
    "chaos": "chaos",
    "lits": "nifti",
    "kits19": "kits",
    "kits21": "kits",
    "kits23": "kits",
    "ct_org": "nifti",
    "word": "nifti",
    "abdomenct_1k": "nifti",
    "amos22": "amos",
    "abdomenct_12organ": "nifti",
    "ircadb": "ircadb",
    "totalsegmentator_v1": "totalsegmentator",
    "totalsegmentator_v2": "totalsegmentator",
    "totalsegmentator_v3": "totalsegmentator",
    "flare22": "nifti",
    "unlabelled": "nifti",
    "custom": "nifti",
}
WITHOUT_TEST_CASES = {
    *("gibson_btcv", "gibson_pancreas_ct", "pancreas_ct", "kits21", "kits23", "ct_org", "abdomenct_12organ", "ircadb"),
    *("totalsegmentator_v1", "totalsegmentator_v2", "totalsegmentator_v3", "unlabelled"),
}
RECORD = "phantom.json"
DICOM_LAYOUTS = {"pancreas_ct": "LAI", "gibson_pancreas_ct": "LAI", "chaos": "LPS", "ircadb": "LPS"}
# LiTS volumes whose voxel size was overwritten, and the copies with the same number elsewhere (datasets' own fault).
UNIT_SPACING_NUMBERS = frozenset(range(28, 48))


@dataclass(frozen=True)
class TruthCase:
    """One written scan.

    Attributes:
        case_id: its name in the source dataset.
        seed: of the phantom; equal seeds are the same scan.
        image: the image file, or the folder of its DICOM series.
        labels: label files or folders; empty for a test case, and in a source without labels.
        annotated: the classes that the source's labels of this case tell.
        incomplete: those of which they tell a part only.
        truth: label map of all 32 classes in the grid of the image (of DICOM slices: along their normal). Its header is
            right where the source's own header is wrong.
        absent: the classes of which the publisher says that no patient has them.
        box: (start, stop) along each axis of the written label array; outside nothing was annotated.
        is_test: distributed without label.
    """

    case_id: str
    seed: int
    image: Path
    labels: tuple[Path, ...]
    annotated: tuple[str, ...]
    truth: Path
    absent: tuple[str, ...] = ()
    box: tuple[tuple[int, int], ...] | None = None
    is_test: bool = False
    incomplete: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceTruth:
    """A written source dataset.

    Attributes:
        layout: the source key.
        folder: where everything lies, `truth/` and `phantom.json` included.
        root: the folder below it that a user of the real dataset would have.
        cases: case_id -> what is known about it.
        order: how it was asked for, so that a second run knows whether it is the same.
    """

    layout: str
    folder: Path
    root: Path
    cases: dict[str, TruthCase]
    order: Mapping = field(default_factory=dict)

    def save(self) -> None:
        """Write phantom.json, with paths relative to the folder."""
        relative = lambda path: path.relative_to(self.folder).as_posix()  # noqa: E731
        cases = {case_id: asdict(case) for case_id, case in self.cases.items()}
        content = {"layout": self.layout, "root": self.root, "order": dict(self.order), "cases": cases}
        write_text(self.folder / RECORD, json.dumps(content, indent=2, default=relative) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> SourceTruth:
        """Read what `save` wrote, wherever the folder is now.

        Raises:
            UserError: no phantom.json there.
        """
        folder = Path(folder)
        content = read_json(folder / RECORD, "write the phantom again")
        cases = TypeAdapter(dict[str, TruthCase]).validate_python(content["cases"])
        for case_id, case in cases.items():
            labels = tuple(folder / path for path in case.labels)
            cases[case_id] = replace(case, image=folder / case.image, labels=labels, truth=folder / case.truth)
        return cls(content["layout"], folder, folder / content["root"], cases, content["order"])


@dataclass(frozen=True)
class Scan:
    """One phantom and the axis codes in which its voxels are stored."""

    phantom: Phantom
    codes: str

    def array(self, array: np.ndarray) -> np.ndarray:
        """A RAS array in the stored order of axes."""
        return np.asarray(self.nifti(array).dataobj)

    def ras(self, stored: np.ndarray) -> np.ndarray:
        """The inverse of `array`."""
        back = ornt_transform(axcodes2ornt(tuple(self.codes)), axcodes2ornt("RAS"))
        return apply_orientation(stored, back)

    def nifti(self, array: np.ndarray) -> nib.Nifti1Image:
        """A RAS array as a NIfTI image whose voxel axes run along `codes`."""
        image = nib.Nifti1Image(array, self.phantom.affine)
        image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(self.codes))))
        return with_affine(image, image.affine)

    def save(self, path: Path, array: np.ndarray, change: Change | None = None) -> Path:
        """Write a RAS array as NIfTI; `change` spoils or alters the header as the publisher did."""
        image = self.nifti(array)
        return save_nifti(path, change(image) if change else image)


@dataclass
class Request:
    """What to write; handed to each layout's writer.

    Attributes:
        layout: the source key.
        folder: where to write; the layout makes its own root folder inside.
        orientations: per-case axis codes ("LPS"), used in turn; the layout's own ones when empty.
        options: what only this layout understands, read with `option`.
    """

    layout: str
    folder: Path
    seeds: Sequence[int]
    test_seeds: Sequence[int]
    orientations: Sequence[str]
    spacing_mm: tuple[float, float, float]
    body_mm: tuple[float, float, float]
    anatomy: Mapping[int, Mapping]
    options: dict
    progress: Callable[[], None]
    cases: dict[str, TruthCase] = field(default_factory=dict)

    def option(self, name: str, default: object) -> object:
        return self.options.pop(name, default)

    def numbers(self, labelled: Iterable[int], held_back: Iterable[int] = ()) -> Iterator[tuple[int, int, bool]]:
        """(case number, seed, has a label) for every case; the option `numbers` replaces the labelled ones."""
        labelled = self.option("numbers", labelled)
        for has_label, seeds, numbers in ((True, self.seeds, labelled), (False, self.test_seeds, held_back)):
            numbers = iter(numbers)
            for seed in seeds:
                yield next(numbers), seed, has_label

    def scan(self, seed: int, own: Sequence[str] = ("RAS",), missing: Collection[str] = ()) -> Scan:
        """The phantom of a seed; `own` are the layout's usual axis codes, `missing` what none of its patients has."""
        codes = self.orientations or own
        extra = dict(self.anatomy.get(seed, {}))
        extra["missing"] = set(extra.get("missing", ())) | set(missing)
        phantom = make_phantom(seed, self.spacing_mm, self.body_mm, **extra)
        return Scan(phantom, codes[len(self.cases) % len(codes)])

    def add(
        self,
        case_id: str,
        scan: Scan,
        image: Path,
        labels: Sequence[Path] = (),
        annotated: Collection[str] = (),
        absent: Sequence[str] = (),
        box: tuple[tuple[int, int], ...] | None = None,
        incomplete: Sequence[str] = (),
    ) -> None:
        """Note a written case and write its truth in the grid of the written image."""
        is_test = not labels and self.layout != "unlabelled"
        assert case_id not in self.cases, case_id
        truth = scan.save(self.folder / "truth" / f"{case_id}.nii.gz", truth_map(scan.phantom))
        ordered = tuple(row.name for row in UNIVERSAL if row.name in annotated)
        facts = (tuple(absent), box, is_test, tuple(incomplete))
        self.cases[case_id] = TruthCase(case_id, scan.phantom.seed, image, tuple(labels), ordered, truth, *facts)
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
    order: Mapping | None = None,
    **options,
) -> SourceTruth:
    """Write phantoms as one source dataset, with the truth beside them; all or nothing.

    Args:
        layout: one of `layout_names()`.
        folder: must not hold anything yet. Gets the dataset's own root folder and `truth/`.
        seeds: one labelled case each, at least one. The same seed in two sources is the same scan in two datasets.
        test_seeds: one case without label each.
        orientation: axis codes of all cases, or of each in turn; the dataset's usual one when empty.
        anatomy: seed -> further arguments of `make_phantom`, e.g. `{3: {"missing": {"left_kidney"}}}`.
        progress: called after each case.
        order: kept in phantom.json as it is.
        options: what only this layout understands (see its module).

    Raises:
        UserError: unknown layout or orientation, folder in use.
    """
    folder = Path(folder)
    module = importlib.import_module(f"nnunetv2_clip.phantom.layouts.{LAYOUT_MODULES[known_layout(layout)]}")
    orientations = layout_orientations(layout, (orientation,) if isinstance(orientation, str) else orientation)
    assert seeds, "a source dataset has at least one labelled case"
    if test_seeds and layout in WITHOUT_TEST_CASES:
        raise UserError(layout, "has no cases without label", "", "ask for none")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(folder, "is not empty", "a new folder", "choose another folder or remove this one")
    with replacing_folder(folder) as beside:
        request = Request(
            layout=layout,
            folder=beside,
            seeds=seeds,
            test_seeds=test_seeds,
            orientations=orientations,
            spacing_mm=spacing_mm,
            body_mm=body_mm,
            anatomy=anatomy or {},
            options=dict(options),
            progress=progress,
        )
        root = module.write(request)
        assert not request.options, f"{layout} has no options {sorted(request.options)}"
        write_json(beside / "truth" / "dataset.json", truth_dataset_json())
        SourceTruth(layout, beside, root, request.cases, order or {}).save()
    return SourceTruth.load(folder)


def known_layout(layout: str) -> str:
    if layout not in LAYOUT_MODULES:
        raise UserError(
            "--layouts",
            f"unknown layout {layout!r}.{suggestion(layout, LAYOUT_MODULES)}",
            f"one of {list(LAYOUT_MODULES)}",
        )
    return layout


def layout_orientations(layout: str, orientations: Iterable[str]) -> tuple[str, ...]:
    """The axis codes in capitals, if the layout can have them.

    Raises:
        UserError: not one of R L, one of A P and one of S I; or the layout consists of DICOM slices.
    """
    wanted = ({"R", "L"}, {"A", "P"}, {"S", "I"})
    found = tuple(codes.upper() for codes in orientations)
    for codes in found:
        if len(codes) != 3 or any(len(pair & set(codes)) != 1 for pair in wanted):
            raise UserError("orientation", f"{codes!r}", "three axis codes such as RAS, LPS or IPL")
    own = DICOM_LAYOUTS.get(layout)
    if own and set(found) - {own}:
        raise UserError(layout, "consists of axial DICOM slices", f"orientation {own}", "leave the orientation out")
    return found


def numbered(structures: str) -> Paint:
    """The recipe of label values 1, 2, 3 ... for structures given as words; a `+` joins classes under one value."""
    return tuple((value, tuple(word.split("+"))) for value, word in enumerate(structures.split(), start=1))


def named(structures: str) -> dict[str, tuple[str, ...]]:
    """File or folder name -> classes, from words `name=class+class`, or `name` where it is called like its class."""
    words = (word.partition("=") for word in structures.split())
    return {name: tuple((classes or name).split("+")) for name, _, classes in words}


def painted(phantom: Phantom, recipe: Paint) -> np.ndarray:
    """(X, Y, Z) uint8 label map of a recipe, which may name classes and `extras`."""
    label_map = np.zeros(phantom.image.shape, dtype=np.uint8)
    for value, names in recipe:
        for name in names:
            label_map[phantom.masks[name] if name in phantom.masks else phantom.extras[name]] = value
    return label_map


def annotated_classes(recipe: Paint) -> tuple[str, ...]:
    return tuple(name for _, names in recipe for name in names if name in UNIVERSAL)


def truth_map(phantom: Phantom) -> np.ndarray:
    """(X, Y, Z) uint16: all 32 classes at once, in the label values of `LabelTable.of()`."""
    masks = ((phantom.masks[name], {name}) for name in UNIVERSAL.names)
    return ClassMap.of_masks(phantom.image.shape, masks).remap(LabelTable.of(), "phantom")


def truth_dataset_json() -> dict:
    """As much of nnU-Net's dataset.json as is needed to decode the truth."""
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, UNIVERSAL.names, ignore=False)
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": order,
        "file_ending": ".nii.gz",
    }


def unit_spacing(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The voxel size in the header overwritten with 1 x 1 x 1 mm."""
    return with_affine(image, image.affine @ np.diag([*(1 / np.array(image.header.get_zooms()[:3])), 1]))


def claims_ras(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The header says that the voxel axes run right, anterior, superior, whatever the array does."""
    affine = np.diag([*np.array(image.header.get_zooms()[:3], dtype=float), 1])
    affine[:3, 3] = image.affine[:3, 3]
    return with_affine(image, affine)


def with_affine(image: nib.Nifti1Image, affine: np.ndarray, forms: tuple[int, int] = (1, 1)) -> nib.Nifti1Image:
    """Another header affine; `forms` are the qform and sform codes, 0 leaves one out."""
    changed = nib.Nifti1Image(np.asarray(image.dataobj), affine)
    changed.header.set_xyzt_units("mm")
    changed.set_qform(affine, forms[0])
    changed.set_sform(affine, forms[1])
    return changed


def qform_only(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return with_affine(image, image.affine, (1, 0))


def save_nifti(path: Path, image: nib.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_table(path: Path, rows: Iterable[Iterable], delimiter: str = ",", encoding: str = "utf-8") -> None:
    """A CSV file whose lines end with CR LF."""
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)


# AppleDouble header: magic, version 2, filler; then no entries of interest.
APPLE_DOUBLE = bytes.fromhex("00051607000200004d6163204f5320580000000000000000") + bytes(139)


def apple_double_twins(folder: Path) -> None:
    """The `._name` twins that macOS leaves in archives, for every file and folder below `folder`."""
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith("."):
            path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
