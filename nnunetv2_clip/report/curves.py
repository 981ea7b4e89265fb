"""Training curves as small inline drawings (SVG paths) of one fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json
from nnunetv2_clip.training.progress_picture import CURVES_FILE

WIDTH, HEIGHT = 160, 48  # user units of every small drawing
Series = Sequence[float | None]


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
    low, high = _range([*train, *val])
    top_loss = _range([0.0, *(value for row in loss for value in row)])[1]
    return TrainingReport(
        str(fold_folder),
        len(dice),
        tuple(_class_curve(name, k, dice, patches, loss, top_loss) for k, name in enumerate(names)),
        svg_path(train, low, high),
        svg_path(val, low, high),
        (low, high),
    )


def _class_curve(
    name: str,
    k: int,
    dice: Sequence[Series],
    patches: Sequence[Series],
    loss: Sequence[Series],
    top_loss: float,
) -> ClassCurve:
    of_class, losses = [row[k] for row in dice], [row[k] for row in loss]
    total = sum(int(row[k] or 0) for row in patches)
    return ClassCurve(
        name, svg_path(of_class, 0, 1), _last(of_class), total, svg_path(losses, 0, top_loss), _last(losses)
    )


def _last(series: Series) -> float | None:
    """The last value that is known."""
    return next((value for value in reversed(series) if _known(value)), None)


def svg_path(series: Series, low: float, high: float) -> str:
    """SVG path data over the whole width; a gap where a value is not known, a dot where it stands alone."""
    step = WIDTH / max(len(series) - 1, 1)
    commands: list[str] = []
    pen_down = False
    for position, value in enumerate(series):
        if not _known(value):
            pen_down = False
            continue
        x = position * step
        y = HEIGHT * (1 - (min(max(value, low), high) - low) / (high - low))
        alone = not pen_down and not _known(series[position + 1] if position + 1 < len(series) else None)
        commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + ("h0" if alone else ""))
        pen_down = True
    return "".join(commands)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _range(values: Series) -> tuple[float, float]:
    known = [value for value in values if _known(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
