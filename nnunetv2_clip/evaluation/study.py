"""An evaluation from end to end: which pairs are scored, which cases the model has seen, what is left out."""

from collections.abc import Mapping, Sequence

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.cases import CaseJob, case_metrics
from nnunetv2_clip.evaluation.folders import Side
from nnunetv2_clip.evaluation.results import ABSENT, ANNOTATED, INCOMPLETE, Evaluation, PairScore
from nnunetv2_clip.evaluation.volumes import MaskCoding
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.runner import require_some, run_cases

UNKNOWN_DATASET = "all"


def evaluate(
    reference: Side,
    prediction: Side,
    taxonomy: Taxonomy,
    manifest: Manifest | None = None,
    tolerances_mm: Mapping[str, float] | None = None,
    leaked: Mapping[str, str] | None = None,
    num_processes: int = 1,
) -> Evaluation:
    """Score every predicted case in the classes that its reference knows; a case that fails is named and left out.

    Args:
        manifest: which classes each case annotates, and from which dataset it comes; None: every class of the
            reference counts as annotated.
        tolerances_mm: class -> tolerance; None leaves NSD and HD95 out.
        leaked: predicted case -> why its scan counts as seen in training.

    Raises:
        UserError: see `case_jobs`.
        CasesFailed: no case could be scored.
    """
    jobs = case_jobs(reference, prediction, taxonomy, manifest, tolerances_mm)
    outcomes = run_cases(case_metrics, jobs, "Evaluating", num_processes)
    scored, failed = require_some(outcomes, "evaluation")
    pairs = []
    for job, metrics in ((outcome.task, outcome.result) for outcome in scored):
        presence = manifest.case(job.case_id) if manifest else None
        dataset = presence.dataset if presence else UNKNOWN_DATASET
        for name, values in metrics.items():
            pairs.append(PairScore(job.case_id, dataset, name, _state(name, presence), values))
    lost = [f"Not part of this, because it failed: case {name} ({error})" for name, error in sorted(failed.items())]
    notes = (*_notes(reference, prediction, manifest), *_disjoint(pairs), *lost)
    return Evaluation(tuple(pairs), taxonomy.names, dict(leaked or {}), notes=notes, failed=failed)


def case_jobs(
    reference: Side,
    prediction: Side,
    taxonomy: Taxonomy,
    manifest: Manifest | None = None,
    tolerances_mm: Mapping[str, float] | None = None,
) -> list[CaseJob]:
    """One job per predicted case with the classes that its reference knows.

    Raises:
        UserError: a prediction without reference or manifest entry, or a mask file that is missing.
    """
    jobs = []
    for case_id in _predicted_cases(reference, prediction):
        presence = manifest.case(case_id) if manifest else None
        names = _scored_classes(case_id, presence, reference, prediction, taxonomy)
        tolerances = {name: tolerances_mm[name] for name in names} if tolerances_mm is not None else None
        paths = reference.files[case_id], prediction.files[case_id]
        incomplete = frozenset(presence.incomplete) if presence else frozenset()
        jobs.append(CaseJob(case_id, *paths, reference.coding, prediction.coding, names, tolerances, incomplete))
    return jobs


def _state(name: str, presence: CasePresence | None) -> str:
    if presence and name in presence.incomplete:
        return INCOMPLETE
    return ABSENT if presence and name in presence.absent else ANNOTATED


def _predicted_cases(reference: Side, prediction: Side) -> list[str]:
    """The cases of the prediction folder; each needs a reference."""
    without = sorted(set(prediction.files) - set(reference.files))
    if without:
        found = f"{len(without)} predictions have no reference in {reference.folder} ({', '.join(without[:5])} ...)"
        remedy = "give the matching -ref folder, or move these predictions away"
        raise UserError(prediction.folder, found, "a reference of the same name for every prediction", remedy)
    return sorted(prediction.files)


def _scored_classes(
    case_id: str, presence: CasePresence | None, reference: Side, prediction: Side, taxonomy: Taxonomy
) -> tuple[str, ...]:
    """The classes of which the case holds truth and that both sides know, in the taxonomy's order."""
    in_reference, in_prediction = reference.classes_of(case_id), prediction.classes_of(case_id)
    known_here = presence.known | presence.drawn if presence else in_reference
    if presence and isinstance(reference.coding, MaskCoding):
        _require_files(case_id, presence.drawn, in_reference, reference)
    if isinstance(prediction.coding, MaskCoding):
        _require_files(case_id, known_here & prediction.classes, in_prediction, prediction)
    known = known_here & reference.classes & prediction.classes
    return tuple(name for name in taxonomy.names if name in known)


def _require_files(case_id: str, needed: frozenset[str], present: frozenset[str], side: Side) -> None:
    missing = sorted(needed - present)
    if missing:
        found = f"case {case_id!r} has no mask file of {', '.join(missing)}"
        expected = "a file for every class, with an empty mask where nothing was found"
        raise UserError(side.files[case_id], found, expected, "add the files")


def _disjoint(pairs: Sequence[PairScore]) -> list[str]:
    """A note where both sides hold classes and none of them overlaps anywhere: no model is that wrong."""
    held = [pair.metrics for pair in pairs if pair.metrics["n_ref"] and pair.metrics.get("n_pred")]
    if not held or any(counts["n_overlap"] for counts in held):
        return []
    return [
        "Warning: no class overlaps in any case. Do the dataset.json files beside references and predictions say what "
        "the values mean, do the files belong together, and is one side mirrored?"
    ]


def _notes(reference: Side, prediction: Side, manifest: Manifest | None) -> tuple[str, ...]:
    notes = []
    unknown = sorted(reference.classes - prediction.classes)
    if unknown:
        notes.append(f"Not scored, because the predictions do not know them: {', '.join(unknown)}.")
    missing = len(set(reference.files) - set(prediction.files))
    if missing:
        notes.append(f"{missing} of {len(reference.files)} references have no prediction and are not part of this.")
    if manifest is None:
        notes.append("No manifest: every class of the reference counts as annotated in every case.")
    return tuple(notes)
