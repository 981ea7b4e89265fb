"""The (case, class) pairs of a batch: logits and loss are computed of these alone."""

# Shapes: B cases, K classes, P pairs.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a case and a class, ascending by case. `pairs[rows]` are some of them (rows in main memory).

    Attributes:
        cases: (P,) long, rows of the batch.
        classes: (P,) long, channels of the output.
        weights: (P,) above 0, of each pair in the loss; None: 1 for all. All ranks give them, or none does.
        annotated: (P,) bool; None: all. Of the others the loss is known only where an annotated class rules them out
            (training/exclusion.py).
        known: (P, V) bool, the label values whose voxels are known for each pair; None: all (training/known_voxels.py).
        table: (P, 2) long, cases and classes in main memory; None: copied from the device where they are asked for.
    """

    cases: Tensor
    classes: Tensor
    weights: Tensor | None = None
    annotated: Tensor | None = None
    known: Tensor | None = None
    table: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor, device: torch.device | str = "cpu") -> Pairs:
        """From (P, 2) long in main memory: case, class."""
        return cls(*send(table, device).unbind(1), table=table)

    @cached_property
    def on_cpu(self) -> Tensor:
        """(P, 2) long: what depends on the values of pairs is decided here, so that nobody waits for the device."""
        return torch.stack((self.cases, self.classes), dim=1).cpu() if self.table is None else self.table

    def counts(self, num_cases: int) -> list[int]:
        """How many pairs each case has."""
        return torch.bincount(self.on_cpu[:, 0], minlength=num_cases).tolist()

    def pick(self, values: Tensor) -> Tensor:
        """(B, K, ...) in main memory -> (P, ...) on the device."""
        return send(values[self.on_cpu[:, 0], self.on_cpu[:, 1]], self.cases.device)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, rows: Tensor | slice) -> Pairs:
        there = send(rows, self.cases.device) if isinstance(rows, Tensor) else rows
        some = lambda column: None if column is None else column[there]  # noqa: E731
        weights, annotated, known = (some(column) for column in (self.weights, self.annotated, self.known))
        return Pairs(self.cases[there], self.classes[there], weights, annotated, known, self.on_cpu[rows])


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """From main memory to a device; the processor does not wait for it."""
    pinned = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
