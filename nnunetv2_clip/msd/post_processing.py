"""Post-processing of a task's masks, chosen by the user per task and never by default."""

# Shapes: X Y Z voxels in the order of the file.

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from nnunetv2_clip.classes import UNIVERSAL, ClassNames, PerClass
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.components import keep_from_volume, keep_largest, keep_touching
from nnunetv2_clip.msd.tasks import MsdTask, find_task
from nnunetv2_clip.tables import Finite, Row, checked, read_yaml

_Volumes = PerClass[Annotated[Finite, Field(gt=0)]]


@dataclass(frozen=True)
class PostProcessing(Row):
    """The rules of one task, applied in this order.

    Attributes:
        keep_largest: classes of which only the largest 26-connected component stays (an organ together with its
            tumours).
        touching_organ: tumours whose components are dropped where they do not touch the organ.
        min_ml: class -> volume below which a component is dropped.
    """

    keep_largest: ClassNames = ()
    touching_organ: ClassNames = ()
    min_ml: Annotated[_Volumes, Field(description="for each class a volume in ml, above 0")] = field(
        default_factory=dict
    )

    def apply(self, mask: np.ndarray, task: MsdTask, voxel_ml: float) -> np.ndarray:
        """A new mask of the task's values; what a rule takes from a tumour inside its organ becomes organ."""
        mask = mask.copy()
        for name in self.keep_largest:
            _keep(mask, task, name, keep_largest)
        for name in self.touching_organ:
            organ = mask == task.classes[_organ(task, name)]
            _keep(mask, task, name, lambda region, organ=organ: keep_touching(region, organ))
        for name, least in self.min_ml.items():
            _keep(mask, task, name, lambda region, least=least: keep_from_volume(region, least, voxel_ml))
        return mask


def _keep(mask: np.ndarray, task: MsdTask, name: str, rule: Callable[[np.ndarray], np.ndarray]) -> None:
    """Of a class with everything inside it only what the rule keeps; the rest becomes organ where it touches it."""
    inside = {name, *UNIVERSAL.descendants(name)} & set(task.classes)
    region = np.isin(mask, [task.classes[each] for each in inside])
    dropped = region & ~rule(region)
    mask[dropped] = 0
    if organ := _organ(task, name):
        value = task.classes[organ]
        mask[keep_touching(dropped, mask == value)] = value


def _organ(task: MsdTask, name: str) -> str | None:
    """The class of the task that holds this class."""
    return next((parent for parent in UNIVERSAL.ancestors(name) if parent in task.classes), None)


def read_rules(path: Path | None) -> dict[str, PostProcessing]:
    """Task folder -> rules, from a YAML table such as `Task03_Liver: {keep_largest: [liver]}`.

    Raises:
        UserError: the table cannot be read, or names an unknown task, class or rule, or an impossible volume.
    """
    if path is None:
        return {}
    content = checked(dict[str, PostProcessing], read_yaml(path, "a table of rules per task"), path, context=UNIVERSAL)
    found = {}
    for name, rules in content.items():
        task = find_task(name, path)
        _check(task, rules, f"{path}, {task.folder}")
        found[task.folder] = rules
    return found


def _check(task: MsdTask, rules: PostProcessing, where: str) -> None:
    """Raises UserError: the rules are not for this task."""
    if task.modality != "CT":
        raise UserError(where, "is an MRI task", "a CT task; MRI masks are taken as they are")
    foreign = sorted({*rules.keep_largest, *rules.touching_organ, *rules.min_ml} - set(task.classes))
    if foreign:
        raise UserError(where, f"{foreign} do not belong to the task", f"classes out of {list(task.classes)}")
    for name in rules.touching_organ:
        if _organ(task, name) is None:
            raise UserError(where, f"{name!r} has no organ in this task", "a tumour of Task03_Liver or Task07_Pancreas")
