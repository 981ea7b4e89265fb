"""A submission to the Medical Segmentation Decathlon: one zip with ten task folders, or a list of what is wrong."""

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing
from nnunetv2_clip.msd.masks import BadMask, check_geometry, mask_bytes, open_image, task_mask
from nnunetv2_clip.msd.post_processing import PostProcessing
from nnunetv2_clip.msd.tasks import CT_TASKS, TASKS, ListedImage, MsdTask, listed_images
from nnunetv2_clip.runner import CasesFailed, run_cases
from nnunetv2_clip.trained_model import DATASET_JSON, ModelTables

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same masks give the same zip


@dataclass(frozen=True)
class TaskPredictions:
    """Where the predictions of a task lie.

    Attributes:
        folder: holds them, in a sub-folder of the task's name or directly.
        taxonomy: the classes whose universal indices were painted; None: the files hold the task's own values.
    """

    folder: Path
    taxonomy: Taxonomy | None = None

    def path(self, image: ListedImage) -> Path:
        in_task_folder = self.folder / image.task.folder
        return (in_task_folder if in_task_folder.is_dir() else self.folder) / image.name


@dataclass(frozen=True)
class Entry:
    """One file of the submission that is to be made."""

    image: ListedImage
    source: TaskPredictions
    post: PostProcessing | None = None


def prediction_source(folder: Path) -> TaskPredictions:
    """A folder of painted label maps as nnUNetv2_predict writes them.

    Raises:
        UserError: the folder is not there, or a dataset.json beside the predictions shows another model.
    """
    if not folder.is_dir():
        raise UserError(folder, "is no folder", "predictions", "check -pred")
    tasks_of = {folder: CT_TASKS, **{folder / task.folder: (task,) for task in CT_TASKS}}
    taxonomy = UNIVERSAL
    for place, tasks in tasks_of.items():  # nnU-Net leaves the model's plans and dataset.json beside its predictions
        tables = ModelTables.beside(place)
        taxonomy = tables.taxonomy if len(tables.taxonomy) > len(taxonomy) else taxonomy
        if DATASET_JSON in tables.files:
            check_model(tables, tasks)
    return TaskPredictions(folder, taxonomy)


def check_model(model: ModelTables, tasks: Iterable[MsdTask]) -> None:
    """Raises UserError unless the model paints universal indices and has learnt every class of the tasks."""
    index_of = {row.name: row.index for row in model.taxonomy}
    wrong = [name for name in model.classes if model.painted_values.get(name) != index_of.get(name, -1)]
    if wrong:
        found = f"the model does not paint universal indices for {wrong}"
        expected = "predictions of a model trained with nnunetv2_clip"
        remedy = "give predictions of such a model, with the plans.json and dataset.json that nnU-Net left beside them"
        raise UserError(model.label(DATASET_JSON), found, expected, remedy)
    known = model.known or ()
    missing = [f"{name} ({task.folder})" for task in tasks for name in task.classes if name not in known]
    if missing:
        found, expected = f"the model does not know {', '.join(missing)}", "every class of the challenge's CT tasks"
        raise UserError(model.where, found, expected, "train with datasets that annotate them")


def plan(
    sources: Mapping[str, TaskPredictions], msd_root: Path, rules: Mapping[str, PostProcessing] = MappingProxyType({})
) -> list[Entry]:
    """Every file of the submission, after checks that need file headers only.

    Args:
        sources: task folder -> predictions, for every task that goes into the zip.
        rules: task folder -> post-processing.

    Raises:
        UserError: a list of everything missing or mismatching.
    """
    problems: list[str] = []
    entries: list[Entry] = []
    for task in (task for task in TASKS if task.folder in sources):
        try:
            images = list(listed_images(msd_root, task))
        except UserError as error:
            problems.append(str(error))
            continue
        own = [Entry(image, sources[task.folder], rules.get(task.folder)) for image in images]
        problems += filter(None, map(_first_problem, own))
        entries += own
    refuse(problems, f"submission of {msd_root}")
    return entries


def _first_problem(entry: Entry) -> str | None:
    file, path = "test image", entry.image.path
    try:
        reference = open_image(path)
        file, path = "prediction", entry.source.path(entry.image)
        check_geometry(open_image(path), reference)
    except BadMask as error:
        return f"{entry.image.label}: the {file} {path} {error}"
    return None


def refuse(problems: Sequence[str], where: object, most: int = 200) -> None:
    """Raises UserError with all problems (up to `most` lines), if there are any."""
    if problems:
        more = [f"and {len(problems) - most} more"] if len(problems) > most else []
        lines = "".join(f"\n  - {line}" for line in [*problems[:most], *more])
        found = f"{len(problems)} problem{'s' * (len(problems) > 1)}:{lines}\n"
        remedy = "mend the list above and run the same command again; nothing was written"
        raise UserError(where, found, "one 3-D mask per test image, on the grid of that image", remedy)


def write_submission(entries: Sequence[Entry], output: Path, workers: int = 1) -> None:
    """Write the zip; an unusable prediction leaves nothing behind.

    Args:
        entries: from `plan`.
        workers: processes that read and compress masks.

    Raises:
        CasesFailed: a list of all predictions with damaged or foreign voxels.
    """
    errors: dict[str, UserError] = {}
    with replacing(output) as beside:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:  # masks are compressed already
            for made in run_cases(make_mask, entries, "export", workers, lambda entry: entry.image.label):
                if made.error:
                    errors[made.name] = made.error
                elif not errors:
                    archive.writestr(_zip_info(made.name), made.result)
        if errors:
            remedy = "correct them and run the same command again; nothing was written"
            raise CasesFailed(f"submission {output}", errors, len(entries), remedy)


def make_mask(entry: Entry) -> bytes:
    """The file of one mask. Raises UserError: the prediction cannot be used."""
    path = entry.source.path(entry.image)
    try:
        reference, prediction = open_image(entry.image.path), open_image(path)
        check_geometry(prediction, reference)
        mask = task_mask(prediction, entry.image.task, entry.source.taxonomy, entry.post)
        return mask_bytes(mask, reference)
    except BadMask as error:
        raise UserError(f"the prediction {path}", str(error)) from None


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, ZIP_TIME)
    info.external_attr = 0o644 << 16
    return info


def count_notes(entries: Iterable[Entry]) -> list[str]:
    """Tasks whose test list is not as long as the published one (a cut-down download, a phantom)."""
    counts = Counter(entry.image.task.folder for entry in entries)
    return [
        f"{task.folder} lists {counts[task.folder]} test images; the published task has {task.num_test}"
        for task in TASKS
        if counts[task.folder] not in (0, task.num_test)
    ]
