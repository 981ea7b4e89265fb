"""Detection as files: the layout of the paper's Table 4, lesion figures, and every case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunetv2_clip.evaluation.detection import NOTHING, CaseDetection, Detection, Rate, figures
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
        (name, _percent(figure.lesion_recall), _with_interval(figure.false_lesions_per_case, 1, 2))
        for name, figure in found.items()
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


def _with_interval(rate: Rate, scale: int, digits: int) -> str:
    low, high = (number(scale * bound, digits) for bound in rate.interval)
    return f"{number(scale * rate.value, 2)} [{low}, {high}] ({rate.n})"


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
