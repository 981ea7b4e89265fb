"""The face that all converters share: facts about a source dataset, its cases, and one case in universal classes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.label_flip import find_flip
from nnunetv2_clip.conversion.laterality import Pair, split_pairs
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import few, require_utf8, walk_once
from nnunetv2_clip.imaging.anatomy import mend_half_turn
from nnunetv2_clip.imaging.dicom.series import inspect_series, read_series, series_by_patient
from nnunetv2_clip.imaging.header_repairs import orthonormalise, restore_spacing
from nnunetv2_clip.imaging.intake import CT
from nnunetv2_clip.imaging.nifti import (
    SUFFIXES,
    Geometry,
    Volume,
    inspect,
    read_image,
    read_label_map,
    read_pair,
    require_same_grid,
    stem,
)
from nnunetv2_clip.labels import ClassMap, occurring_values

ClassNames = tuple[str, ...]
Key = TypeVar("Key")
MAX_LISTED = 5
DIRECTIONS, UNIT_SPACING, HALF_TURN, KNOWN_ABSENT = "directions", "unit_spacing", "half_turn", "known_absent"
LABEL_HEADER = "label_header"


@dataclass(frozen=True)
class SourceCase:
    """One labelled case as found on disk; nothing is read yet.

    Attributes:
        case_id: identifier in the merge, starting with the source's name.
        image: NIfTI file or folder of DICOM slices.
        labels: role -> file or folder ("label" where there is one only).
        source: that it is from.
    """

    case_id: str
    image: Path
    labels: Mapping[str, Path]
    source: Source

    @property
    def file(self) -> Path:
        """Of which an error is said that names no file."""
        return self.image

    @property
    def number(self) -> int:
        """The number at the end of the identifier, which must have one."""
        return int(re.search(r"\d+$", self.case_id)[0])

    @property
    def files(self) -> dict[str, Path]:
        """Role -> path of everything that the case is made of."""
        return {"image": self.image, **self.labels}


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """One case in memory.

    Attributes:
        image: Hounsfield units; its `path` is set where the file can be linked as it is.
        labels: on the image's grid, in the source's values; unknown is what nobody looked at (outside a box).
        annotated: classes that were drawn wherever they occur in this case.
        absent: classes that are known not to occur in this case.
        fixes: repairs of geometry, in words.
        incomplete: classes of which what was drawn is true and nothing else is known.
    """

    image: Volume
    labels: ClassMap
    annotated: ClassNames
    absent: ClassNames = ()
    fixes: tuple[str, ...] = ()
    incomplete: ClassNames = ()

    @property
    def drawn(self) -> ClassNames:
        """The classes whose voxels in `labels` are true."""
        return (*self.annotated, *self.incomplete)

    def with_drawn(self, labels: ClassMap, drawn: Sequence[str], notes: Sequence[str]) -> LoadedCase:
        """With other labels and more fixes, and of the drawn classes only those that are still certain."""
        annotated, incomplete = (
            tuple(name for name in names if name in drawn) for names in (self.annotated, self.incomplete)
        )
        fixes = (*self.fixes, *notes)
        return replace(self, labels=labels, annotated=annotated, incomplete=incomplete, fixes=fixes)


@dataclass(frozen=True)
class Source:
    """A source dataset: what is known about it, as data, and how its cases are found and read.

    A converter module names its sources in `SOURCES`. It overrides `find_cases`, and `check_case` and `load_case` (or
    `read`, `labels_of`, `not_annotated`) where a case is more than one NIfTI image with one label map of the values in
    `label_table`.

    Attributes:
        name: as in `--source NAME=PATH` and in the manifest.
        title, licence, url: for people.
        unpack: which folder PATH has to be, in words.
        num_cases: labelled cases of the complete download; None where that has no fixed number.
        label_table: label value -> classes. Organs need not be named beside their parts: the merge adds them.
        annotated: classes that every case annotates, unless `load_case` says otherwise.
        incomplete: classes of which only a part was drawn, in every case.
        absent: classes known not to occur.
        pairs: organs of both sides under common label values; the values' other classes are in `label_table`.
        left_out: case -> why it is not converted although the download has it.
        repairs: name of a known repair -> what it does, in words; the user can switch each off. `load_case`
            makes DIRECTIONS, UNIT_SPACING, HALF_TURN and KNOWN_ABSENT, that of `PairedSource` LABEL_HEADER, which the
            liver checks.
        switched_off: names of repairs that are not made.
        as_in_paper: the paper's choice where ours is stricter, in words.
        as_paper: make that choice.
        modality: nnU-Net's name of the image channel. It normalises "CT" by Hounsfield values, all others by z-score.
    """

    name: str
    title: str
    licence: str
    url: str
    unpack: str
    num_cases: int | None
    label_table: Mapping[int, ClassNames] = field(hash=False)
    annotated: ClassNames
    absent: ClassNames = ()
    pairs: tuple[Pair, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict, hash=False)
    repairs: Mapping[str, str] = field(default_factory=dict, hash=False)
    switched_off: frozenset[str] = frozenset()
    as_in_paper: str = ""
    as_paper: bool = False
    modality: str = CT
    incomplete: ClassNames = ()

    @property
    def drawn(self) -> ClassNames:
        """The classes that are drawn, wherever they occur or in part."""
        return (*self.annotated, *self.incomplete)

    def repairs_with(self, name: str) -> bool:
        """Is this a known repair of the source that is to be made."""
        return name in self.repairs and name not in self.switched_off

    def num_expected(self, root: Path) -> int | None:
        """The cases that a complete download at `root` gives; None where that has no fixed number."""
        return self.num_cases

    def find_cases(self, root: Path) -> list[SourceCase]:
        """The labelled cases below `root`, from file names alone.

        Raises:
            UserError: another folder, or an image without label or the reverse.
        """
        raise NotImplementedError

    def remarks(self, root: Path, cases: Sequence[SourceCase]) -> list[str]:
        """What people should know about the cases that `find_cases` found below `root`, in words."""
        return []

    def patient_of(self, case: SourceCase) -> str:
        """The source's name for the patient, equal for all scans of one patient; empty where nothing is known."""
        return ""

    def case(self, key: str, image: Path, labels: Mapping[str, Path]) -> SourceCase:
        """The case of a number or name, which is empty in a source of one case."""
        return SourceCase(f"{self.name}_{key}" if key else self.name, image, labels, self)

    def check_case(self, case: SourceCase) -> None:
        """The checks that need no voxels; run for all cases before the first one is converted.

        Raises:
            UserError: naming the file that is wrong.
        """
        grid = inspect(case.image)
        for label in case.labels.values():
            require_same_grid(case.image, grid, label, inspect(label))

    def load_case(self, case: SourceCase) -> LoadedCase:
        """Read one case completely.

        Raises:
            UserError: naming the file that is wrong.
        """
        image, label_map, fixes = self.read(case)
        image, repairs = self.repaired(image, case)
        labels, notes = self.labels_of(label_map), []
        if self.repairs_with(HALF_TURN):
            image, fix = mend_half_turn(image, labels)
            notes.extend([fix] if fix else [])
        annotated, unsure = self.annotated_in(case, labels)
        fixes = (*fixes, *repairs, *notes, *unsure)
        loaded = LoadedCase(image, labels, annotated, self.known_absent, fixes, self.incomplete_in(case))
        return loaded.with_drawn(*split_pairs(labels, self.pairs, image, loaded.drawn)) if self.pairs else loaded

    def read(self, case: SourceCase) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        """Image, label map on its grid, and what was done to lay one on the other, in words.

        Raises:
            UserError: naming the file that is wrong.
        """
        image, label = read_pair(case.image, case.labels["label"])
        return image, label.data, ()

    def labels_of(self, label_map: np.ndarray) -> ClassMap:
        """The label map with the meaning of its values."""
        return ClassMap(label_map, self.label_table)

    def annotated_in(self, case: SourceCase, labels: ClassMap) -> tuple[ClassNames, tuple[str, ...]]:
        """The classes that this case annotates, and why others are missing, in words."""
        unsure = {} if self.as_paper and self.as_in_paper else self.not_annotated(case, labels)
        annotated = tuple(name for name in self.annotated if name not in {*unsure, *self.incomplete_in(case)})
        return annotated, tuple(f"{name} not annotated: {reason}" for name, reason in unsure.items())

    def incomplete_in(self, case: SourceCase) -> ClassNames:
        """The classes of which only a part was drawn in this case."""
        return self.incomplete

    def not_annotated(self, case: SourceCase, labels: ClassMap) -> dict[str, str]:
        """Class -> why it is not annotated in this case, although it is in others.

        Not asked with `as_paper` where the paper's choice is another one.
        """
        return {}

    @property
    def known_absent(self) -> ClassNames:
        """`absent`, unless this is switched off."""
        return () if KNOWN_ABSENT in self.repairs and not self.repairs_with(KNOWN_ABSENT) else self.absent

    def repaired(self, image: Volume, case: SourceCase) -> tuple[Volume, tuple[str, ...]]:
        """The image with those known repairs of its header that are on, and what they did, in words."""
        fixes = []
        if self.repairs_with(DIRECTIONS):
            image, fix = orthonormalise(image)
            fixes.append(fix)
        if self.repairs_with(UNIT_SPACING):
            image, fix = restore_spacing(image, self.name, case.number, case.image)
            fixes.append(fix)
        return image, tuple(filter(None, fixes))

    def class_sets(self, taxonomy: Taxonomy) -> set[frozenset[str]]:
        """Every set of classes that is known before reading to occur in a voxel; others may follow from the data."""
        return {complete(classes, self.drawn, taxonomy) for classes in self.label_table.values()}

    def settings(self) -> dict:
        """What changes the converted cases: an unfinished conversion goes on only when this is the same."""
        return {
            "label_table": {str(value): list(classes) for value, classes in self.label_table.items()},
            "annotated": list(self.annotated),
            "absent": list(self.absent),
            "pairs": [[pair.right, pair.left, list(pair.values)] for pair in self.pairs],
            "repairs": sorted(set(self.repairs) - self.switched_off),
            "as_paper": self.as_paper,
            "modality": self.modality,
            **({"incomplete": list(self.incomplete)} if self.incomplete else {}),
        }


