"""What a user asks of a trained model: which classes, with which rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.postprocessing import Rule, needed_classes, rules_of_plans
from nnunetv2_clip.trained_model import PLANS_JSON, TrainedModel


@dataclass(frozen=True)
class Wanted:
    """Classes are in the model's order, which is that of painting: an organ before what lies on it.

    Attributes:
        classes: whose masks are wanted.
        probabilities: classes whose probabilities are wanted as well.
        needed: all of these, and what their rules look at.
        rules: post-processing of `needed`; empty: none.
        never_learnt: classes that are left out, because no training case has shown them to the model.
    """

    classes: tuple[str, ...]
    probabilities: tuple[str, ...]
    needed: tuple[str, ...]
    rules: Mapping[str, Rule]
    never_learnt: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: TrainedModel,
        classes: Sequence[str] | str | None = None,
        probabilities: Sequence[str] | str = (),
        postprocess: bool = False,
    ) -> Wanted:
        """What is asked for, by names or aliases, looked up in the model's tables; no weights are read.

        Args:
            classes: None: all of the model.
            postprocess: apply the rules that the model has learned.

        Raises:
            UserError: nothing is asked for, an unknown class, or rules of a model that has none.
        """
        wanted = _names(model.classes if classes is None else classes, model)
        likely = _names(probabilities, model)
        if not wanted:
            raise UserError("classes", "no class is asked for", "at least one, or None for all")
        rules = _rules(model) if postprocess else {}
        needed = _in_order(needed_classes({*wanted, *likely}, rules), model)
        return cls(wanted, likely, needed, {name: rule for name, rule in rules.items() if name in needed})

    def learnt(self, learnt: Collection[str]) -> Wanted:
        """Without the classes that the model has never learnt.

        Raises:
            UserError: then there is no mask to make.
        """
        classes, likely = (tuple(n for n in names if n in learnt) for names in (self.classes, self.probabilities))
        found = replace(self, classes=classes, probabilities=likely, never_learnt=self._lacking(learnt))
        return found if classes else self.require(learnt)

    def require(self, learnt: Collection[str]) -> Self:
        """Itself. Raises UserError: the model has never learnt one of the classes."""
        if never := self._lacking(learnt):
            found = f"the model has never learnt {', '.join(never)}"
            raise UserError("classes", found, "classes of its training", "see 'nnunetv2_clip info', and ask for others")
        return self

    def _lacking(self, learnt: Collection[str]) -> tuple[str, ...]:
        asked = {*self.classes, *self.probabilities}.difference(learnt)
        return tuple(name for name in self.needed if name in asked)

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: rule.threshold for name, rule in self.rules.items()}


def _rules(model: TrainedModel) -> dict[str, Rule]:
    rules = rules_of_plans(model.plans, model.label(PLANS_JSON))
    if not rules:
        remedy = "run 'nnunetv2_clip learn-postprocessing', or predict without post-processing"
        raise UserError(model.where, "has no post-processing rules", "rules learned on the validation cases", remedy)
    return rules


def _names(given: Sequence[str] | str, model: TrainedModel) -> tuple[str, ...]:
    given = [given] if isinstance(given, str) else given
    names = [model.taxonomy.find(str(name), "classes").name for name in given]
    foreign = [name for name in names if name not in model.classes]
    if foreign:
        known = f"classes out of {', '.join(model.classes)}"
        raise UserError("classes", f"the model does not know {', '.join(foreign)}", known)
    return _in_order(names, model)


def _in_order(names: Collection[str], model: TrainedModel) -> tuple[str, ...]:
    return tuple(name for name in model.classes if name in names)
