"""What pseudo labelling did: one line per case and class for scripts, a summary for people."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from nnunetv2_clip.files import write_csv, write_text
from nnunetv2_clip.pseudo_labels.case import PairResult

TABLE, SUMMARY = "pseudo_labels.csv", "pseudo_labels.txt"
LEFT = "Still unknown, because the prediction is too uncertain:"  # heads the last part of the summary
COLUMNS = ("case", "class", "voxels", "ml", "uncertainty", "contradicted_voxels", "kept", "reason")


def write_report(folder: Path, results: Sequence[PairResult], rules, model: str) -> None:
    """pseudo_labels.csv and pseudo_labels.txt in the dataset's folder; `rules` is label.Rules, `model` its name."""
    rows = [
        (
            result.case,
            result.name,
            result.voxels,
            f"{result.ml:.3f}",
            f"{result.uncertainty:.4f}",
            result.contradicted,
            "yes" if result.is_kept else "no",
            _reason(result, rules.max_uncertainty),
        )
        for result in results
    ]
    write_csv(folder / TABLE, [COLUMNS, *rows])
    write_text(folder / SUMMARY, "\n".join([f"Model: {model}", *summary_lines(results, rules)]) + "\n")


def _reason(result: PairResult, max_uncertainty: float) -> str:
    """Why a pair is as it is, in words."""
    if not result.is_kept:
        return f"uncertainty above {max_uncertainty:g}"
    return "" if result.voxels else "predicted to be absent"


def summary_lines(results: Sequence[PairResult], rules) -> list[str]:
    """A line for each class, then every pair that stays unknown."""
    kept = sum(result.is_kept for result in results)
    lines = [
        f"{kept} of {len(results)} unknown (case, class) pairs got pseudo labels of weight {rules.weight:g} "
        f"(threshold {rules.threshold:g}, uncertainty at most {rules.max_uncertainty:g}).",
        "",
        f"{'class':26} {'unknown':>7} {'kept':>5} {'empty':>5} {'median ml':>10} {'median uncertainty':>18}",
    ]
    for name in dict.fromkeys(result.name for result in results):
        own = [result for result in results if result.name == name]
        there = [result for result in own if result.is_kept]
        ml = f"{median(result.ml for result in there):10.1f}" if there else f"{'-':>10}"
        lines.append(
            f"{name:26} {len(own):7} {len(there):5} {sum(not result.voxels for result in there):5} {ml} "
            f"{median(result.uncertainty for result in own):18.3f}"
        )
    left = [result for result in results if not result.is_kept]
    if left:
        lines += ["", f"{len(left)} pairs stay unknown, because the prediction is too uncertain.", "", LEFT]
        lines += [f"  {result.case}: {result.name} ({result.uncertainty:.3f})" for result in left]
    return lines
