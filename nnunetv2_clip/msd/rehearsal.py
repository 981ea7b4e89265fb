"""The scores to expect from the challenge: the training folds' predictions against the tasks' own labels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.overlap import overlaps
from nnunetv2_clip.evaluation.surface import surface_metrics
from nnunetv2_clip.evaluation.tolerances import TOLERANCE_MM
from nnunetv2_clip.evaluation.volumes import LabelVolume
from nnunetv2_clip.imaging.nifti import FILE_ENDING, Geometry
from nnunetv2_clip.labels import label_sets
from nnunetv2_clip.msd.masks import BadMask, check_values, open_image, read_integers, task_mask
from nnunetv2_clip.msd.post_processing import PostProcessing
from nnunetv2_clip.msd.tasks import CT_TASKS, MsdTask
from nnunetv2_clip.trained_model import validation_folders

CASE_PREFIX = "msd_"  # nnunetv2_clip convert names liver_0 of the Decathlon msd_liver_0


@dataclass(frozen=True)
class RehearsalCase:
    """A prediction of a training image and the task's label file."""

    task: MsdTask
    prediction: Path
    label: Path
    taxonomy: Taxonomy
    post: PostProcessing | None = None


@dataclass(frozen=True)
class Score:
    """One target of one case; NaN where both masks are empty."""

    folder: str
    target: str
    dice: float
    nsd: float


def targets(task: MsdTask) -> dict[str, tuple[int, ...]]:
    """Target -> label values: every label alone and, since the challenge may score either, organ with tumour."""
    found = {name: (value,) for name, value in task.classes.items()}
    for name, value in task.classes.items():
        inside = [task.classes[part] for part in UNIVERSAL.descendants(name) if part in task.classes]
        if inside:
            found[f"{name} with tumor"] = (value, *inside)
    return found


def find_rehearsal(
    folder: Path, msd_root: Path, taxonomy: Taxonomy, rules: Mapping[str, PostProcessing]
) -> list[RehearsalCase]:
    """The predictions of MSD training images in a model's validation folders, or in a folder of predictions.

    Raises:
        UserError: no prediction has a label file in the Decathlon's tasks.
    """
    paths = [path for place in validation_folders(folder) or [folder] for path in sorted(place.glob(f"*{FILE_ENDING}"))]
    labels = {
        path.name: (task, path)
        for task in CT_TASKS
        for path in (msd_root / task.folder / "labelsTr").glob(f"*{FILE_ENDING}")
        if not path.name.startswith(".")
    }
    cases = []
    for path in paths:
        task, label = labels.get(path.name.removeprefix(CASE_PREFIX), (None, None))
        if task is not None:
            cases.append(RehearsalCase(task, path, label, taxonomy, rules.get(task.folder)))
    if not cases:
        found = f"none of {len(paths)} predictions has a label file in {msd_root}/Task*/labelsTr"
        expected = "a model folder with fold_*/validation, or a folder of predictions of MSD training images"
        raise UserError(folder, found, expected, "train with msd_* sources, or predict their imagesTr")
    return cases


def rehearse_case(case: RehearsalCase) -> list[Score]:
    """Dice and NSD of every target of a case, as the challenge computes them (surface-distance's rules).

    Raises:
        UserError: a file is damaged, has another shape, or holds foreign values.
    """
    try:
        label, prediction = open_image(case.label), open_image(case.prediction)
        if prediction.shape != label.shape:  # not the position: convert repairs some headers, and moves no voxel
            raise BadMask(f"has shape {prediction.shape}; the label file has {label.shape}")
        mask = task_mask(prediction, case.task, case.taxonomy, case.post)
        truth = read_integers(label)
        check_values(truth, case.task.values)
    except BadMask as error:
        raise UserError(case.prediction, f"{error} (label file {case.label})") from None
    values, grid = targets(case.task), Geometry(truth.shape, label.affine)
    volumes = [LabelVolume(np.asarray(data, np.uint8), label_sets(values), grid) for data in (truth, mask)]
    dice = overlaps(*volumes, values)
    tolerance = max(TOLERANCE_MM[name] for name in case.task.classes)  # the same for all targets of a task
    return [
        Score(case.task.folder, name, dice[name].dice, surface_metrics(*volumes, name, tolerance)[0]) for name in values
    ]


def summarise(scores: Iterable[Score]) -> list[dict]:
    """Per task and target: number of cases, means over those where it is defined."""
    scores, rows = list(scores), []
    for folder, target in [(task.folder, target) for task in CT_TASKS for target in targets(task)]:
        own = [score for score in scores if (score.folder, score.target) == (folder, target)]
        if own:
            dice, nsd = _mean(score.dice for score in own), _mean(score.nsd for score in own)
            rows.append({"task": folder, "target": target, "n": len(own), "dice": dice, "nsd": nsd})
    return rows


def rehearsal_text(rows: Sequence[Mapping]) -> str:
    lines = [f"{'task':22} {'target':24} {'n':>4}  {'Dice':>6}  {'NSD':>6}"]
    for row in rows:
        dice, nsd = (f"{row[key]:.4f}" if row[key] is not None else "–" for key in ("dice", "nsd"))
        lines.append(f"{row['task']:22} {row['target']:24} {row['n']:4}  {dice:>6}  {nsd:>6}")
    return "\n".join(lines)


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
