"""Predict every case of a folder: a bad case is written down and the others go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_record, write_json
from nnunetv2_clip.imaging.scans import Case
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.inputs import read_case
from nnunetv2_clip.inference.outputs import Outputs, collect_statistics, write_outputs
from nnunetv2_clip.inference.postprocessing import Rule, postprocess
from nnunetv2_clip.job_folder import JobFolder, digest, file_states
from nnunetv2_clip.runner import run_cases

RECORD = "prediction"
# What decides the voxels, and may not change in the middle of a folder.
SAME_WHEN_CONTINUED = ("model", "folds", "checkpoint", "step_size", "mirroring", "classes", "postprocessing")


@dataclass(frozen=True)
class Job:
    """What to do with every case.

    Attributes:
        rules: post-processing; empty: none.
        settings: recorded beside the outputs.
        continues: leave out what the folder holds already.
    """

    outputs: Outputs
    rules: Mapping[str, Rule]
    settings: Mapping[str, object]
    continues: bool = False


class PredictionFolder(JobFolder):
    """The output folder; its prediction*.json say how it was made, and how each case went.

    Args:
        part: set when several processes share the folder: keeps their records apart.
    """

    same = "the options with which the folder was begun"
    remedy = "choose another -o, or leave out --continue_prediction"

    def __init__(self, job: Job, part: str = ""):
        self.job, self.folder = job, job.outputs.folder
        self._own = self.folder / f"{RECORD}{part}.json"
        self._plan = {
            "nnunetv2_clip": __version__,
            **job.settings,
            "classes": list(job.outputs.classes),
            "postprocessing": {name: rule.to_json() for name, rule in job.rules.items()},
        }
        before = dict(self._records())
        self._written: dict[str, dict] = before.get(self._own, {}).get("cases", {})
        entries = [pair for record in before.values() for pair in record.get("cases", {}).items()]
        self._done = {name: entry for name, entry in entries if "error" not in entry}

    def claim(self) -> None:
        """A folder is continued as it was begun: its cases keep one meaning, that of the dataset.json beside them.

        Raises:
            UserError: its records name another model, other classes or other options.
        """
        for path, before in self._records():
            self.require_same(before, self._plan, path, SAME_WHEN_CONTINUED)
        self.remove_leftovers()
        self._write()

    def record(self, case_id: str) -> dict | None:
        return self._done.get(case_id)

    def files(self, case_id: str) -> list[Path]:
        return self.job.outputs.files(case_id)

    def write_record(self, case_id: str, entry: dict) -> None:
        self._written[case_id] = entry
        self._write()

    def _records(self) -> Iterator[tuple[Path, dict]]:
        for path in sorted(self.folder.glob(f"{RECORD}*.json")) if self.job.continues else ():
            record = read_record(path)
            if record is not None:  # what a broken one recorded is not done
                yield path, record

    def _write(self) -> None:
        write_json(self._own, {**self._plan, "cases": self._written})


def predict_cases(predictor: CasePredictor, cases: Sequence[Case], folder: PredictionFolder) -> dict[str, UserError]:
    """Predict and write all cases that are not done; case -> what went wrong, for those that failed.

    Args:
        folder: claimed.
    """
    errors = {}
    waiting = [case for case in cases if not folder.is_done(case.name, _inputs(case))]
    predict = lambda case: predict_case(predictor, case, folder.job)  # noqa: E731
    for seen in run_cases(predict, waiting, "cases", name_of=lambda case: case.name, file_of=lambda case: case.path):
        entry = {"error": str(seen.error)} if seen.error else seen.result
        for warning in entry.get("warnings", ()):
            tqdm.write(f"Warning: {seen.task.path}: {warning}")
        for note in entry.get("notes", ()):
            tqdm.write(f"Note: {seen.task.path}: {note}")
        if seen.error:
            tqdm.write(f"Failed: {seen.error}")
            errors[seen.name] = seen.error
        folder.write_record(seen.name, entry)
    if "statistics" in folder.job.outputs.kinds:
        collect_statistics(folder.folder)
    return errors


def _inputs(case: Case) -> str:
    return digest(file_states([case.path.resolve()]))


def predict_case(predictor: CasePredictor, case: Case, job: Job) -> dict:
    """Predict and write one case; what is worth recording about it."""
    start, inputs = time.perf_counter(), _inputs(case)
    image = read_case(case, predictor.check_size)
    read = time.perf_counter()
    preprocessed = predictor.preprocess(image)
    ready = time.perf_counter()
    prediction = predictor.predict(preprocessed, case.path)
    predicted = time.perf_counter()
    masks = postprocess(prediction.masks, job.rules) if job.rules else prediction.masks
    write_outputs(job.outputs, case.name, image, masks, prediction.probabilities)
    seconds = {
        "read": read - start,
        "preprocess": ready - read,
        **prediction.seconds,
        "write": time.perf_counter() - predicted,
    }
    rounded = {key: round(value, 3) for key, value in seconds.items()}
    entry = {"image": str(case.path), "inputs": inputs, "seconds": rounded}
    if image.warnings:
        entry["warnings"] = list(image.warnings)
    if image.notes:
        entry["notes"] = list(image.notes)
    if prediction.num_passes > 1:
        entry["passes"] = prediction.num_passes
    return entry
