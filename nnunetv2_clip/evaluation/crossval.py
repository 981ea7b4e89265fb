"""Cross-validation: the validation predictions of all folds as one evaluation, and the spread between folds."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.folders import Side
from nnunetv2_clip.evaluation.results import Evaluation, Statistic, plus_minus
from nnunetv2_clip.evaluation.summary import masked_summary, save_summary
from nnunetv2_clip.evaluation.tables import Table, number
from nnunetv2_clip.evaluation.volumes import coding_of
from nnunetv2_clip.files import replacing_folder
from nnunetv2_clip.imaging.nifti import FILE_ENDING
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON, TrainedModel


def collect_folds(model: TrainedModel, folds: Sequence[str], taxonomy: Taxonomy) -> tuple[Side, dict[str, str]]:
    """The predictions in fold_*/validation of a trained model's folder, and case -> fold.

    Raises:
        UserError: no model, a fold without final validation, or a case in two folds.
    """
    ending = model.dataset_json.get("file_ending", FILE_ENDING)
    coding = coding_of(model.dataset_json, taxonomy, model.label(DATASET_JSON), painted=True)
    files: dict[str, Path] = {}
    fold_of: dict[str, str] = {}
    for fold in folds:
        folder = model.where / f"fold_{fold}" / "validation"
        found = {path.name[: -len(ending)]: path for path in sorted(folder.glob(f"*{ending}"))}
        if not found:
            remedy = "finish the training of this fold, or run nnUNetv2_train with --val"
            raise UserError(folder, f"has no file *{ending}", f"the validation predictions of fold {fold}", remedy)
        twice = sorted(set(files) & set(found))
        if twice:
            raise UserError(folder, f"case {twice[0]!r} is also predicted in fold {fold_of[twice[0]]}", "one fold each")
        files |= found
        fold_of |= dict.fromkeys(found, fold)
    return Side(model.where, files, coding, frozenset(coding.names)), fold_of


def fold_table(evaluation: Evaluation, fold_of: dict[str, str]) -> Table:
    """Mean Dice per class and fold, then mean and standard deviation over the folds' means, in percent."""
    folds = tuple(dict.fromkeys(fold_of.values()))
    by_fold = {
        fold: evaluation.summarise(pair for pair in evaluation.headline_pairs if fold_of[pair.case_id] == fold)
        for fold in folds
    }
    rows = []
    for name in evaluation.summarise(evaluation.headline_pairs):
        means = [100 * by_fold[fold][name]["Dice"].mean if name in by_fold[fold] else float("nan") for fold in folds]
        over = Statistic.of(means)
        rows.append((name, *(number(mean, 2) for mean in means), plus_minus(over, 2)))
    columns = ("Class", *(f"fold {fold}" for fold in folds), "mean ± std of folds")
    return Table("Dice per fold, percent", columns, tuple(rows))


def write_merged_folder(
    model: TrainedModel, prediction: Side, reference: Path, manifest: Manifest, names: Sequence[str], num_processes: int
) -> Path:
    """nnU-Net's folder of cross-validation results with predictions and a masked summary.json.

    `nnUNetv2_accumulate_crossval_results` and `nnUNetv2_find_best_configuration` score the label values of a region
    against painted indices, and every class in every case. They leave a complete folder alone when told not to
    overwrite, so this has to run first.
    """
    merged = model.where / f"crossval_results_folds_{'_'.join(names)}"
    with replacing_folder(merged) as beside:
        for name in (DATASET_JSON, PLANS_JSON):
            shutil.copyfile(model.where / name, beside / name)
        for path in prediction.files.values():
            shutil.copyfile(path, beside / path.name)
        summary = masked_summary(reference, beside, model.dataset_json, manifest, None, num_processes)
        for case in summary["metric_per_case"]:  # where the files will be, not where they are now
            case["prediction_file"] = str(merged / Path(case["prediction_file"]).name)
        save_summary(summary, beside / "summary.json")
        shutil.rmtree(merged, ignore_errors=True)
    return merged
