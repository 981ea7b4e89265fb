"""Training curves as small inline drawings (SVG paths) of one fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json
from nnunetv2_clip.training.progress_picture import CURVES_FILE

WIDTH, HEIGHT = 160, 48  # user units of every small drawing
Series = Sequence[float | None] | np.ndarray


@dataclass(frozen=True)
class ClassCurve:
    """Pseudo Dice and training loss of one class over the epochs, and how many patches supervised it.

    Attributes:
        path: SVG path data in a WIDTH x HEIGHT box, Dice 0 at the bottom and 1 at the top.
        last: last measured pseudo Dice, None when it never could be measured.
        patches: supervised patches over the whole training.
        loss_path: SVG path data in the same box, loss 0 at the bottom and the highest of all classes at the top.
        last_loss: last known loss, None when there is none.
    """

    name: str
    path: str
    last: float | None
    patches: int
    loss_path: str = ""
    last_loss: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """What the page shows of a training."""

    folder: str
    epochs: int
    classes: tuple[ClassCurve, ...]
    train_loss_path: str
    val_loss_path: str
    loss_range: tuple[float, float]

    @property
    def most_patches(self) -> int:
        return max((curve.patches for curve in self.classes), default=0)


def read_training(fold_folder: Path) -> TrainingReport:
    """The curves of a fold folder.

    Raises:
        UserError: no training_curves.json, or one whose lists do not fit each other.
    """
    path = fold_folder / CURVES_FILE
    content = read_json(path, "give a fold folder (fold_0) of a training with CLIPUniversalTrainer")
    try:
        names = [str(name) for name in content["classes"]]
        dice, patches = content["dice"], content["supervised_patches"]
        loss = content.get("class_loss", [[None] * len(names)] * len(dice))  # trainings of older versions have none
        rows_fit = all(len(row) == len(names) for row in (*dice, *patches, *loss))
        train, val = list(content["train_loss"]), list(content["val_loss"])
        lengths = {len(dice), len(patches), len(loss), len(train), len(val)}
    except (KeyError, TypeError) as error:
        raise UserError(path, f"cannot be used ({error!r})", "the file that CLIPUniversalTrainer writes") from None
    if not rows_fit or len(lengths) > 1:
        raise UserError(path, "holds lists of different lengths", "one entry per epoch and class")
    dice, patches, loss = (np.array(rows, float).reshape(len(train), len(names)) for rows in (dice, patches, loss))
    low, high = _range([*train, *val])
    top_loss = _range([0.0, *loss.flat])[1]
    classes = tuple(
        ClassCurve(
            name, svg_path(own, 0, 1), _last(own), int(np.nansum(n)), svg_path(losses, 0, top_loss), _last(losses)
        )
        for name, own, n, losses in zip(names, dice.T, patches.T, loss.T, strict=True)
    )
    paths = svg_path(train, low, high), svg_path(val, low, high)
    return TrainingReport(str(fold_folder), len(dice), classes, *paths, (low, high))


def svg_path(series: Series, low: float, high: float) -> str:
    """SVG path data over the whole width; a gap where a value is not known, a dot where it stands alone."""
    values = np.array(series, float)
    x = np.arange(len(values)) * (WIDTH / max(len(values) - 1, 1))
    y = HEIGHT * (1 - (np.clip(values, low, high) - low) / (high - low))
    lines = []
    for run in np.ma.clump_unmasked(np.ma.masked_invalid(values)) if len(values) else ():
        points = "L".join(f"{right:.1f} {down:.1f}" for right, down in zip(x[run], y[run], strict=True))
        lines.append(f"M{points}" + ("h0" if run.stop - run.start == 1 else ""))
    return "".join(lines)


def _known(series: Series) -> np.ndarray:
    values = np.array(series, float)
    return values[np.isfinite(values)]


def _last(series: Series) -> float | None:
    """The last value that is known."""
    return next(iter(_known(series)[::-1].tolist()), None)


def _range(series: Series) -> tuple[float, float]:
    known = _known(series).tolist() or [0.0, 1.0]
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
