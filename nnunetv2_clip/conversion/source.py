"""The face that all converters share: facts about a source dataset, its cases, and one case in universal classes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.laterality import Pair, split_pairs
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.header_repairs import orthonormalise, restore_spacing
from nnunetv2_clip.imaging.nifti import SUFFIXES, Volume, inspect, read_pair, require_same_grid, stem
from nnunetv2_clip.labels import ClassMap

ClassNames = tuple[str, ...]
MAX_LISTED = 5
DIRECTIONS, UNIT_SPACING = "directions", "unit_spacing"


@dataclass(frozen=True)
class SourceCase:
    """One labelled case as found on disk; nothing is read yet.

    Attributes:
        case_id: identifier in the merge, starting with the source's name.
        image: NIfTI file or folder of DICOM slices.
        labels: role -> file or folder ("label" where there is one only).
    """

    case_id: str
    image: Path
    labels: Mapping[str, Path]

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
    """

    image: Volume
    labels: ClassMap
    annotated: ClassNames
    absent: ClassNames = ()
    fixes: tuple[str, ...] = ()


CT = "CT"


@dataclass(frozen=True)
class Source:
    """A source dataset: what is known about it, as data, and how its cases are found and read.

    A converter module names its sources in `SOURCES`. It overrides `find_cases`, and `check_case` and `load_case` where
    a case is more than one NIfTI image with one label map of the values in `label_table`.

    Attributes:
        name: as in `--source NAME=PATH` and in the manifest.
        title, licence, url: for people.
        unpack: which folder PATH has to be, in words.
        num_cases: labelled cases of the complete download; None where that has no fixed number.
        label_table: label value -> classes. Organs need not be named beside their parts: the merge adds them.
        annotated: classes that every case annotates, unless `load_case` says otherwise.
        absent: classes known not to occur.
        pairs: organs of both sides under common label values; the values' other classes are in `label_table`.
        left_out: case -> why it is not converted although the download has it.
        repairs: name of a known repair -> what it does, in words; the user can switch each off. `repaired` makes
            DIRECTIONS and UNIT_SPACING.
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

    def repairs_with(self, name: str) -> bool:
        """Is this known repair of the source to be made."""
        assert name in self.repairs, f"{self.name} has no repair {name}"
        return name not in self.switched_off

    def num_expected(self, root: Path) -> int | None:
        """The cases that a complete download at `root` gives; None where that has no fixed number."""
        return self.num_cases

    def find_cases(self, root: Path) -> list[SourceCase]:
        """The labelled cases below `root`, from file names alone.

        Raises:
            UserError: another folder, or an image without label or the reverse.
        """
        raise NotImplementedError

    def check_case(self, case: SourceCase) -> None:
        """The checks that need no voxels; run for all cases before the first one is converted.

        Raises:
            UserError: naming the file that is wrong.
        """
        for label in case.labels.values():
            require_same_grid(case.image, inspect(case.image), label, inspect(label))

    def load_case(self, case: SourceCase) -> LoadedCase:
        """Read one case completely.

        Raises:
            UserError: naming the file that is wrong.
        """
        image, label = read_pair(case.image, case.labels["label"])
        image, fixes = self.repaired(image, case)
        return self.interpret(image, ClassMap(label.data, self.label_table), fixes)

    def repaired(self, image: Volume, case: SourceCase) -> tuple[Volume, tuple[str, ...]]:
        """The image with those known repairs of its header that are on, and what they did, in words."""
        fixes = []
        if DIRECTIONS in self.repairs and self.repairs_with(DIRECTIONS):
            image, fix = orthonormalise(image)
            fixes.append(fix)
        if UNIT_SPACING in self.repairs and self.repairs_with(UNIT_SPACING):
            number = int(re.search(r"\d+$", case.case_id)[0])
            image, fix = restore_spacing(image, self.name, number, case.image)
            fixes.append(fix)
        return image, tuple(fix for fix in fixes if fix)

    def interpret(
        self,
        image: Volume,
        labels: ClassMap,
        fixes: Iterable[str] = (),
        not_annotated: Collection[str] = (),
    ) -> LoadedCase:
        """Labels on the grid of `image`; pairs are split into right and left."""
        annotated, notes = tuple(name for name in self.annotated if name not in not_annotated), ()
        if self.pairs:
            labels, annotated, notes = split_pairs(labels, self.pairs, image, annotated)
        return LoadedCase(image, labels, annotated, self.absent, (*fixes, *notes))

    def class_sets(self, taxonomy: Taxonomy) -> set[frozenset[str]]:
        """Every set of classes that is known before reading to occur in a voxel; others may follow from the data."""
        return {complete(classes, self.annotated, taxonomy) for classes in self.label_table.values()}

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
        }


@dataclass(frozen=True)
class PairedSource(Source):
    """A source with one image file and one label file per case, told by their names wherever they lie below the root.

    Attributes:
        image, label: regular expressions of the path below the root without .nii or .nii.gz; the group `case` is the
            case's number or name.
        unlabelled: cases that were published without a label.
        test_folders: their images need no label as long as none of them has one.
    """

    image: str = ""
    label: str = ""
    unlabelled: frozenset[str] = frozenset()
    test_folders: tuple[str, ...] = ()

    def find_cases(self, root: Path) -> list[SourceCase]:
        require_folder(root, self.unpack)
        files = relative_nifti_files(root)
        images, labels = (files_by_case(files, pattern, root) for pattern in (self.image, self.label))
        for folder in self.test_folders:
            inside = {case for case, path in images.items() if folder in path.relative_to(root).parts}
            images = without(images, inside if not inside & set(labels) else ())
        images = without(images, self.unlabelled - set(labels))
        pairs = match_pairs(without(images, self.left_out), without(labels, self.left_out), self._where(root))
        return [SourceCase(f"{self.name}_{case}", image, {"label": label}) for case, image, label in pairs]

    def _where(self, root: Path) -> str:
        return f"{root} ({self.name}: {self.unpack})"


def complete(classes: Iterable[str], annotated: Iterable[str], taxonomy: Taxonomy) -> frozenset[str]:
    """The annotated classes of a voxel: those named, and the organs that hold them.

    A liver tumour is liver, but only where the source annotates the liver. Of a kidney tumour the side must be known,
    so a class with several possible parents adds none of them.
    """
    found, queue = set(classes), list(classes)
    while queue:
        parents = taxonomy.find(queue.pop()).parents
        if len(parents) == 1 and parents[0] not in found:
            found.add(parents[0])
            queue.append(parents[0])
    return frozenset(found) & frozenset(annotated)


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
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(SUFFIXES) and not is_junk(path) and path.is_file():
            if stem(path) in found:
                raise UserError(path, f"{found[stem(path)].name} is there as well", "one of them", "remove one")
            found[stem(path)] = path
    return found


def relative_nifti_files(root: Path) -> dict[str, Path]:
    """Path below `root` -> file, over all folders, links to folders included; without junk."""
    found = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not is_junk(Path(name)))
        for path in (Path(folder, name) for name in sorted(names)):
            if path.name.endswith(SUFFIXES) and not is_junk(path):
                found[path.relative_to(root).as_posix()] = path
    return found


def files_by_case(files: Mapping[str, Path], pattern: str, where: object) -> dict[str, Path]:
    """Group `case` of the pattern -> file.

    Args:
        files: as `relative_nifti_files` finds them.
        pattern: regular expression of the whole path without suffix.

    Raises:
        UserError: two files of one case.
    """
    found: dict[str, Path] = {}
    for name, path in files.items():
        suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix))
        match = re.fullmatch(pattern, name.removesuffix(suffix))
        if match and match["case"] in found:
            raise UserError(
                where,
                f"{found[match['case']]} and {path} are the same case",
                "every case once",
                "give the folder of one release, or remove one of the files",
            )
        if match:
            found[match["case"]] = path
    return found


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
            listed = ", ".join(str(names[key]) for key in lonely[:MAX_LISTED])
            more = f" and {len(lonely) - MAX_LISTED} more" if len(lonely) > MAX_LISTED else ""
            raise UserError(
                where,
                f"{having} without {missing}: {listed}{more}",
                "one label file for each image",
                f"add the missing {missing} (download again), or move the {having} away",
            )
    return [(key, images[key], labels[key]) for key in sorted(images)]