@dataclass(frozen=True)
class PairedSource(Source):
    """A source with one image and one label file per case, told by their names wherever they lie below the root.

    Attributes:
        image, label: regular expressions of the path below the root without .nii or .nii.gz; the group `case` is the
            case's number or name.
        patient: the images are DICOM series: regular expression of the names of the patients' folders.
        unlabelled: cases that were published without a label.
        test_folders: their images need no label as long as none of them has one.
    """

    image: str = ""
    label: str = ""
    patient: str = ""
    unlabelled: frozenset[str] = frozenset()
    test_folders: tuple[str, ...] = ()

    def find_cases(self, root: Path) -> list[SourceCase]:
        require_folder(root, self.unpack)
        images, labels = (without(files, self.left_out) for files in self.find_files(root))
        for folder in self.test_folders:
            inside = {case for case, path in images.items() if folder in path.relative_to(root).parts}
            images = without(images, inside if not inside & set(labels) else ())
        images = without(images, self.unlabelled - set(labels))
        pairs = match_pairs(images, labels, f"{root} ({self.name}: {self.unpack})")
        return [self.case(key, image, {"label": label}) for key, image, label in pairs]

    def find_files(self, root: Path) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        """Number or name of the case -> image, and -> label.

        Raises:
            UserError: two files of one case, or files of another dataset.
        """
        files = relative_nifti_files(root)
        images = series_by_patient(root, self.patient) if self.patient else files_by_case(files, self.image)
        return images, files_by_case(files, self.label)

    def check_case(self, case: SourceCase) -> None:
        label = case.labels["label"]
        if not self.repairs_with(LABEL_HEADER) or inspect(case.image).shape != inspect(label).shape:
            super().check_case(case)

    def read(self, case: SourceCase) -> tuple[Volume, np.ndarray, tuple[str, ...]]:
        if not self.repairs_with(LABEL_HEADER):
            return super().read(case)
        self.check_case(case)
        path = case.labels["label"]
        image, label = read_image(case.image), read_label_map(path)
        difference = label.geometry.difference(image.geometry)
        if not difference:
            return image, label.data, ()
        liver = [value for value, classes in self.label_table.items() if "liver" in classes]
        find_flip(image, label.data, liver, path, may_flip=False)  # a wrong header alone is mended
        fix = f"position of the segmentation taken from its volume, on which its array lies ({difference})"
        return image, label.data, (fix,)

    def image_grid(self, case: SourceCase) -> Geometry:
        return inspect_series(case.image).geometry if self.patient else inspect(case.image)

    def read_image(self, case: SourceCase) -> Volume:
        return read_series(inspect_series(case.image)) if self.patient else read_image(case.image)


