"""The outcome of an evaluation: metrics per case and class, their summary, and the file that other commands read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.tables import number
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.runner import CasesFailed

SCHEMA_VERSION = 1
ANNOTATED, ABSENT, INCOMPLETE = "annotated", "absent", "incomplete"
METRICS = ("Dice", "NSD", "HD95", "volume_difference_ml")
RECALL = "recall"  # the one metric of incomplete pairs
COUNTS = ("n_ref", "n_pred", "n_overlap")
RULES = {
    "pairs": "only classes that are annotated or known to be absent in the case",
    "Dice": "2|A and B| / (|A| + |B|); both empty: not defined and left out of means; one empty: 0",
    "NSD": "surface Dice at the tolerance; both empty: not defined; one empty: 0",
    "HD95": "95th percentile of the surface distances in mm, the larger direction; not defined if a mask is empty",
    "volume_difference_ml": "predicted minus reference volume",
    "incomplete": "of what was drawn the share that is predicted; no other metric, and in no other figure",
    "ignore": "voxels of the ignore label belong to no mask",
}


@dataclass(frozen=True)
class PairScore:
    """One class in one case.

    Attributes:
        state: "annotated", "absent" where the class is known not to occur, or "incomplete".
        metrics: names out of METRICS and COUNTS, of incomplete pairs RECALL and counts; NaN where one is not defined.
    """

    case_id: str
    dataset: str
    class_name: str
    state: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Statistic:
    """Mean, standard deviation (n - 1) and median over the n defined values; NaN where they do not exist."""

    n: int
    mean: float
    std: float
    median: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Statistic:
        known = [float(value) for value in values if not math.isnan(value)]
        nan = float("nan")
        if not known:
            return cls(0, nan, nan, nan)
        return cls(len(known), fmean(known), stdev(known) if len(known) > 1 else nan, median(known))


def plus_minus(values: Statistic, digits: int = 3) -> str:
    """mean ± std for a table; the mean alone where one value has no deviation, a dash where there is none."""
    return number(values.mean, digits) + (f" ± {number(values.std, digits)}" if math.isfinite(values.std) else "")


@dataclass(frozen=True)
class Evaluation:
    """All pairs of one evaluation.

    Attributes:
        class_order: classes in the order of tables.
        leaked: cases whose scan also stood in the model's training, with the reason; not in headline figures.
        settings: folders, tolerances and whatever else decides the numbers.
        notes: what a reader must know (classes left out, references without prediction, cases that failed).
        failed: case -> why it could not be scored; known to the run alone that scored the others.
    """

    pairs: tuple[PairScore, ...]
    class_order: tuple[str, ...]
    leaked: dict[str, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failed: dict[str, UserError] = field(default_factory=dict)

    def require_all(self, title: str) -> None:
        """Raises CasesFailed: some case could not be scored."""
        if self.failed:
            raise CasesFailed(title, self.failed, len({pair.case_id for pair in self.pairs} | set(self.failed)))

    @property
    def complete_pairs(self) -> tuple[PairScore, ...]:
        """Those whose truth is known in every voxel."""
        return tuple(pair for pair in self.pairs if pair.state != INCOMPLETE)

    @property
    def headline_pairs(self) -> tuple[PairScore, ...]:
        return tuple(pair for pair in self.complete_pairs if pair.case_id not in self.leaked)

    @property
    def leaked_pairs(self) -> tuple[PairScore, ...]:
        return tuple(pair for pair in self.complete_pairs if pair.case_id in self.leaked)

    @property
    def recalls(self) -> dict[str, Statistic]:
        """Class -> recall of what was drawn, over the cases in which the class is incomplete and that were not seen."""
        pairs = [pair for pair in self.pairs if pair.state == INCOMPLETE and pair.case_id not in self.leaked]
        of_class = {name: [pair for pair in pairs if pair.class_name == name] for name in self.class_order}
        return {name: Statistic.of(pair.metrics[RECALL] for pair in own) for name, own in of_class.items() if own}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were computed."""
        present = set().union(*(pair.metrics for pair in self.pairs))
        return tuple(metric for metric in METRICS if metric in present)

    def datasets(self) -> tuple[str, ...]:
        return tuple(sorted({pair.dataset for pair in self.headline_pairs}))

    def summarise(self, pairs: Iterable[PairScore]) -> dict[str, dict[str, Statistic]]:
        """Class -> metric -> statistic, for the classes that occur in `pairs`."""
        by_class: dict[str, list[PairScore]] = {}
        for pair in pairs:
            by_class.setdefault(pair.class_name, []).append(pair)
        return {
            name: {metric: Statistic.of(pair.metrics[metric] for pair in by_class[name]) for metric in self.metrics}
            for name in self.class_order
            if name in by_class
        }

    def mean_over_classes(self, pairs: Iterable[PairScore]) -> dict[str, Statistic]:
        """Metric -> statistic over the class means: every class counts the same."""
        table = self.summarise(pairs)
        return {metric: Statistic.of(row[metric].mean for row in table.values()) for metric in self.metrics}

    def save(self, path: Path) -> None:
        """Write as JSON (NaN as null), beside first, then rename."""
        write_json(path, strict_json(self.to_json()))

    def to_json(self) -> dict:
        """What `strict_json` makes JSON of."""
        return {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"nnunetv2_clip {__version__}",
            "settings": self.settings,
            "rules": RULES,
            "notes": list(self.notes),
            "class_order": list(self.class_order),
            "classes": self.summarise(self.headline_pairs),
            "mean_over_classes": self.mean_over_classes(self.headline_pairs),
            "datasets": {
                dataset: self.summarise(pair for pair in self.headline_pairs if pair.dataset == dataset)
                for dataset in self.datasets()
            },
            "incomplete": self.recalls,
            "leaked": {"cases": self.leaked, "classes": self.summarise(self.leaked_pairs)},
            "pairs": self.pairs,
        }

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """The evaluation in an evaluation.json, or in the folder that holds one.

        Raises:
            UserError: no evaluation of this version.
        """
        path = Path(path)
        path = path / "evaluation.json" if path.is_dir() else path
        content = read_json(path, "run 'nnunetv2_clip evaluate', which writes evaluation.json")
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION or "pairs" not in content:
            raise UserError(path, "is no evaluation.json of this version", "the file that 'evaluate' writes")
        try:
            nan = float("nan")
            pairs = tuple(
                PairScore(**{**pair, "metrics": {k: nan if v is None else v for k, v in pair["metrics"].items()}})
                for pair in content["pairs"]
            )
            leaked = content.get("leaked", {}).get("cases", {})
            notes, order = tuple(content.get("notes", ())), tuple(content["class_order"])
        except (AttributeError, KeyError, TypeError):
            raise UserError(path, "is damaged", "the file that 'evaluate' writes", "evaluate again") from None
        return cls(pairs, order, leaked, content.get("settings", {}), notes)


def strict_json(value: object) -> object:
    """Dataclasses as tables, NaN and infinity as null, which every JSON reader takes."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
