"""What a model says about one image: masks by class name, and what can be made of them."""

# Shapes: X Y Z voxels in the image's own axis order. Affines: 4 x 4, voxel index -> RAS+ position in mm.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip.choices import OUTPUTS
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_record
from nnunetv2_clip.inference.dicom_seg import Algorithm, require_referable
from nnunetv2_clip.inference.folder import RECORD
from nnunetv2_clip.inference.inputs import InputImage
from nnunetv2_clip.inference.loading import model_tables, write_tables_beside
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.outputs import (
    STATISTICS,
    Outputs,
    collect_statistics,
    image_like,
    paint_masks,
    statistics,
    write_outputs,
)
from nnunetv2_clip.inference.streaming import PROBABILITY_STEPS
from nnunetv2_clip.msd.tasks import predictable_tasks
from nnunetv2_clip.trained_model import TrainedModel

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

Steps = Mapping[str, np.ndarray]


class Segmentation(Mapping[str, np.ndarray]):
    """Class name -> (X, Y, Z) bool, on the grid and in the axis order of the image that was given.

    X, Y, Z is the order of the affine's columns: that of nibabel's arrays, of SimpleITK's `GetSize()` and
    `image[x, y, z]`, and the reverse of `SimpleITK.GetArrayFromImage(image)`. Masks of different classes may overlap.
    They are kept as bits: an array is made whenever it is asked for.

    Attributes:
        affine: voxel index -> RAS+ position in mm.
        warnings: what looks wrong in the image or in its masks.
        notes: what was left out beside the image, for instance other files in a DICOM folder.
    """

    def __init__(
        self,
        image: InputImage,
        masks: Mapping[str, Mask],
        model: TrainedModel,
        kept: Steps,
        find_probabilities: Callable[[Sequence[str]], Steps],
        find_algorithm: Callable[[], Algorithm],
        warnings: tuple[str, ...],
    ):
        """
        Args:
            masks: in painting order.
            kept: class -> (X, Y, Z) uint16 probability in steps of 1/65535.
            find_probabilities: makes them for other classes of the model.
            find_algorithm: what has drawn the masks.
        """
        self._image, self._masks, self._model = image, masks, model
        self._kept, self._find_probabilities, self._find_algorithm = dict(kept), find_probabilities, find_algorithm
        self.affine, self.warnings, self.notes = image.volume.affine, warnings, image.notes

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._masks:
            raise KeyError(f"{name!r} was not predicted.{suggestion(str(name), self._masks)}")
        return self._masks[name].full(bool)

    def __contains__(self, name: object) -> bool:
        return name in self._masks

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.ct.shape))
        return f"<{type(self).__name__} of {self._image.where}: {len(self)} classes, {shape} voxels>"

    @property
    def ct(self) -> np.ndarray:
        """(X, Y, Z) Hounsfield units, as they were read: to show masks on, above all those of a DICOM series."""
        return self._image.volume.data

    @property
    def label_values(self) -> dict[str, int]:
        """Class -> its value in the label map: the universal index, one for all models of these classes."""
        return {row.name: row.index for row in self._model.taxonomy.subset(self._masks)}

    @cached_property
    def label_map(self) -> np.ndarray:
        """(X, Y, Z) uint8 or uint16, one value per voxel, sub-structures on top of their organ."""
        return paint_masks(self._masks, self._model.taxonomy.subset(self._masks))

    def as_image(self, name: str | None = None) -> nibabel.Nifti1Image | SimpleITK.Image:
        """A mask (0 and 1), or the label map, as an image of the kind that was given, with its geometry.

        For a SimpleITK image a SimpleITK image, else one of nibabel.
        """
        return image_like(self.label_map if name is None else self[name].astype(np.uint8), self._image)

    def probabilities(self, names: Sequence[str] | str) -> dict[str, np.ndarray]:
        """Class -> (X, Y, Z) float32, 0 to 1 in steps of 1/65535.

        Those for which `predict(..., probabilities=...)` was asked are there; others take one more run of the network.

        Raises:
            UserError: an unknown class, or one that the model has never learnt.
        """
        return {name: steps.astype(np.float32) / PROBABILITY_STEPS for name, steps in self._steps(names).items()}

    def statistics(self) -> list[dict]:
        """One row per class: `case`, `class`, `volume_ml`, `voxels`, `mean_hu`, `box` (first and last voxel of each
        axis; None for an empty mask), `at_border` (the class reaches the border: the volume is that of a part)."""
        return [statistics(self._image.name, name, mask, self._image) for name, mask in self._masks.items()]

    def save(
        self,
        folder: Path | str,
        outputs: Sequence[str] | str = "labels",
        probabilities: Sequence[str] | str = (),
        name: str | None = None,
    ) -> list[Path]:
        """Write the files of `nnunetv2_clip predict --outputs ...`; each is whole or not there.

        Args:
            folder: several results of one model and the same classes may share it. What it holds of this name is
                replaced.
            outputs: kinds, as after `--outputs`.
            probabilities: classes, as after `--probabilities`.
            name: of the case, which begins the names of the files; None: that of the image's file or folder, else
                "image".

        Returns:
            The files of this case.

        Raises:
            UserError: an unknown kind; `dicom_seg` of what is no DICOM series; or a folder that belongs to
                `nnunetv2_clip predict`, to other classes or another model, or holds the image under a name that would
                be replaced.
        """
        kinds = _kinds(outputs)
        steps = self._steps(probabilities)
        tasks = predictable_tasks(self._masks) if "msd" in kinds else {}
        files = Outputs(Path(folder), kinds, tuple(self), tuple(steps), self._model.taxonomy, tasks)
        if "dicom_seg" in kinds:
            require_referable(self._image.where, self._image.source)
            files = replace(files, algorithm=self._find_algorithm())
        case = self._image.name if name is None else name
        self._require_harmless(files, case)
        write_tables_beside(self._model, files)
        write_outputs(files, case, self._image, self._masks, steps)
        if "statistics" in kinds:
            collect_statistics(files, [path.stem for path in (files.folder / STATISTICS).glob("*.json")])
        return files.files(case)

    def _steps(self, names: Sequence[str] | str) -> dict[str, np.ndarray]:
        given = [names] if isinstance(names, str) else names
        found = [self._model.taxonomy.find(str(name), "probabilities").name for name in given]
        if missing := [name for name in found if name not in self._kept]:
            self._kept |= self._find_probabilities(missing)
        return {name: self._kept[name] for name in found}

    def _require_harmless(self, files: Outputs, case: str) -> None:
        """Raises UserError: something that is not ours to replace would be replaced."""
        folder, remedy = files.folder, "choose another folder"
        if case in ("", ".", "..") or Path(case).name != case:
            raise UserError("name", f"is {case!r}", "the beginning of a file name, without folders")
        if folder.is_file():
            raise UserError(folder, "is a file", "a folder", remedy)
        if list(folder.glob(f"{RECORD}*.json")):
            raise UserError(folder, "belongs to 'nnunetv2_clip predict'", "a folder of its own", remedy)
        for table, content in model_tables(self._model, tuple(self)).items():
            if (folder / table).exists() and read_record(folder / table) != content:
                found = f"holds a {table} of something else"
                raise UserError(folder, found, "results of the same model and classes", remedy)
        given = self._image.path
        if given and given.resolve() in [path.resolve() for path in files.files(case)]:
            raise UserError(folder, f"holds the image {given}, which would be replaced", "another folder or name")


def _kinds(outputs: Sequence[str] | str) -> tuple[str, ...]:
    kinds = (outputs,) if isinstance(outputs, str) else tuple(map(str, outputs))
    for kind in kinds:
        if kind not in OUTPUTS:
            raise UserError("outputs", f"unknown kind {kind!r}.{suggestion(kind, OUTPUTS)}", f"some of {OUTPUTS}")
    return kinds
