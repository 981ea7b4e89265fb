"""Detection as files: the layout of the paper's Table 4, lesion figures, and every case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunetv2_clip.evaluation import detection
from nnunetv2_clip.evaluation.detection import CaseDetection, Rate
from nnunetv2_clip.evaluation.paper.published import NOT_REMEASURED, SOURCE, TABLE_4
from nnunetv2_clip.evaluation.report import leak_table, write_page
from nnunetv2_clip.evaluation.results import strict_json
from nnunetv2_clip.evaluation.tables import MISSING, Table, number
from nnunetv2_clip.files import write_csv, write_json, write_text


def write_detection(
    cases: Sequence[CaseDetection], settings: dict, folder: Path, leaked: Mapping[str, str] | None = None
) -> list[Table]:
    """detection.json, .csv (one line per case and class), .md, .html and .tex; gives the tables.

    Args:
        leaked: case -> why its scan counts as seen in training; in tables of their own and in no other figure.
    """
    leaked = leaked or {}
    unseen, seen = detection.split_leaked(cases, leaked)
    tables = [*detection_tables(unseen), table_4(unseen)]
    if leaked:
        tables += detection_tables(seen, ", cases seen in training") if seen else []
        tables.append(leak_table(leaked))
    write_json(folder / "detection.json", strict_json(detection.to_json(cases, settings, leaked)))
    write_csv(folder / "detection.csv", _case_rows(cases, leaked))
    write_page(tables, folder, "detection", "Detection", [f"{name}: {value}" for name, value in settings.items()])
    write_text(folder / "detection.tex", table_4(unseen).latex())
    return tables


def detection_tables(cases: Sequence[CaseDetection], which: str = "") -> list[Table]:
    """Patients and lesions, each rate in percent with its interval and the number of cases or lesions."""
    figures = detection.figures(cases)
    intervals = "Percent, [95 % bootstrap interval over cases], and the number of"
    patients = tuple(
        (name, *(_percent(rate) for rate in (found.sensitivity, found.specificity, found.harmonic_mean)))
        for name, found in figures.items()
    )
    lesions = tuple(
        (name, _percent(found.lesion_recall), _plain(found.false_lesions_per_case)) for name, found in figures.items()
    )
    return [
        Table(
            f"Patients{which}",
            ("Class", "Sensitivity", "Specificity", "Harmonic mean"),
            patients,
            f"{intervals} cases.",
        ),
        Table(
            f"Lesions{which}",
            ("Class", "Recall", "False lesions per case"),
            lesions,
            f"{intervals} reference lesions or cases. False lesions are counts, not percent.",
        ),
    ]


def table_4(cases: Sequence[CaseDetection]) -> Table:
    """Table 4 of the paper, with its three tumours and its own rows, and ours below, in percent."""
    figures = detection.figures(case for case in cases if case.class_name in TABLE_4)
    names = tuple(TABLE_4)
    columns = [f"{name.removesuffix('_tumor')} {figure}" for name in names for figure in ("Sen.", "Spec.", "Harm.")]
    methods = dict.fromkeys(method for rows in TABLE_4.values() for method in rows)
    rows = []
    for method in methods:
        printed = [value for name in names for value in TABLE_4[name].get(method, (None,) * 3)]
        rows.append((f"{method} *", *(MISSING if value is None else number(value, 2) for value in printed)))
    ours = []
    for name in names:
        found = figures.get(name)
        rates = (found.sensitivity, found.specificity, found.harmonic_mean) if found else (detection.NOTHING,) * 3
        ours += [number(100 * rate.value, 2) for rate in rates]
    rows.append(("this evaluation", *ours))
    note = f"{NOT_REMEASURED} ({SOURCE}, Table 4), on other cases than ours."
    return Table("Tumour detection, percent (paper, Table 4)", ("Method", *columns), tuple(rows), note)


def _percent(rate: Rate) -> str:
    if rate.n == 0:
        return MISSING
    low, high = (number(100 * bound, 1) for bound in rate.interval)
    return f"{number(100 * rate.value, 2)} [{low}, {high}] ({rate.n})"


def _plain(rate: Rate) -> str:
    low, high = (number(bound, 2) for bound in rate.interval)
    return f"{number(rate.value, 2)} [{low}, {high}] ({rate.n})"


def _case_rows(cases: Sequence[CaseDetection], leaked: Mapping[str, str]) -> Iterator[tuple]:
    yield (
        *("case", "dataset", "class", "truth", "seen_in_training"),
        *("suspected", "lesions", "found", "predicted_lesions", "false_lesions"),
    )
    for case in cases:
        lesions = case.lesions
        start = case.case_id, case.dataset, case.class_name, case.truth, int(case.case_id in leaked)
        counts = len(lesions.found), sum(lesions.found), lesions.num_predicted, lesions.num_false
        yield (*start, int(case.suspected), *counts)
