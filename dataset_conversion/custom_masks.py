"""The user's own dataset with one mask file per class: the key `masks` of a custom table, instead of label values.

masks:
  liver: segmentations/{case}/liver.nii.gz
  left_lung: [segmentations/{case}/upper_lobe.nii.gz, segmentations/{case}/lower_lobe.nii.gz]   # all of them together
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.patterns import find_by_pattern
from nnunetv2_clip.conversion.source import ClassNames, LoadedCase, Source, SourceCase, complete
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import read_image, read_label_map, require_same_grid
from nnunetv2_clip.labels import ClassMap, occurring_values


@dataclass(frozen=True)
class CustomMaskSource(Source):
    """Images and masks found by pattern.

    Attributes:
        images: pattern below the root folder.
        masks: class -> patterns of its masks; every case has all of them.
    """

    images: str = ""
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def find_cases(self, root: Path) -> list[SourceCase]:
        if not root.is_dir():
            raise UserError(root, "is no folder", self.unpack, "correct 'root' in the table")
        images = find_by_pattern(root, self.images)
        if not images:
            raise UserError(root, f"no file fits images: {self.images!r}", "at least one .nii or .nii.gz file")
        files = {role: find_by_pattern(root, pattern) for role, pattern in self._patterns().items()}
        for role, found in files.items():
            missing = sorted(set(images) - set(found))
            if missing:
                raise UserError(
                    root,
                    f"case {missing[0]!r} has no mask {self._patterns()[role]!r}"
                    + (f", nor have {len(missing) - 1} others" if len(missing) > 1 else ""),
                    "every mask for every image (empty where the class does not occur)",
                    "correct the pattern, or convert these cases with a table of their own",
                )
        return [
            SourceCase(f"{self.name}_{key}", image, {role: files[role][key] for role in files})
            for key, image in images.items()
        ]

    def _patterns(self) -> dict[str, str]:
        """Role of a file -> its pattern."""
        return {f"{name}_{n}": text for name, each in self.masks.items() for n, text in enumerate(each, start=1)}

    def load_case(self, case: SourceCase) -> LoadedCase:
        image = read_image(case.image)
        labels = ClassMap.of_masks(image.data.shape, self._masks(case, image))
        return LoadedCase(image, labels, self.annotated, self.absent)

    def _masks(self, case: SourceCase, image) -> Iterator[tuple[np.ndarray, ClassNames]]:
        for role, path in case.labels.items():
            mask = read_label_map(path)
            require_same_grid(case.image, image.geometry, path, mask.geometry)
            values = occurring_values(mask.data)
            if len(values) > 2 or values[0] < 0:
                found = f"has the values {values[:5].tolist()}"
                raise UserError(path, found, "0 and one other", "use 'labels' and 'values' for label maps")
            yield mask.data > 0, (role.rpartition("_")[0],)

    def class_sets(self, taxonomy: Taxonomy) -> set[frozenset[str]]:
        return {complete((name,), self.annotated, taxonomy) for name in self.masks}

    def settings(self) -> dict:
        masks = {name: list(patterns) for name, patterns in self.masks.items()}
        return {**super().settings(), "images": self.images, "masks": masks}