@dataclass(frozen=True)
class MaskSource(Source):
    """A source with one mask file per structure; the masks may overlap.

    Attributes:
        structures: role of a mask -> classes of its voxels.
        mask_values, mask_remedy: what is expected in a mask and what to do otherwise, in words.
    """

    structures: Mapping[str, ClassNames] = field(default_factory=dict, hash=False)
    mask_values: ClassVar[str]
    mask_remedy: ClassVar[str]

    def is_mask(self, values: np.ndarray) -> bool:
        """May a mask have these values; all above 0 are inside."""
        raise NotImplementedError

    def load_case(self, case: SourceCase) -> LoadedCase:
        image = read_image(case.image)
        labels = ClassMap.of_masks(image.data.shape, self._masks(case, image))
        annotated, unsure = self.annotated_in(case, labels)
        return LoadedCase(image, labels, annotated, self.absent, unsure, self.incomplete_in(case))

    def _masks(self, case: SourceCase, image: Volume) -> Iterator[tuple[np.ndarray, ClassNames]]:
        for role, classes in self.structures.items():
            path = case.labels[role]
            mask = read_label_map(path)
            require_same_grid(case.image, image.geometry, path, mask.geometry)
            values = occurring_values(mask.data)
            if not self.is_mask(values):
                found = f"has the values {values[:5].tolist()}"
                raise UserError(path, found, self.mask_values, self.mask_remedy)
            yield mask.data > 0, classes

    def class_sets(self, taxonomy: Taxonomy) -> set[frozenset[str]]:
        return {complete(classes, self.drawn, taxonomy) for classes in self.structures.values()}


