"""Post-processing of a task's masks, chosen by the user per task and never by default."""

# Shapes: X Y Z voxels in the order of the file.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.imaging.components import keep_from_volume, keep_largest, keep_touching
from nnunetv2_clip.msd.tasks import MsdTask, find_task

RULES = ("keep_largest", "touching_organ", "min_ml")


@dataclass(frozen=True)
class PostProcessing:
    """The rules of one task, applied in this order.

    Attributes:
        keep_largest: classes of which only the largest 26-connected component stays (an organ together with its
            tumours).
        touching_organ: tumours whose components are dropped where they do not touch the organ.
        min_ml: class -> volume below which a component is dropped.
    """

    task: MsdTask
    keep_largest: tuple[str, ...] = ()
    touching_organ: tuple[str, ...] = ()
    min_ml: Mapping[str, float] = field(default_factory=dict)

    def apply(self, mask: np.ndarray, voxel_ml: float) -> np.ndarray:
        """A new mask of the task's values; what a rule takes from a tumour inside its organ becomes organ."""
        mask = mask.copy()
        for name in self.keep_largest:
            self._keep(mask, name, keep_largest)
        for name in self.touching_organ:
            organ = mask == self.task.classes[_organ(self.task, name)]
            self._keep(mask, name, lambda region, organ=organ: keep_touching(region, organ))
        for name, least in self.min_ml.items():
            self._keep(mask, name, lambda region, least=least: keep_from_volume(region, least, voxel_ml))
        return mask

    def _keep(self, mask: np.ndarray, name: str, rule: Callable[[np.ndarray], np.ndarray]) -> None:
        """Of a class with everything inside it only what the rule keeps; the rest becomes organ where it touches it."""
        inside = {name, *UNIVERSAL.descendants(name)} & set(self.task.classes)
        region = np.isin(mask, [self.task.classes[each] for each in inside])
        dropped = region & ~rule(region)
        mask[dropped] = 0
        if organ := _organ(self.task, name):
            value = self.task.classes[organ]
            mask[keep_touching(dropped, mask == value)] = value


def _organ(task: MsdTask, name: str) -> str | None:
    """The class of the task that holds this class."""
    return next((parent for parent in UNIVERSAL.ancestors(name) if parent in task.classes), None)


def read_rules(path: Path | None) -> dict[str, PostProcessing]:
    """Task folder -> rules, from a YAML table such as `Task03_Liver: {keep_largest: [liver]}`.

    Raises:
        UserError: the table cannot be read, or names an unknown task, class or rule, or an impossible volume.
    """
    import yaml

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(path, f"cannot be read as YAML ({error})", "a table of rules per task") from None
    if not isinstance(content, dict):
        raise UserError(path, "holds no table", "Task03_Liver: {keep_largest: [liver]}")
    return {
        find_task(str(name), path).folder: _parse(find_task(str(name), path), r, path) for name, r in content.items()
    }


def _parse(task: MsdTask, rules: object, path: Path) -> PostProcessing:
    where = f"{path}, {task.folder}"
    if task.modality != "CT":
        raise UserError(where, "is an MRI task", "a CT task; MRI masks are taken as they are")
    if not isinstance(rules, dict):
        raise UserError(where, f"holds {rules!r}", f"a table with the rules {', '.join(RULES)}")
    for rule in rules:
        if rule not in RULES:
            raise UserError(
                where, f"unknown rule {rule!r}.{suggestion(str(rule), RULES)}", f"one of {', '.join(RULES)}"
            )
    lists = {key: _names(task, rules.get(key) or [], where) for key in RULES[:2]}
    for name in lists["touching_organ"]:
        if _organ(task, name) is None:
            raise UserError(where, f"{name!r} has no organ in this task", "a tumour of Task03_Liver or Task07_Pancreas")
    volumes = rules.get("min_ml") or {}
    if not isinstance(volumes, dict) or not all(_is_volume(value) for value in volumes.values()):
        raise UserError(where, f"'min_ml' is {volumes!r}", "class: volume in ml, above 0")
    names = _names(task, list(volumes), where)
    return PostProcessing(task, **lists, min_ml=dict(zip(names, volumes.values(), strict=True)))


def _names(task: MsdTask, names: object, where: str) -> tuple[str, ...]:
    if not isinstance(names, list):
        raise UserError(where, f"holds {names!r}", "a list of classes")
    found = tuple(UNIVERSAL.find(str(name), where).name for name in names)
    foreign = [name for name in found if name not in task.classes]
    if foreign:
        raise UserError(where, f"{foreign} do not belong to the task", f"classes out of {list(task.classes)}")
    return found


def _is_volume(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
