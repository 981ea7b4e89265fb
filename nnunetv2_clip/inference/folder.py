"""Predict every case of a folder: a bad case is written down and the others go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import changed_keys, read_json, write_json
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.inputs import Case, read_case
from nnunetv2_clip.inference.outputs import Outputs, collect_statistics, write_outputs
from nnunetv2_clip.inference.postprocessing import Rule, postprocess

RECORD = "prediction"
# What decides the voxels, and may not change in the middle of a folder.
SAME_WHEN_CONTINUED = ("model", "folds", "checkpoint", "step_size", "mirroring", "classes", "postprocessing")


@dataclass(frozen=True)
class Job:
    """What to do with every case.

    Attributes:
        classes: written to the outputs (the predictor may know more, which rules look at).
        rules: post-processing; empty: none.
        settings: recorded beside the outputs.
        tasks: of the output kind `msd` (see `Outputs`).
    """

    output: Path
    kinds: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: tuple[str, ...]
    taxonomy: Taxonomy
    rules: Mapping[str, Rule] = field(default_factory=dict)
    settings: Mapping[str, object] | None = None
    continues: bool = False
    tasks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def outputs(self, case: Case) -> Outputs:
        return Outputs(self.output, case.name, self.kinds, self.classes, self.probabilities, self.tasks)


def predict_cases(predictor: CasePredictor, cases: Sequence[Case], job: Job, part: str = "") -> dict[str, str]:
    """Predict and write all cases; case -> what went wrong, for those that failed.

    Args:
        part: set when several processes share the output folder: keeps their records apart.
    """
    job.output.mkdir(parents=True, exist_ok=True)
    record = _Record(job, part)
    for case in tqdm(cases, "cases", unit="case"):
        if job.continues and job.outputs(case).are_complete():
            continue
        try:
            entry = predict_case(predictor, case, job)
        except UserError as error:
            entry = {"error": str(error)}
        except Exception as error:  # whatever one case does, the others are predicted
            entry = {"error": f"{case.path}: {type(error).__name__}: {error}"}
        for warning in entry.get("warnings", ()):
            tqdm.write(f"Warning: {case.path}: {warning}")
        if "error" in entry:
            tqdm.write(f"Failed: {entry['error']}")
        record.add(case.name, entry)
    if "statistics" in job.kinds:
        collect_statistics(job.output)
    return {case.name: record.errors[case.name] for case in cases if case.name in record.errors}


def require_same_job(job: Job) -> None:
    """A folder is continued as it was begun: its cases keep one meaning, that of the dataset.json beside them.

    Raises:
        UserError: its records name another model, other classes or other options.
    """
    for path in sorted(job.output.glob(f"{RECORD}*.json")) if job.continues else ():
        found = read_json(path, "remove the file")
        other = changed_keys(found, _settings(job), SAME_WHEN_CONTINUED)
        if other:
            raise UserError(
                path,
                f"was made with another choice of {', '.join(other)}",
                "the options with which the folder was begun",
                "choose another -o, or leave out --continue_prediction",
            )


def _settings(job: Job) -> dict:
    return {
        "nnunetv2_clip": __version__,
        **(job.settings or {}),
        "classes": list(job.classes),
        "postprocessing": {name: rule.to_json() for name, rule in job.rules.items()},
    }


def predict_case(predictor: CasePredictor, case: Case, job: Job) -> dict:
    """Predict and write one case; what is worth recording about it."""
    start = time.perf_counter()
    image = read_case(case, predictor.check_size)
    read = time.perf_counter()
    preprocessed = predictor.preprocess(image)
    ready = time.perf_counter()
    prediction = predictor.predict(preprocessed, case.path)
    predicted = time.perf_counter()
    masks = postprocess(prediction.masks, job.rules) if job.rules else prediction.masks
    write_outputs(job.outputs(case), image, masks, prediction.probabilities, job.taxonomy)
    seconds = {
        "read": read - start,
        "preprocess": ready - read,
        **prediction.seconds,
        "write": time.perf_counter() - predicted,
    }
    entry = {"image": str(case.path), "seconds": {key: round(value, 3) for key, value in seconds.items()}}
    if image.warnings:
        entry["warnings"] = list(image.warnings)
    if prediction.num_passes > 1:
        entry["passes"] = prediction.num_passes
    return entry


class _Record:
    """prediction.json: how the folder was made, and how each case went."""

    def __init__(self, job: Job, part: str):
        self._path = job.output / f"{RECORD}{part}.json"
        self._settings = _settings(job)
        self._cases: dict[str, dict] = {}
        if job.continues and self._path.is_file():
            found = read_json(self._path, "remove the file")
            self._cases = found.get("cases", {}) if isinstance(found, dict) else {}
        self.errors: dict[str, str] = {}

    def add(self, name: str, entry: dict) -> None:
        self._cases[name] = entry
        if "error" in entry:
            self.errors[name] = entry["error"]
        write_json(self._path, {**self._settings, "cases": self._cases})
