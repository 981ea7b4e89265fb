"""What a forced patch is placed at: one class of the case, drawn by weight; nnU-Net draws all classes alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Array

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.labels import Region

INNER_SHARE = 0.5  # of the forced patches of a case that shows such classes and others


@dataclass(frozen=True)
class ClassDraw:
    """The draw of one class of a case.

    q(k) = (1 - balance) / m + balance * g(k), where m is the number of classes that the case shows. g gives one half
    to the classes that lie in an organ and the other half to the rest, and within each half shares by weight; where
    only one of the two is there it gets all. balance = 0 is nnU-Net's draw.

    Attributes:
        weights: class -> weight above 0.
        inner: the classes that lie in an organ (`ClassRow.lies_in_organ`).
        balance: 0 to 1.
    """

    weights: Mapping[str, float]
    inner: frozenset[str]
    balance: float

    @classmethod
    def of(
        cls, classes: Sequence[Collection[str]], probabilities: np.ndarray, taxonomy: Taxonomy, balance: float
    ) -> ClassDraw:
        """The weight of a class is 1 / sqrt(e), where e is the chance that a drawn case draws this class at all.

        Args:
            classes: for each case those that its label map may show.
            probabilities: of the cases, see `case_probabilities`.
        """
        chance: Counter[str] = Counter()
        for names, probability in zip(classes, probabilities.tolist(), strict=True):
            chance.update(dict.fromkeys(names, probability))
        inner = frozenset(row.name for row in taxonomy if row.lies_in_organ)
        return cls({name: value**-0.5 for name, value in chance.items()}, inner, balance)

    def shares(self, names: Sequence[str]) -> np.ndarray:
        """(m,) probability of each class of a case that shows these; sum 1."""
        weights = np.array([self.weights[name] for name in names])
        is_inner = np.array([name in self.inner for name in names])
        share_of_inner = is_inner.all() + INNER_SHARE * (is_inner.any() and not is_inner.all())
        grouped = np.zeros(len(names))
        for group, share in ((is_inner, share_of_inner), (~is_inner, 1 - share_of_inner)):
            grouped[group] = share * weights[group] / weights[group].sum()
        return (1 - self.balance) / len(names) + self.balance * grouped


class PatchCounts:
    """How often each class was what a patch was placed at. The workers of nnU-Net count in memory that all share.

    They are some batches ahead of the training.
    """

    def __init__(self, num_classes: int):
        self._total = Array("q", num_classes)
        self._seen = np.zeros(num_classes, np.int64)

    def add(self, k: int) -> None:
        with self._total.get_lock():
            self._total[k] += 1

    def since_last(self) -> np.ndarray:
        """(K,) int64: the patches since this was last asked."""
        before, self._seen = self._seen, np.array(self._total.get_obj())
        return self._seen - before


class ForcedPatches:
    """nnU-Net's dataset of preprocessed cases, whose loader places forced patches as a `ClassDraw` says.

    Nothing in it is a function of its own: where worker processes are spawned they get it as a pickle.

    Args:
        dataset: of nnU-Net.
        regions: nnU-Net's key in `class_locations` -> class, in channel order.
        classes: case -> the classes that a patch of it may be placed at.
        draw: decides between those that the label map shows.
        counts: of the training.
    """

    def __init__(
        self,
        dataset,
        regions: Mapping[Region, str],
        classes: Mapping[str, Collection[str]],
        draw: ClassDraw,
        counts: PatchCounts | None = None,
    ):
        self.identifiers = dataset.identifiers
        self._dataset, self._regions, self._classes, self._draw, self._counts = dataset, regions, classes, draw, counts

    def load_case(self, identifier: str) -> tuple:
        """As nnU-Net's: image, label map, that of an earlier stage, properties."""
        *arrays, properties = self._dataset.load_case(identifier)
        locations = _Locations(properties["class_locations"], lambda found: self._drawn(identifier, found))
        return *arrays, {**properties, "class_locations": locations}

    def _drawn(self, identifier: str, locations: Mapping[Region, Sequence]) -> list[Region]:
        """The one key to choose from: that of the class drawn; where the case shows none what is no class of ours."""
        names = {self._regions[key]: key for key in locations if key in self._regions and len(locations[key])}
        names = {name: key for name, key in names.items() if name in self._classes[identifier]}
        if not names:
            return [key for key in locations if key not in self._regions]
        name = str(np.random.choice(list(names), p=self._draw.shares(list(names))))
        if self._counts:
            self._counts.add(list(self._regions.values()).index(name))
        return [names[name]]


class _Locations(dict):
    """nnU-Net's `class_locations`. Its loader asks for the keys where a patch is forced, and there alone."""

    def __init__(self, locations: Mapping[Region, Sequence], draw: Callable[[Mapping], list[Region]]):
        super().__init__(locations)
        self._draw = draw

    def keys(self):  # pyright: ignore[reportIncompatibleMethodOverride] nnU-Net goes through them once
        return self._draw(self)
