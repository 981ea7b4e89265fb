"""What each class has got from the training: patches and loss, counted step by step; printed, written, drawn."""

# Shapes: E epochs, K classes, P annotated (case, class) pairs of a step.

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from nnunetv2_clip.files import write_json
from nnunetv2_clip.losses.masked import Losses, sums_of_classes, world_size
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.forced_patches import PatchCounts
from nnunetv2_clip.training.progress_picture import CURVES_FILE, DEAD, PICTURE_FILE, PREDICTED, draw_progress

# Keys of nnU-Net's logger: a list of (K,) values for each epoch.
SUPERVISED = "supervised_patches"
FORCED = "forced_patches"  # that were placed at the class
CLASS_LOSS = "class_loss"  # mean over the training pairs of an epoch, NaN without any
DICE = "dice_per_class_or_region"  # nnU-Net's own: the pseudo Dice


class ClassCounts:
    """Counts of the epoch that runs; they stay on the device until it ends, those of the workers in main memory."""

    def __init__(self, num_classes: int, device: torch.device):
        # Sum of the losses, number of pairs; where the class is present: voxels predicted, voxels annotated.
        self._sums = torch.zeros(4, num_classes, device=device)
        self.forced = PatchCounts(num_classes)

    def add(self, pairs: Pairs, losses: Losses) -> None:
        """One step."""
        one = torch.ones_like(losses.per_pair)
        predicted = losses.probability * (losses.target > 0)
        values = torch.stack((losses.per_pair, one, predicted, losses.target))
        known = torch.where(losses.is_known, values, 0).to(self._sums.dtype)
        self._sums += sums_of_classes(known, pairs.classes, self._sums.shape[1])

    @property
    def supervised(self) -> np.ndarray:
        """(K,) the pairs so far."""
        return self._sums[1].cpu().numpy().astype(np.int64)

    def end_epoch(self) -> dict[str, list]:
        """(K,) values of all ranks, as the logger wants them. Begins to count anew."""
        forced = torch.from_numpy(self.forced.since_last()).to(self._sums)
        sums = torch.cat((self._sums, forced[None]))
        if world_size() > 1:
            dist.all_reduce(sums)
        losses, pairs, predicted, annotated, placed = sums.cpu().numpy().astype(float)
        self._sums.zero_()
        return {
            SUPERVISED: pairs.astype(np.int64).tolist(),
            FORCED: placed.astype(np.int64).tolist(),
            CLASS_LOSS: _ratio(losses, pairs).tolist(),
            PREDICTED: _ratio(predicted, annotated).tolist(),
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN for a part of nothing."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def fill_up(log: dict[str, list], num_classes: int, num_epochs: int) -> None:
    """Fill in what a checkpoint of another trainer or an older version has not logged."""
    for key in (SUPERVISED, FORCED):
        log.setdefault(key, [[0] * num_classes] * num_epochs)
    for key in (CLASS_LOSS, PREDICTED):
        log.setdefault(key, [[float("nan")] * num_classes] * num_epochs)


def lines(log: dict[str, list], classes: Sequence[str], trained: np.ndarray, known: Sequence[str]) -> Iterator[str]:
    """The last epoch as text: a line for each trained class, with a warning if it was never supervised, or is dead.

    Args:
        trained: (K,) bool.
        known: classes that the model knew before this training: they need no patch.
    """
    dice, loss = log[DICE][-1], log[CLASS_LOSS][-1]
    supervised, forced = (np.sum(log[key], axis=0).astype(int) for key in (SUPERVISED, FORCED))
    yield (
        "class: pseudo Dice (nan: not measurable), training loss (nan: no patch), supervised patches so far, "
        "patches placed at it so far"
    )
    for k in np.flatnonzero(trained).tolist():
        warning = "  WARNING: not once yet" if supervised[k] == 0 and classes[k] not in known else ""
        if log[PREDICTED][-1][k] < DEAD:
            warning = "  WARNING: dead: nothing is predicted in patches that hold the class"
        yield f"  {classes[k]:26s} {dice[k]:6.3f} {loss[k]:7.3f} {supervised[k]:8d} {forced[k]:8d}{warning}"


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
            FORCED: log[FORCED],
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
