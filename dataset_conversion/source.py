"""The face that all converters share: facts about a source dataset, its cases, and one case in universal classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.images import SUFFIXES, Volume, inspect, read_pair, require_same_grid, stem

ClassNames = tuple[str, ...]
MAX_LISTED = 5


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
        label_map: (X, Y, Z) integers on the image's grid.
        classes_of: value of the label map -> classes of that voxel; 0 is background.
        annotated: classes that were drawn wherever they occur in this case.
        absent: classes that are known not to occur in this case.
        unknown: (X, Y, Z) bool, voxels of which nothing is known (outside an annotated box), or None.
        fixes: repairs of geometry, in words.
    """

    image: Volume
    label_map: np.ndarray
    classes_of: Mapping[int, Iterable[str]]
    annotated: ClassNames
    absent: ClassNames = ()
    unknown: np.ndarray | None = None
    fixes: tuple[str, ...] = ()


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
        return LoadedCase(image, label.data, self.label_table, self.annotated, self.absent)

    def class_sets(self, taxonomy: Taxonomy) -> set[frozenset[str]]:
        """Every set of classes that is known before reading to occur in a voxel; others may follow from the data."""
        return {complete(classes, self.annotated, taxonomy) for classes in self.label_table.values()}

    def settings(self) -> dict:
        """What changes the converted cases: an unfinished conversion goes on only when this is the same."""
        return {
            "label_table": {str(value): list(classes) for value, classes in self.label_table.items()},
            "annotated": list(self.annotated),
            "absent": list(self.absent),
        }


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
