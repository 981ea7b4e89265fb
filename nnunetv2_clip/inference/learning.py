"""Learn post-processing rules on the validation cases: each class gets the rule that raises its Dice there, or none."""

# Shapes: X Y Z voxels of a case, turned to RAS.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.splits import SPLITS_FILE
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.volumes import LabelCoding
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.grid import Preprocessed, from_training
from nnunetv2_clip.inference.loaded_model import load_model
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.postprocessing import DEFAULT_THRESHOLD, NOTHING, Rule, apply_rule
from nnunetv2_clip.inference.streaming import FanOut, StreamingExport
from nnunetv2_clip.labels import UNKNOWN, ClassMap
from nnunetv2_clip.manifest import FILE_NAME, Manifest
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.runner import require_all, run_cases
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON, PLANS_KEY, RULES_ENTRY, TrainedModel

THRESHOLDS = (0.5, 0.4, 0.6, 0.3, 0.7)
MIN_GAIN = 0.001  # mean Dice; below this a rule is noise
MIN_CASES = 3
CaseScores = dict[str, dict[Rule, float]]  # class -> rule -> Dice


@dataclass(frozen=True)
class Choice:
    """The rule of one class and what it does to the mean Dice of its validation cases."""

    rule: Rule
    before: float
    after: float
    num_cases: int


def candidate_rules(name: str, taxonomy: Taxonomy, known: Iterable[str]) -> list[Rule]:
    """What is tried for a class, the simplest first: thresholds, each alone and with a rule on components.

    Parts of an organ (tumours, vessels) may come in many components but touch their organ; organs are one.
    """
    parents = tuple(parent for parent in taxonomy.find(name).parents if parent in set(known))
    part = {"touches": parents} if parents else {}
    whole = {} if taxonomy.find(name).parents else {"largest_components": 1}
    plain = [Rule(threshold=threshold) for threshold in THRESHOLDS]
    return plain + [Rule(threshold=threshold, **(part or whole)) for threshold in THRESHOLDS if part or whole]


def choose(scores: Mapping[Rule, Sequence[float]]) -> Choice:
    """The rule with the best mean, if it helps more cases than it harms and gains `MIN_GAIN`; else none.

    Args:
        scores: rule -> Dice per case, in the same order for all; among equals the first rule wins.
    """
    plain = np.asarray(scores[NOTHING], float)
    best = max(scores, key=lambda rule: np.mean(scores[rule]) if len(plain) else 0)
    found = np.asarray(scores[best], float)
    helps = len(plain) >= MIN_CASES and found.mean() - plain.mean() >= MIN_GAIN
    if not helps or np.count_nonzero(found > plain) <= np.count_nonzero(found < plain):
        best, found = NOTHING, plain
    mean = lambda values: float(values.mean()) if len(values) else float("nan")  # noqa: E731
    return Choice(best, mean(plain), mean(found), len(plain))


def learn(model: TrainedModel, folds: Sequence[str] | None, checkpoint: str, device: str | None) -> dict[str, Choice]:
    """Predict the validation cases of every fold with that fold's weights and choose a rule for each class.

    Raises:
        UserError: the model or the preprocessed data of its training are not there.
        CasesFailed: cases that cannot be scored; no rule is learned from the others alone.
    """
    usable = [fold for fold in model.folds(checkpoint, folds) if fold != "all"]
    if not usable:
        raise UserError(model.where, "has no fold with validation cases", "folds 0 to 4", "train one")
    scores: dict[str, dict[Rule, list[float]]] = {}
    for fold in usable:
        for by_class in _scores_of_fold(model, fold, checkpoint, device):
            for name, found in by_class.items():
                for rule, value in found.items():
                    scores.setdefault(name, {}).setdefault(rule, []).append(value)
    return {name: choose(rules) for name, rules in scores.items()}


