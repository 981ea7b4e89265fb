"""The (case, class) pairs of a batch: logits and loss are computed of these alone."""

# Shapes: P pairs.

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a case and a class, ascending by case. `pairs[rows]` are some of them.

    Attributes:
        cases: (P,) long, rows of the batch.
        classes: (P,) long, channels of the output.
        weights: (P,) above 0, of each pair in the loss; None: 1 for all. All ranks give them, or none does.
        annotated: (P,) bool; None: all. Of the others the loss is known only where an annotated class rules them out
            (training/exclusion.py).
    """

    cases: Tensor
    classes: Tensor
    weights: Tensor | None = None
    annotated: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor) -> Pairs:
        """From (P, 2) long: case, class."""
        return cls(*table.unbind(1))

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, rows: Tensor | slice) -> Pairs:
        pick = lambda column: None if column is None else column[rows]  # noqa: E731
        return Pairs(self.cases[rows], self.classes[rows], pick(self.weights), pick(self.annotated))
