"""progress_classes.png: what each trained class has learnt so far, beside nnU-Net's progress.png."""

# Shapes: E epochs, K classes.

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_clip.files import replacing

CURVES_FILE, PICTURE_FILE = "training_curves.json", "progress_classes.png"  # in the fold's folder
# Of the training log: voxels predicted (sum of probabilities) over voxels annotated, in the patches of an epoch that
# hold the class; NaN without any. Cross entropy keeps it near 1 for a class that is hard or only begun.
PREDICTED = "predicted_share"
DEAD = 0.01  # below this share the channel of a class is empty
COLUMNS = 4


def dead_classes(curves: Mapping) -> list[str]:
    """The classes that were dead in the last epoch that held them, from the content of training_curves.json."""
    rows = np.array(curves.get(PREDICTED, ()), dtype=float).reshape(-1, len(curves["classes"]))
    last = [column[np.isfinite(column)][-1:] for column in rows.T]
    return [name for name, share in zip(curves["classes"], last, strict=True) if (share < DEAD).any()]


def draw_progress(
    path: Path | str,
    classes: Sequence[str],
    trained: np.ndarray,
    dice: np.ndarray,
    loss: np.ndarray,
    patches: np.ndarray,
    dead: np.ndarray,
) -> None:
    """One small panel for each trained class: pseudo Dice and loss (lines), supervised patches so far (area).

    Args:
        path: of the picture.
        classes: (K,) names.
        trained: (K,) bool; the others get no panel.
        dice: (E, K), NaN where a class could not be measured.
        loss: (E, K) mean training loss, NaN where nothing supervised a class. Its scale is that of all classes.
        patches: (E, K) supervised patches of each epoch; an area up to the most of all classes.
        dead: (K,) bool, the channel of the class is empty where it should not be.
    """
    from matplotlib.figure import Figure

    shown = np.flatnonzero(trained).tolist()
    total = np.cumsum(patches, axis=0)
    share = total / max(total.max(), 1)
    top_loss = max(np.nanmax(loss[:, shown], initial=0), 1e-3)
    epochs = np.arange(1, len(dice) + 1)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.1 * rows + 0.5), layout="constrained")
    figure.suptitle(
        "By epoch: pseudo Dice (blue, left), training loss (orange, right), "
        f"supervised patches so far (grey area, full height {int(total.max())})",
        fontsize=10,
        wrap=True,
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for panel, k in zip(panels, shown, strict=False):
        marker = "." if len(dice) < 20 else None
        panel.fill_between(epochs, share[:, k], color="0.87", linewidth=0)
        panel.plot(epochs, dice[:, k], color="tab:blue", marker=marker)
        panel.set_ylim(0, 1)
        panel.tick_params(labelsize=7, labelbottom=True)
        losses = panel.twinx()
        losses.plot(epochs, loss[:, k], color="tab:orange", linewidth=1, marker=marker, markersize=3)
        losses.set_ylim(0, 1.05 * top_loss)
        losses.tick_params(labelsize=7, colors="tab:orange")
        last = f"{dice[-1, k]:.2f}" if np.isfinite(dice[-1, k]) else "not measurable"
        title = f"{classes[k]}: {last}, {int(total[-1, k])} patches" + (", DEAD" if dead[k] else "")
        panel.set_title(title, fontsize=8, color="tab:red" if dead[k] else "black")
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")
