"""nnU-Net's summary.json with metrics only where the reference knows the class."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.cases import CaseJob, case_overlaps
from nnunetv2_clip.evaluation.volumes import PaintedCoding, coding_of
from nnunetv2_clip.files import replacing
from nnunetv2_clip.labels import class_names, region_values
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.runner import require_all, run_cases

# nnU-Net's name -> ours, of `Overlap`.
METRICS = {
    **{"Dice": "dice", "IoU": "iou", "n_pred": "num_predicted", "n_ref": "num_reference"},
    **{"TP": "true_positive", "FP": "false_positive", "FN": "false_negative", "TN": "true_negative"},
}
Region = int | tuple[int, ...]


def masked_summary(
    folder_ref: Path | str,
    folder_pred: Path | str,
    dataset_json: dict,
    manifest: Manifest,
    output_file: Path | str | None,
    num_processes: int,
) -> dict:
    """What nnU-Net's `compute_metrics_on_folder` gives, for partly labelled references and painted predictions.

    Differences from nnU-Net's own summary:
    - A (case, class) pair that the manifest does not know (neither annotated nor absent) is NaN in every metric,
      and means go over the other pairs only. A class without any pair has the mean NaN and is left out of
      `foreground_mean`.
    - Predictions are unpainted first (`painting.unpaint`): nnU-Net itself compares a region's label values with
      the painted universal indices, which are other numbers.
    - `cases_per_class` (region -> number of pairs) and `class_names` (region -> name) stand beside `mean`.

    Args:
        folder_ref: label files in the label values of `dataset_json` (labelsTr, gt_segmentations).
        folder_pred: painted predictions; its files decide which cases are scored.
        output_file: summary.json to write, None for none. nnU-Net's `load_summary_json` reads it.

    Returns:
        nnU-Net's dictionary: `metric_per_case`, `mean`, `foreground_mean`; regions as keys, not texts.

    Raises:
        UserError: no predictions, or a prediction without reference or manifest entry.
        CasesFailed: naming every case that cannot be scored (different grids, a bad file).
    """
    names = class_names(dataset_json["labels"])
    codings = [coding_of(dataset_json, manifest.taxonomy, "dataset.json", painted) for painted in (False, True)]
    painted = isinstance(codings[1], PaintedCoding)
    values = {name: region_values(dataset_json["labels"][name]) for name in names}
    regions: dict[str, Region] = {name: values[name] if painted else values[name][0] for name in names}
    jobs = [
        CaseJob(case_id, reference, prediction, *codings, names)
        for case_id, reference, prediction in _pairs(Path(folder_ref), Path(folder_pred), dataset_json["file_ending"])
    ]
    presence = manifest.presence([job.case_id for job in jobs], names)
    title = "Validation metrics"
    scored = require_all(run_cases(case_overlaps, jobs, title, num_processes), title)
    per_case = [
        {
            "reference_file": str(job.reference),
            "prediction_file": str(job.prediction),
            "metrics": {
                regions[name]: {
                    metric: getattr(found[name], ours) if known else float("nan") for metric, ours in METRICS.items()
                }
                for name, known in zip(names, row, strict=True)
            },
        }
        for job, row, found in zip(jobs, presence, scored, strict=True)
    ]
    means = {
        region: {metric: _mean(case["metrics"][region][metric] for case in per_case) for metric in METRICS}
        for region in regions.values()
    }
    result = {
        "metric_per_case": per_case,
        "mean": means,
        "foreground_mean": {metric: _mean(mean[metric] for mean in means.values()) for metric in METRICS},
        "cases_per_class": {str(regions[name]): int(presence[:, k].sum()) for k, name in enumerate(names)},
        "class_names": {str(region): name for name, region in regions.items()},
    }
    if output_file is not None:
        save_summary(result, Path(output_file))
    return result


def _pairs(folder_ref: Path, folder_pred: Path, ending: str) -> list[tuple[str, Path, Path]]:
    """(case, reference, prediction) of every prediction."""
    predictions = sorted(path for path in folder_pred.glob(f"*{ending}") if not path.name.startswith("."))
    if not predictions:
        raise UserError(folder_pred, f"has no file *{ending}", "predictions of nnU-Net")
    pairs = []
    for prediction in predictions:
        reference = folder_ref / prediction.name
        if not reference.is_file():
            raise UserError(prediction, f"has no reference {reference}", "a reference of the same name")
        pairs.append((prediction.name[: -len(ending)], reference, prediction))
    return pairs


def _mean(values: Iterable[float]) -> float:
    """The mean of what is not NaN; NaN (without a warning) when nothing is left."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def save_summary(result: dict, output_file: Path) -> None:
    """A file that nnU-Net's `load_summary_json` reads, whole or not there."""
    from nnunetv2.evaluation.evaluate_predictions import save_summary_json

    with replacing(output_file) as beside:
        save_summary_json(result, str(beside))