def write_rules(model: TrainedModel, choices: Mapping[str, Choice], learned_on: Mapping[str, object]) -> None:
    """Put the rules into the model's plans.json, so that they travel with every copy and zip of the model."""
    rules = {
        "rules": {name: choice.rule.to_json() for name, choice in choices.items() if choice.rule != NOTHING},
        "learned_on": dict(learned_on),
        "dice": {
            name: {"before": choice.before, "after": choice.after, "cases": choice.num_cases}
            for name, choice in choices.items()
            if choice.num_cases
        },
    }
    write_json(model.where / PLANS_JSON, {**model.plans, PLANS_KEY: {**model.entry, RULES_ENTRY: rules}})


def _scores_of_fold(model: TrainedModel, fold: str, checkpoint: str, device: str | None) -> list[CaseScores]:
    loaded = load_model(model, device, [fold], checkpoint)
    predictor = CasePredictor(loaded.predictor)
    preprocessed = dataset_folder("nnUNet_preprocessed", loaded.predictor.plans_manager.dataset_name)
    manifest = Manifest.load(preprocessed / FILE_NAME)
    coding = LabelCoding.of(
        model.dataset_json["labels"], model.taxonomy, model.label(DATASET_JSON), model.dataset_json.get(UNKNOWN)
    )
    dataset = _validation_cases(preprocessed, fold, loaded.predictor)

    def score(case_id: str) -> CaseScores:
        reference = coding.read(preprocessed / "gt_segmentations" / f"{case_id}.nii.gz")
        known = manifest.case(case_id).known
        scored = [name for name in predictor.trained if name in known]
        rules = {name: candidate_rules(name, model.taxonomy, predictor.trained) for name in scored}
        data, _, _, properties = dataset.load_case(case_id)
        case = from_training(np.asarray(data[:], np.float32), properties, loaded.predictor)
        return score_case(predictor, case, reference, rules)

    title = f"fold {fold}"
    return require_all(run_cases(score, dataset.identifiers, title), f"validation cases of {title}")


def _validation_cases(preprocessed: Path, fold: str, predictor):
    """nnU-Net's dataset of the preprocessed validation cases of a fold."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    splits = read_json(preprocessed / SPLITS_FILE, "convert the dataset again")
    folder = preprocessed / predictor.configuration_manager.data_identifier
    if not folder.is_dir() or int(fold) >= len(splits):
        raise UserError(folder, f"or fold {fold} is not there", "the data that the model was trained on", "preprocess")
    return infer_dataset_class(str(folder))(str(folder), splits[int(fold)]["val"])


def score_case(
    predictor: CasePredictor, case: Preprocessed, reference: ClassMap, rules: Mapping[str, Sequence[Rule]]
) -> CaseScores:
    """The Dice of every rule, from one run of the network."""

    def all_thresholds(names):
        return FanOut([StreamingExport(names, case.maps, dict.fromkeys(names, threshold)) for threshold in THRESHOLDS])

    fans, _ = predictor.run(case, "validation case", all_thresholds)
    masks: dict[float, dict[str, Mask]] = {threshold: {} for threshold in THRESHOLDS}
    for fan in fans:
        for threshold, export in zip(THRESHOLDS, fan.takers, strict=True):
            masks[threshold] |= export.finish(case.placement)
    return {
        name: _dice_of_rules(name, masks, reference.mask(name), reference.known(name), own)
        for name, own in rules.items()
    }


def _dice_of_rules(name: str, masks: Mapping, truth: np.ndarray, known: np.ndarray | None, rules) -> dict[Rule, float]:
    found = {}
    for rule in rules:
        organs = [masks[DEFAULT_THRESHOLD][organ] for organ in rule.touches]
        mask = apply_rule(masks[rule.threshold][name], rule, organs)
        found[rule] = dice(mask, truth, known)
    return found


def dice(mask: Mask, truth: np.ndarray, known: np.ndarray | None) -> float:
    """Over the known voxels; 1 where both are empty, so that taking a false finding away counts."""
    whole = truth if known is None else truth & known
    if not mask:
        return float(not whole.any())
    voxels = mask.voxels() if known is None else mask.voxels() & known[mask.box]
    total = np.count_nonzero(voxels) + np.count_nonzero(whole)
    return 2 * np.count_nonzero(voxels & whole[mask.box]) / total if total else 1.0
