"""What each class has got from the training: patches and loss, counted step by step; printed, written, drawn."""

# Shapes: E epochs, K classes, P annotated (case, class) pairs of a step.

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from nnunetv2_clip.files import write_json
from nnunetv2_clip.losses.masked import Losses, world_size
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.progress_picture import CURVES_FILE, DEAD, PICTURE_FILE, PREDICTED, draw_progress

# Keys of nnU-Net's logger: a list of (K,) values for each epoch.
SUPERVISED = "supervised_patches"
CLASS_LOSS = "class_loss"  # mean over the training pairs of an epoch, NaN without any
DICE = "dice_per_class_or_region"  # nnU-Net's own: the pseudo Dice


class ClassCounts:
    """Counts of the epoch that runs; they stay on the device until it ends."""

    def __init__(self, num_classes: int, device: torch.device):
        self.supervised = np.zeros(num_classes, dtype=np.int64)
        # Sum of the losses, number of pairs; where the class is present: voxels predicted, voxels annotated.
        self._sums = torch.zeros(4, num_classes, device=device)

    def add(self, pairs: Pairs, losses: Losses) -> None:
        """One step."""
        classes = pairs.classes[losses.is_known]
        self.supervised += np.bincount(classes.cpu().numpy(), minlength=len(self.supervised))
        known = torch.stack((losses.per_pair, torch.ones_like(losses.per_pair), losses.probability, losses.target))
        known[2] *= losses.target > 0
        self._sums.index_add_(1, classes, known[:, losses.is_known].to(self._sums.dtype))

    def end_epoch(self) -> dict[str, list]:
        """(K,) values of all ranks, as the logger wants them. Begins to count anew."""
        supervised, sums = self.supervised, self._sums
        if world_size() > 1:
            everywhere: list = [None] * world_size()
            dist.all_gather_object(everywhere, supervised)
            supervised = np.sum(everywhere, axis=0)
            dist.all_reduce(sums)
        losses, pairs, predicted, annotated = sums.cpu().numpy().astype(float)
        self.supervised = np.zeros_like(self.supervised)
        self._sums.zero_()
        return {
            SUPERVISED: supervised.tolist(),
            CLASS_LOSS: _ratio(losses, pairs).tolist(),
            PREDICTED: _ratio(predicted, annotated).tolist(),
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN for a part of nothing."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def fill_up(log: dict[str, list], num_classes: int, num_epochs: int) -> None:
    """Fill in what a checkpoint of another trainer or an older version has not logged."""
    log.setdefault(SUPERVISED, [[0] * num_classes] * num_epochs)
    for key in (CLASS_LOSS, PREDICTED):
        log.setdefault(key, [[float("nan")] * num_classes] * num_epochs)


def lines(log: dict[str, list], classes: Sequence[str], trained: np.ndarray, known: Sequence[str]) -> Iterator[str]:
    """The last epoch as text: a line for each trained class, with a warning if it was never supervised, or is dead.

    Args:
        trained: (K,) bool.
        known: classes that the model knew before this training: they need no patch.
    """
    dice, loss = log[DICE][-1], log[CLASS_LOSS][-1]
    supervised = np.sum(log[SUPERVISED], axis=0)
    yield "class: pseudo Dice (nan: not measurable), training loss (nan: no patch), supervised patches so far"
    for k in np.flatnonzero(trained).tolist():
        warning = "  WARNING: not once yet" if supervised[k] == 0 and classes[k] not in known else ""
        if log[PREDICTED][-1][k] < DEAD:
            warning = "  WARNING: dead: nothing is predicted in patches that hold the class"
        yield f"  {classes[k]:26s} {dice[k]:6.3f} {loss[k]:7.3f} {int(supervised[k]):8d}{warning}"


def write(folder: Path | str, log: dict[str, list], classes: Sequence[str], trained: np.ndarray, epochs: int) -> None:
    """training_curves.json, which the report draws, and progress_classes.png, in the fold's folder."""
    write_json(
        Path(folder) / CURVES_FILE,
        {
            "epochs": epochs,
            "classes": list(classes),
            "dice": _as_json(log[DICE]),
            CLASS_LOSS: _as_json(log[CLASS_LOSS]),
            SUPERVISED: log[SUPERVISED],
            PREDICTED: _as_json(log[PREDICTED]),
            "train_loss": _as_json([log["train_losses"]])[0],
            "val_loss": _as_json([log["val_losses"]])[0],
        },
    )
    dice, loss, predicted = (np.array(log[key], dtype=float) for key in (DICE, CLASS_LOSS, PREDICTED))
    dead = predicted[-1] < DEAD
    draw_progress(Path(folder) / PICTURE_FILE, classes, trained, dice, loss, np.array(log[SUPERVISED]), dead)


def _as_json(rows: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """NaN is no JSON."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in rows]
