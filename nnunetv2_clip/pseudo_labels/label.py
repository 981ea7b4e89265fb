"""Complete a partly labelled raw dataset with the predictions of a model, into a new dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.conversion.case import write_label_map
from nnunetv2_clip.conversion.splits import SPLITS_FILE, make_splits, save_manifest_and_splits
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.imaging.nifti import checksum, read_label_map
from nnunetv2_clip.imaging.scans import Case
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.inputs import read_case
from nnunetv2_clip.inference.loaded_model import load_model
from nnunetv2_clip.inference.streaming import StreamingExport
from nnunetv2_clip.job_folder import FileStates, file_states, is_readable
from nnunetv2_clip.labels import (
    IGNORE,
    UNKNOWN,
    ClassMap,
    ClassSet,
    LabelTable,
    nnunet_labels,
    plain,
    unknown_in,
    unknown_labels,
)
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.paths import nnunet_folder
from nnunetv2_clip.pseudo_labels.case import LOWEST, PairResult, complete_case
from nnunetv2_clip.pseudo_labels.datasets import CompletedDataset, RawDataset
from nnunetv2_clip.pseudo_labels.report import write_report
from nnunetv2_clip.runner import require_all, run_cases
from nnunetv2_clip.trained_model import TrainedModel

PLAN_FORMAT = 2
LEAST_FOUND = 0.05  # of the cases of a class; below this the model may not see it at all


@dataclass(frozen=True)
class Rules:
    """What makes a prediction a pseudo label.

    Attributes:
        threshold: a voxel belongs to a class whose probability is above it.
        max_uncertainty: (case, class) pairs above it stay unknown (pseudo_labels/case.py, `uncertainty`).
        weight: of a pseudo label in the loss; truth has 1.

    Raises:
        UserError: a value out of its range.
    """

    threshold: float = 0.5
    max_uncertainty: float = 0.3
    weight: float = 0.5

    def __post_init__(self):
        if not LOWEST <= self.threshold < 1:
            raise UserError("--threshold", f"{self.threshold}", f"a probability from {LOWEST} to below 1")
        if not 0 <= self.max_uncertainty <= 1:
            raise UserError("--max-uncertainty", f"{self.max_uncertainty}", "0 (only sure ones) to 1 (all)")
        if not 0 < self.weight <= 1:
            raise UserError("--weight", f"{self.weight}", "above 0, at most 1")


@dataclass(frozen=True)
class Completion:
    """A completed dataset.

    Attributes:
        results: one entry per case and class that was unknown in it.
        not_in_dataset: classes of the model that the dataset's class table lacks; they were left out.
    """

    folder: Path
    results: tuple[PairResult, ...]
    not_in_dataset: tuple[str, ...] = ()


def pseudo_label(
    raw_dataset_folder: Path | str,
    model: TrainedModel | Path | str,
    output_dataset_folder: Path | str,
    *,
    classes: Sequence[str] | None = None,
    threshold: float = Rules.threshold,
    max_uncertainty: float = Rules.max_uncertainty,
    weight: float = Rules.weight,
    device: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = CHECKPOINT,
    use_mirroring: bool = True,
    step_size: float = 0.5,
    copy_images: bool = False,
    absent: Sequence[str] = (),
) -> Completion:
    """Label what nobody annotated: for every case the classes that are unknown there and that the model knows.

    A class that is incomplete in a case is completed: what was drawn stays, what the model finds elsewhere is added,
    and all of it is a pseudo label; where the pair is too uncertain it stays incomplete. All other truth stays, the
    source dataset is only read, and the manifest of the new dataset tells truth and pseudo labels apart. A second call
    with the same arguments goes on where the first was interrupted.

    Args:
        raw_dataset_folder: nnUNet_raw/DatasetXXX_Name with label_presence.json.
        model: a trained universal model: folder (TRAINER__PLANS__CONFIGURATION) or zip.
        output_dataset_folder: of the new raw dataset; must not exist, or hold an interrupted run.
        classes: only these, by name or alias; None: all that the model was trained on.
        threshold, max_uncertainty, weight: see `Rules`.
        device: as in `find_device`; None: the fastest that is there.
        folds, checkpoint, use_mirroring, step_size: as in `nnunetv2_clip predict`.
        copy_images: copy images instead of linking them.
        absent: classes, by name or alias, that may be found in (nearly) no case.

    Raises:
        UserError: a bad dataset, model or option, a target that is in use, or a class outside `absent` that is found in
            (nearly) no case.
        CasesFailed: naming every case that could not be completed; the others are done.
    """
    rules = Rules(threshold, max_uncertainty, weight)
    source = RawDataset.read(Path(raw_dataset_folder))
    source.require_completable()
    model = model if isinstance(model, TrainedModel) else TrainedModel.open(model)
    folder = Path(output_dataset_folder)
    target = CompletedDataset(folder, nnunet_folder("nnUNet_preprocessed") / folder.name)
    wanted, foreign = _wanted_classes(source, model, classes)
    may_be_absent = {source.manifest.taxonomy.find(name, "--absent").name for name in absent}
    case_ids = source.case_ids()
    unknown = {case_id: [n for n in wanted if n not in source.manifest.case(case_id).known] for case_id in case_ids}
    needed = [name for name in wanted if any(name in names for names in unknown.values())]
    if not needed:
        raise UserError(source.folder, "knows every class of the model in every case", "something to complete")
    used = model.folds(checkpoint, folds)
    options = {"folds": used, "checkpoint": checkpoint, "use_mirroring": use_mirroring, "step_size": step_size}
    plan = _plan(source, model, needed, rules, options)
    target.check(plan)
    waiting = [case_id for case_id in case_ids if not target.is_done(case_id, _inputs(source, case_id))]
    # The model is loaded before anything is written, so that no wrong -f or -chk leaves a begun dataset behind.
    loaded = load_model(model, device, **options) if waiting else None
    with target.claim(plan):
        if loaded:
            target.dataset_json.unlink(missing_ok=True)  # not complete any more
            predictor = CasePredictor(loaded.predictor).for_classes(needed)
            complete = _completer(source, target, predictor, unknown, rules)
            require_all(run_cases(complete, waiting, "pseudo labels", file_of=source.image), "pseudo-label")
        if not is_readable(target.dataset_json):
            _require_found(target, case_ids, may_be_absent)
            _finish(
                source, target, case_ids, rules, copy_images, f"{model.title}, fold {', '.join(used)}, {checkpoint}"
            )
    results = tuple(result for case_id in case_ids for result in target.read_case(case_id).results)
    return Completion(folder, results, foreign)


def _wanted_classes(
    source: RawDataset, model: TrainedModel, classes: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """The classes to label, and those of the model that the dataset does not know.

    Raises:
        UserError: a class that the model was not trained on or the dataset does not know.
    """
    trained, taxonomy = model.known, source.manifest.taxonomy
    if classes is None:
        return [n for n in trained if n in taxonomy], tuple(n for n in trained if n not in taxonomy)
    names = [taxonomy.find(name, "--classes").name for name in classes]
    untrained = [name for name in names if name not in trained]
    if untrained:
        found = f"the model was not trained on {', '.join(untrained)}"
        raise UserError("--classes", found, f"classes out of {', '.join(trained)}")
    return [name for name in trained if name in names], ()


def _require_found(target: CompletedDataset, case_ids: Sequence[str], may_be_absent: Collection[str]) -> None:
    """Raises UserError: a class would be taught as absent in (nearly) all cases."""
    found: dict[str, list[bool]] = {}
    for result in (result for case_id in case_ids for result in target.read_case(case_id).results if result.is_kept):
        found.setdefault(result.name, []).append(result.voxels > 0)
    missed = [name for name, own in found.items() if sum(own) < LEAST_FOUND * len(own) and name not in may_be_absent]
    if missed:
        seen = ", ".join(f"{name} (in {sum(found[name])} of {len(found[name])} cases)" for name in missed)
        expected = "classes that the model can see: what it calls absent is taught as absent"
        remedy = f"if these patients have none, run the same command with --absent {' '.join(missed)}"
        remedy += "; else choose other classes with --classes and a new -o"
        raise UserError(target.folder, f"the model finds hardly any {seen}", expected, remedy)


def _plan(source: RawDataset, model: TrainedModel, needed: Sequence[str], rules: Rules, options: dict) -> dict:
    """What the new dataset depends on."""
    return {
        "format": PLAN_FORMAT,
        "dataset": str(source.folder.resolve()),
        "manifest": checksum(source.folder / MANIFEST_FILE),
        "model": model.checksums(options["folds"], options["checkpoint"]),
        "classes": list(needed),
        **asdict(rules),
        "options": options,
    }


def _inputs(source: RawDataset, case_id: str) -> FileStates:
    return file_states([source.image(case_id), source.label(case_id)])


def _completer(
    source: RawDataset, target: CompletedDataset, predictor: CasePredictor, unknown: dict[str, list[str]], rules: Rules
) -> Callable[[str], None]:
    taxonomy, limits = source.manifest.taxonomy, (rules.threshold, rules.max_uncertainty)

    def complete(case_id: str) -> None:
        """Predict one case and save its completed label map."""
        inputs = _inputs(source, case_id)
        labels, truth = source.read_truth(case_id)
        wanted = [name for name in unknown[case_id] if name in predictor.trained]
        options = {"probabilities": wanted, "lowest": LOWEST, "makes_masks": False}
        probabilities = {}
        if wanted:
            image = read_case(Case(case_id, source.image(case_id)), modality=predictor.modality)
            for warning in image.warnings:
                tqdm.write(f"Warning: {case_id}: {warning}", file=sys.stderr)
            case = predictor.preprocess(image)
            exports, _ = predictor.run(case, case_id, lambda names: StreamingExport(names, case.maps, **options))
            for export in exports:
                probabilities |= export.finish_probabilities(case.placement)
        known, spacing_mm = source.manifest.case(case_id).known, truth.geometry.spacing_mm
        results = complete_case(case_id, labels, known, probabilities, taxonomy, spacing_mm, *limits)
        target.save_case(case_id, inputs, labels, truth.affine, results)

    return complete


def _finish(
    source: RawDataset, target: CompletedDataset, case_ids: Sequence[str], rules: Rules, copy_images: bool, model: str
) -> None:
    """Final label values, images, manifest, splits, report and, last, dataset.json."""
    records = {case_id: target.read_case(case_id) for case_id in case_ids}
    results = [result for record in records.values() for result in record.results]
    sets = {classes for record in records.values() for classes in record.sets.values() if classes}
    declared = {*source.classes, *plain(frozenset().union(*sets)), *(result.name for result in results)}
    table = _label_table(source, sets)
    labels, order = nnunet_labels(table, source.manifest.taxonomy, declared, source.has_ignore)

    def settle(case_id: str) -> None:
        pending = read_label_map(target.pending_label(case_id))
        final = ClassMap(pending.data, records[case_id].sets).remap(table, case_id, labels.get(IGNORE))
        write_label_map(target.label(case_id), final, pending.affine)
        target.place_image(case_id, source.image(case_id), copy_images)

    require_all(run_cases(settle, case_ids, "final label values", file_of=target.pending_label), "pseudo-label")
    cases = {}
    for case_id, record in records.items():
        cases[case_id] = _completed(source.manifest.case(case_id), record.results, rules.weight)
    _write_description(source, target, cases)
    write_report(target.folder, results, rules, model)
    assert (target.preprocessed / MANIFEST_FILE).is_file()
    changed = {
        "labels": labels,
        "regions_class_order": order,
        **({UNKNOWN: unknown} if (unknown := unknown_labels(table, source.manifest.taxonomy)) else {}),
        "name": target.folder.name,
        "description": f"{source.folder.name}, completed with the predictions of {model} (see pseudo_labels.txt)",
        "completed_by": f"nnunetv2_clip {__version__}",
    }
    write_json(target.dataset_json, {**source.dataset_json, **changed})


def _completed(case: CasePresence, results: Sequence[PairResult], weight: float) -> CasePresence:
    """A class that was incomplete is a pseudo label now: of its voxels nothing tells who has drawn them."""
    pseudo = {result.name: weight for result in results if result.is_kept}
    incomplete = tuple(name for name in case.incomplete if name not in pseudo)
    return replace(case, pseudo=pseudo, incomplete=incomplete)


def _label_table(source: RawDataset, class_sets: set[ClassSet]) -> LabelTable:
    """The label values of the source where they can stay, then those of sets that only pseudo labels make."""
    before = {value: classes for value, classes in source.class_sets.items() if classes and plain(classes)}
    known = tuple(before.values())
    new = class_sets.difference(known)
    if list(before) != list(range(1, len(before) + 1)) or len(set(known)) < len(known):
        marked = {classes for classes in class_sets if unknown_in(classes)}
        return LabelTable.of({*known, *class_sets} - marked).extended(marked)
    return LabelTable(known).extended(new)


def _write_description(source: RawDataset, target: CompletedDataset, cases: dict[str, CasePresence]) -> None:
    """Manifest and splits; the folds stay those of the source, so that no case changes sides."""
    path = source.folder / SPLITS_FILE
    splits = read_json(path, "convert the dataset again") if path.is_file() else make_splits(cases)
    manifest = Manifest(source.manifest.taxonomy, cases)
    save_manifest_and_splits((target.folder, target.preprocessed), manifest, splits)