def named_in(label_table: Mapping[int, ClassNames]) -> ClassNames:
    """The classes for which the values of a table stand."""
    return tuple(chain.from_iterable(label_table.values()))


def complete(classes: Iterable[str], drawn: Iterable[str], taxonomy: Taxonomy) -> frozenset[str]:
    """The drawn classes of a voxel: those named, and the organs that hold them.

    A liver tumour is liver, but only where the source draws the liver. Of a kidney tumour the side must be known,
    so a class with several possible parents adds none of them.
    """
    found, queue = set(classes), list(classes)
    while queue:
        parents = taxonomy.find(queue.pop()).parents
        if len(parents) == 1 and parents[0] not in found:
            found.add(parents[0])
            queue.append(parents[0])
    return frozenset(found) & frozenset(drawn)


def is_junk(path: Path) -> bool:
    """AppleDouble twins, Finder and Explorer files, unpacked macOS folders, partial downloads."""
    return path.name.startswith((".", "_")) or path.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def require_folder(folder: Path, unpack: str) -> Path:
    """The folder itself.

    Raises:
        UserError: it does not exist or is empty.
    """
    if not folder.is_dir():
        raise UserError(folder, "is no folder", unpack, "check the path given with --source")
    if not any(not is_junk(path) for path in folder.iterdir()):
        raise UserError(folder, "is empty", unpack, "unpack the download there, or check the path given with --source")
    return folder


def nifti_files(folder: Path) -> dict[str, Path]:
    """Stem -> NIfTI file directly in `folder`, sorted, without junk.

    Raises:
        UserError: a volume is there as .nii and as .nii.gz.
    """
    files = (path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES) and not is_junk(path))
    return each_once((stem(path), path) for path in files if path.is_file())


def each_once(files: Iterable[tuple[Key, Path]], remedy: str = "remove one of them") -> dict[Key, Path]:
    """Case, number or name -> its file or folder.

    Raises:
        UserError: two have the same.
    """
    found: dict[Key, Path] = {}
    for key, path in files:
        if key in found:
            raise UserError(path, f"{found[key]} and {path} are both case {key!r}", "every case once", remedy)
        found[key] = path
    return found


def relative_nifti_files(root: Path) -> dict[str, Path]:
    """Path below `root` -> file, over all folders, links to folders included; without junk."""
    found = {}
    for folder, subfolders, names in walk_once(root):
        subfolders[:] = [name for name in subfolders if not is_junk(Path(name))]
        for path in (folder / name for name in names):
            if path.name.endswith(SUFFIXES) and not is_junk(path):
                require_utf8(path)
                found[path.relative_to(root).as_posix()] = path
    return found


def files_by_case(files: Mapping[str, Path], pattern: str) -> dict[str, Path]:
    """Group `case` of the pattern -> file.

    Args:
        files: as `relative_nifti_files` finds them.
        pattern: regular expression of the whole path without suffix.

    Raises:
        UserError: two files of one case.
    """
    matches = ((re.fullmatch(rf"{pattern}\.nii(\.gz)?", name), path) for name, path in files.items())
    remedy = "give the folder of one release, or remove one of the files"
    return each_once(((match["case"], path) for match, path in matches if match), remedy)


def without(files: Mapping[str, Path], cases: Iterable[str]) -> dict[str, Path]:
    """The files of all other cases."""
    cases = set(cases)
    return {case: path for case, path in files.items() if case not in cases}


def match_pairs(images: Mapping[str, Path], labels: Mapping[str, Path], where: object) -> list[tuple[str, Path, Path]]:
    """(key, image, label) of every case, by equal keys.

    Raises:
        UserError: no case at all, or one without its partner.
    """
    if not images and not labels:
        raise UserError(where, "holds no NIfTI files", "images with their labels", "check the path and the file names")
    for having, missing, names in (("image", "label", images), ("label", "image", labels)):
        lonely = sorted(set(names) - set(images if names is labels else labels))
        if lonely:
            raise UserError(
                where,
                f"{having} without {missing}: {listed(names[key] for key in lonely)}",
                "one label file for each image",
                f"add the missing {missing} (download again), or move the {having} away",
            )
    return [(key, images[key], labels[key]) for key in sorted(images)]


def listed(names: Iterable[object]) -> str:
    """The first of them, and how many more there are, in words."""
    return few(list(map(str, names)), MAX_LISTED)


def read_rows(path: Path, what: str) -> list[dict[str, str | None]]:
    """The rows of a table with commas, by the names of its columns.

    Raises:
        UserError: it cannot be read as `what`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(path, f"cannot be read ({error})", what, "download it again") from None
