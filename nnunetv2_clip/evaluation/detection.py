"""Tumour detection: who is found and who is wrongly suspected, by patient and by lesion (paper, Table 4); its files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunetv2_clip.choices import ANY, OVERLAP
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.bootstrap import Interval, interval, mean_interval
from nnunetv2_clip.evaluation.folders import Side
from nnunetv2_clip.evaluation.lesions import CaseLesions, LesionRule, case_lesions
from nnunetv2_clip.evaluation.paper.published import NOT_REMEASURED, SOURCE, TABLE_4
from nnunetv2_clip.evaluation.report import leak_table, write_page
from nnunetv2_clip.evaluation.results import strict_json
from nnunetv2_clip.evaluation.study import case_jobs
from nnunetv2_clip.evaluation.tables import MISSING, Table, number
from nnunetv2_clip.files import write_csv, write_json, write_text
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.runner import require_some, run_cases

TUMOR, FREE, OTHER = "tumor", "free", "other"


@dataclass(frozen=True)
class CaseDetection:
    """One class in one case.

    Attributes:
        truth: "tumor": the reference holds a lesion of the smallest size or more. "free": known to be absent (or
            annotated and empty, where the caller takes that as proof). "other": neither; counts for nothing but
            false lesions.
        incomplete: only some lesions were drawn: counts where one was, and for no false lesion.
        suspected: the prediction calls the patient ill.
    """

    case_id: str
    dataset: str
    class_name: str
    truth: str
    suspected: bool
    lesions: CaseLesions
    incomplete: bool = False


@dataclass(frozen=True)
class Rate:
    """A fraction with its 95 % bootstrap interval over cases; NaN where nothing was counted."""

    value: float
    interval: Interval
    n: int


NOTHING = Rate(float("nan"), (float("nan"), float("nan")), 0)


@dataclass(frozen=True)
class Detection:
    """The figures of one class.

    Attributes:
        sensitivity: suspected among cases with tumour.
        specificity: not suspected among cases known to be free.
        harmonic_mean: of the two; n is the number of cases of both kinds.
        lesion_recall: found among reference lesions; n is the number of lesions.
        false_lesions_per_case: over all cases scored in which the class is not incomplete.
    """

    sensitivity: Rate
    specificity: Rate
    harmonic_mean: Rate
    lesion_recall: Rate
    false_lesions_per_case: Rate

    @property
    def of_patients(self) -> tuple[Rate, Rate, Rate]:
        return self.sensitivity, self.specificity, self.harmonic_mean


def detect(
    reference: Side,
    prediction: Side,
    taxonomy: Taxonomy,
    manifest: Manifest | None,
    names: Sequence[str],
    rule: LesionRule,
    patient_rule: str = ANY,
    empty_is_free: bool = False,
    num_processes: int = 1,
) -> tuple[list[CaseDetection], dict[str, UserError]]:
    """The lesions of the named classes in every case that holds truth of them, by class, and the cases that failed.

    Args:
        patient_rule: "any": one predicted lesion makes a patient suspected. "overlap": in a case with tumour only
            when a reference lesion is found (a prediction elsewhere does not count as detecting it).
        empty_is_free: cases that annotate the class and have no voxel of it count as free, too.

    Raises:
        UserError: see `study.case_jobs`, or no case supervises any of the classes.
        CasesFailed: all cases failed.
    """
    jobs = [
        replace(job, names=wanted)
        for job in case_jobs(reference, prediction, taxonomy, manifest)
        if (wanted := tuple(name for name in job.names if name in names))
    ]
    if not jobs:
        raise UserError(
            prediction.folder,
            f"no predicted case has a reference that knows {', '.join(names)}",
            "at least one case that annotates a tumour class or is known to be free of it",
            "name other classes with --classes, or check the manifest",
        )
    cases = []
    outcomes = run_cases(partial(case_lesions, rule=rule), jobs, "Finding lesions", num_processes)
    examined, failed = require_some(outcomes, "detection")
    for job, found in ((outcome.task, outcome.result) for outcome in examined):
        presence = manifest.case(job.case_id) if manifest else None
        for name, lesions in found.items():
            absent = presence is not None and name in presence.absent
            incomplete = name in job.incomplete
            truth = _truth(lesions, absent, empty_is_free and not incomplete)
            suspected = lesions.num_predicted > 0
            if truth == TUMOR and patient_rule == OVERLAP:
                suspected = any(lesions.found)
            dataset = presence.dataset if presence else "all"
            cases.append(CaseDetection(job.case_id, dataset, name, truth, suspected, lesions, incomplete))
    return sorted(cases, key=lambda case: names.index(case.class_name)), failed


def _truth(lesions: CaseLesions, absent: bool, empty_is_free: bool) -> str:
    if absent:
        return FREE
    if lesions.lesion_ml:
        return TUMOR
    return FREE if empty_is_free and lesions.reference_voxels == 0 else OTHER


def summarise_class(cases: Iterable[CaseDetection]) -> Detection:
    """The figures of one class over its cases.

    Intervals: cases are drawn with replacement, for the harmonic mean those with tumour and free ones separately.
    """
    cases = list(cases)
    ill = np.array([case.suspected for case in cases if case.truth == TUMOR], float)
    spared = np.array([not case.suspected for case in cases if case.truth == FREE], float)
    found = np.array([sum(case.lesions.found) for case in cases], float)
    total = np.array([len(case.lesions.found) for case in cases], float)
    false = np.array([case.lesions.num_false for case in cases if not case.incomplete], float)
    return Detection(
        sensitivity=_mean_rate(ill),
        specificity=_mean_rate(spared),
        harmonic_mean=_harmonic_rate(ill, spared),
        lesion_recall=_recall_rate(found, total),
        false_lesions_per_case=_mean_rate(false),
    )


def harmonic_mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """2ab / (a + b), 0 where both are 0."""
    total = np.asarray(first + second, float)
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)


def _mean_rate(values: np.ndarray) -> Rate:
    return Rate(float(values.mean()), mean_interval(values), len(values)) if len(values) else NOTHING


def _harmonic_rate(ill: np.ndarray, spared: np.ndarray) -> Rate:
    if not len(ill) or not len(spared):
        return NOTHING

    def statistic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return harmonic_mean(ill[first].mean(axis=1), spared[second].mean(axis=1))

    value = float(harmonic_mean(ill.mean(), spared.mean()))
    return Rate(value, interval(statistic, len(ill), len(spared)), len(ill) + len(spared))


def _recall_rate(found: np.ndarray, total: np.ndarray) -> Rate:
    """Whole cases are drawn: lesions of one patient are not independent."""
    if not total.sum():
        return NOTHING

    def recall(drawn: np.ndarray) -> np.ndarray:
        lesions = total[drawn].sum(axis=1)
        return np.divide(found[drawn].sum(axis=1), lesions, out=np.full(len(drawn), np.nan), where=lesions > 0)

    return Rate(float(found.sum() / total.sum()), interval(recall, len(total)), int(total.sum()))


def tumor_classes(taxonomy: Taxonomy) -> tuple[str, ...]:
    """The classes that are looked for unless others are named."""
    return tuple(row.name for row in taxonomy if row.name.endswith("_tumor"))


def figures(cases: Iterable[CaseDetection]) -> dict[str, Detection]:
    """Class -> figures, in the order in which the classes occur."""
    cases = list(cases)
    names = dict.fromkeys(case.class_name for case in cases)
    return {name: summarise_class(case for case in cases if case.class_name == name) for name in names}


def write_detection(
    cases: Sequence[CaseDetection], settings: dict, folder: Path, leaked: Mapping[str, str] | None = None
) -> list[Table]:
    """detection.json, .csv (one line per case and class), .md, .html and .tex; gives the tables.

    Args:
        leaked: case -> why its scan counts as seen in training; in tables of their own and in no other figure.
    """
    leaked = leaked or {}
    unseen = figures(case for case in cases if case.case_id not in leaked)
    seen = figures(case for case in cases if case.case_id in leaked)
    in_paper = table_4(unseen)
    tables = [*detection_tables(unseen), in_paper]
    if leaked:
        tables += detection_tables(seen, ", cases seen in training") if seen else []
        tables.append(leak_table(leaked))
    of_leaked = {"cases": leaked, "classes": seen}
    content = {"settings": settings, "classes": unseen, "leaked": of_leaked, "cases": cases}
    write_json(folder / "detection.json", strict_json(content))
    write_csv(folder / "detection.csv", _case_rows(cases, leaked))
    write_page(tables, folder, "detection", "Detection", [f"{name}: {value}" for name, value in settings.items()])
    write_text(folder / "detection.tex", in_paper.latex())
    return tables


def detection_tables(found: Mapping[str, Detection], which: str = "") -> list[Table]:
    """Patients and lesions, each rate in percent with its interval and the number of cases or lesions."""
    intervals = "Percent, [95 % bootstrap interval over cases], and the number of"
    columns = ("Class", "Sensitivity", "Specificity", "Harmonic mean")
    patients = tuple((name, *map(_percent, figure.of_patients)) for name, figure in found.items())
    lesions = tuple(
        (name, _percent(figure.lesion_recall), _count(figure.false_lesions_per_case)) for name, figure in found.items()
    )
    note = f"{intervals} reference lesions or cases. False lesions are counts, not percent."
    return [
        Table(f"Patients{which}", columns, patients, f"{intervals} cases."),
        Table(f"Lesions{which}", ("Class", "Recall", "False lesions per case"), lesions, note),
    ]


def table_4(found: Mapping[str, Detection]) -> Table:
    """Table 4 of the paper, with its three tumours and its own rows, and ours below, in percent."""
    columns = [f"{name.removesuffix('_tumor')} {figure}" for name in TABLE_4 for figure in ("Sen.", "Spec.", "Harm.")]
    methods = dict.fromkeys(method for rows in TABLE_4.values() for method in rows)
    rows = []
    for method in methods:
        printed = [value for of_class in TABLE_4.values() for value in of_class.get(method, (None,) * 3)]
        rows.append((f"{method} *", *(number(value, 2) for value in printed)))
    ours = [rate for name in TABLE_4 for rate in (found[name].of_patients if name in found else (NOTHING,) * 3)]
    rows.append(("this evaluation", *(number(100 * rate.value, 2) for rate in ours)))
    note = f"{NOT_REMEASURED} ({SOURCE}, Table 4), on other cases than ours."
    return Table("Tumour detection, percent (paper, Table 4)", ("Method", *columns), tuple(rows), note)


def _percent(rate: Rate) -> str:
    return _with_interval(rate, 100, 1) if rate.n else MISSING


def _count(rate: Rate) -> str:
    return _with_interval(rate, 1, 2) if rate.n else MISSING


def _with_interval(rate: Rate, scale: int, digits: int) -> str:
    low, high = (number(scale * bound, digits) for bound in rate.interval)
    return f"{number(scale * rate.value, 2)} [{low}, {high}] ({rate.n})"


def _case_rows(cases: Sequence[CaseDetection], leaked: Mapping[str, str]) -> Iterator[tuple]:
    yield (
        *("case", "dataset", "class", "truth", "seen_in_training"),
        *("suspected", "lesions", "found", "predicted_lesions", "false_lesions", "incomplete"),
    )
    for case in cases:
        lesions = case.lesions
        start = case.case_id, case.dataset, case.class_name, case.truth, int(case.case_id in leaked)
        false = "" if case.incomplete else lesions.num_false
        counts = len(lesions.found), sum(lesions.found), lesions.num_predicted, false
        yield (*start, int(case.suspected), *counts, int(case.incomplete))
