"""Rules that repair masks by anatomy. They are data of the model, learned on its validation cases; none is built in."""

# Shapes: X Y Z voxels in the axis order of the input file.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, StrictFloat, StrictInt

from nnunetv2_clip.imaging.boxes import size_of
from nnunetv2_clip.imaging.components import keep_largest, keep_touching
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.tables import Names, Row, checked
from nnunetv2_clip.trained_model import PLANS_KEY, RULES_ENTRY

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Rule(Row):
    """What is done to the mask of one class, in this order.

    Attributes:
        threshold: probability above which a voxel belongs to the class.
        largest_components: keep only so many of the largest 26-connected components; None keeps all.
        touches: keep only components that share or touch (26-neighbourhood) a voxel of one of these classes;
            empty keeps all.
    """

    threshold: Annotated[StrictFloat, Field(gt=0, lt=1)] = DEFAULT_THRESHOLD
    largest_components: Annotated[StrictInt, Field(ge=1)] | None = None
    touches: Names = ()

    def to_json(self) -> dict:
        """Only what differs from doing nothing."""
        return {key: value for key, value in asdict(self).items() if value != getattr(NOTHING, key)}


NOTHING = Rule()


def rules_of_plans(plans: Mapping, where: object) -> dict[str, Rule]:
    """Class -> rule, as `nnunetv2_clip learn-postprocessing` has written them; empty if it never ran.

    Raises:
        UserError: the entry is damaged.
    """
    entry = (plans.get(PLANS_KEY) or {}).get(RULES_ENTRY) or {}
    rules = entry.get("rules", {}) if isinstance(entry, Mapping) else entry
    remedy = "run 'nnunetv2_clip learn-postprocessing' again"
    return checked(dict[str, Rule], rules, f"{where}, post-processing rules", remedy)


def needed_classes(names: Iterable[str], rules: Mapping[str, Rule]) -> set[str]:
    """`names` and every class that their rules look at."""
    names = set(names)
    return names.union(*(rules[name].touches for name in names if name in rules))


def postprocess(masks: Mapping[str, Mask], rules: Mapping[str, Rule]) -> dict[str, Mask]:
    """All masks with their rules applied (thresholds were applied when the masks were made).

    Every rule sees the other classes as they were predicted, as it did when it was learned.
    """
    result = {}
    for name, mask in masks.items():
        rule = rules.get(name, NOTHING)
        result[name] = apply_rule(mask, rule, [masks[organ] for organ in rule.touches if organ in masks])
    return result


def apply_rule(mask: Mask, rule: Rule, organs: Iterable[Mask] = ()) -> Mask:
    """One mask, given the masks of the classes that it must touch."""
    if mask and rule.largest_components is not None:
        mask = Mask.of(mask.shape, mask.box, keep_largest(mask.voxels(), rule.largest_components))
    if mask and rule.touches:
        mask = _touching(mask, organs)
    return mask


def _touching(mask: Mask, organs: Iterable[Mask]) -> Mask:
    box = tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, size)) for part, size in zip(mask.box, mask.shape, strict=True)
    )
    organ = np.zeros(size_of(box), bool)
    for one in organs:
        organ |= one.within(box)
    return Mask.of(mask.shape, box, keep_touching(mask.within(box), organ))
