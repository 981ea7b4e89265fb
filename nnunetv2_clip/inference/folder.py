"""Predict every case of a folder: a bad case is written down and the others go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_record, remove_leftovers, write_json
from nnunetv2_clip.imaging.scans import Case
from nnunetv2_clip.inference.case_predictor import CasePredictor
from nnunetv2_clip.inference.dicom_seg import require_referable
from nnunetv2_clip.inference.inputs import read_case
from nnunetv2_clip.inference.organs import organ_warnings
from nnunetv2_clip.inference.outputs import Outputs, collect_statistics, write_outputs
from nnunetv2_clip.inference.postprocessing import Rule, postprocess
from nnunetv2_clip.job_folder import JobFolder, digest, file_states
from nnunetv2_clip.runner import run_cases
from nnunetv2_clip.trained_model import DATASET_JSON, PLANS_JSON

RECORD = "prediction"
# What makes a job: it decides which voxels a folder holds, and may not change in the middle of one.
JOB = (
    *("model", "weights", "folds", "checkpoint", "images", "step_size", "mirroring", "skip_air"),
    *("classes", "postprocessing"),
)


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
        cases: of this process.
        part: set when several processes share the folder: keeps their records apart.
    """

    same = "the model, images and options with which the folder was begun"
    remedy = "choose another -o, or remove what is in this one"

    def __init__(self, job: Job, cases: Sequence[Case], part: str = ""):
        self.job, self.cases, self.folder = job, cases, job.outputs.folder
        self._own = self.folder / f"{RECORD}{part}.json"
        self._plan = {
            "nnunetv2_clip": __version__,
            **job.settings,
            "classes": list(job.outputs.classes),
            "postprocessing": {name: rule.to_json() for name, rule in job.rules.items()},
        }
        self._written: dict[str, dict] = {}
        self._before: dict[str, dict] = {}

    def claim(self) -> None:
        """A folder belongs to one job: its cases keep one meaning, that of the dataset.json beside them.

        Raises:
            UserError: its records name another model, other images, classes or options; or it has no record but files
                that this job would replace.
        """
        tables = [self.folder / name for name in (DATASET_JSON, PLANS_JSON)]
        results = [path for case in self.cases for path in self.job.outputs.possible_files(case.name)]
        foreign = [path for path in (*tables, *results) if path.exists()]
        records = self._record_files()  # looked for last: another part writes its record first
        if foreign and not records:
            found = f"holds {foreign[0].name}, which no 'nnunetv2_clip predict' has written"
            raise UserError(self.folder, found, "an empty folder, or one to go on with", self.remedy)
        for path in records:
            before = read_record(path)
            if before is not None:  # what a broken one recorded is not done
                self.require_same(before, self._plan, path, JOB)
        self._written, self._before = _cases_of(self._own), self._all_cases()
        self.remove_leftovers()
        remove_leftovers(*{path.parent for path in results})
        self._write()

    def record(self, case_id: str) -> dict | None:
        entry = self._written.get(case_id) or self._before.get(case_id)
        return entry if entry and "error" not in entry else None

    def done_cases(self) -> list[str]:
        """The cases that this and other parts have predicted by now."""
        entries = {**self._all_cases(), **self._written}
        return [name for name, entry in entries.items() if "error" not in entry]

    def _all_cases(self) -> dict[str, dict]:
        return {name: entry for path in self._record_files() for name, entry in _cases_of(path).items()}

    def is_done(self, case_id: str, inputs: object) -> bool:
        return self.job.continues and super().is_done(case_id, inputs)

    def forget(self, case_id: str) -> None:
        """Remove everything that was written of a case; the record goes first."""
        self._before.pop(case_id, None)
        if self._written.pop(case_id, None):
            self._write()
        for path in self.job.outputs.possible_files(case_id):
            path.unlink(missing_ok=True)

    def files(self, case_id: str) -> list[Path]:
        return self.job.outputs.files(case_id)

    def write_record(self, case_id: str, entry: dict) -> None:
        self._written[case_id] = entry
        self._write()

    def _record_files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{RECORD}*.json"))

    def _write(self) -> None:
        write_json(self._own, {**self._plan, "cases": self._written})


def _cases_of(path: Path) -> dict[str, dict]:
    """Case -> its entry in a record; empty for a broken one."""
    cases = (read_record(path) or {}).get("cases")
    return {name: entry for name, entry in cases.items() if isinstance(entry, dict)} if isinstance(cases, dict) else {}


def predict_cases(predictor: CasePredictor, folder: PredictionFolder) -> dict[str, UserError]:
    """Predict and write all cases that are not done; case -> what went wrong, for those that failed.

    What the folder holds of another image goes before the case is predicted, and what it holds of a failed case after.

    Args:
        folder: claimed.
    """
    errors = {}
    waiting = [case for case in folder.cases if not folder.is_done(case.name, _inputs(case))]

    def predict(case: Case) -> dict:
        if (folder.record(case.name) or {}).get("inputs") != _inputs(case):
            folder.forget(case.name)
        return predict_case(predictor, case, folder.job)

    for seen in run_cases(predict, waiting, "cases", name_of=lambda case: case.name, file_of=lambda case: case.path):
        entry = {"error": str(seen.error)} if seen.error else seen.result
        for warning in entry.get("warnings", ()):
            tqdm.write(f"Warning: {seen.task.path}: {warning}", file=sys.stderr)
        for note in entry.get("notes", ()):
            tqdm.write(f"Note: {seen.task.path}: {note}", file=sys.stderr)
        if seen.error:
            errors[seen.name] = seen.error
            folder.forget(seen.name)
        folder.write_record(seen.name, entry)
    if "statistics" in folder.job.outputs.kinds:
        collect_statistics(folder.job.outputs, folder.done_cases())
    return errors


def _inputs(case: Case) -> str:
    return digest(file_states([case.path.resolve()]))


def predict_case(predictor: CasePredictor, case: Case, job: Job) -> dict:
    """Predict and write one case; what is worth recording about it."""
    start, inputs = time.perf_counter(), _inputs(case)
    image = read_case(case, predictor.check_size, predictor.modality)
    if "dicom_seg" in job.outputs.kinds:
        require_referable(case.path, image.source)
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
    wanted = {name: masks[name] for name in job.outputs.classes}
    if warnings := [*image.warnings, *organ_warnings(wanted, image.volume.affine, job.outputs.taxonomy)]:
        entry["warnings"] = warnings
    if image.notes:
        entry["notes"] = list(image.notes)
    if prediction.num_passes > 1:
        entry["passes"] = prediction.num_passes
    return entry
