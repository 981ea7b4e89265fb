"""Predict the Decathlon's CT test images with a trained model, each task with its own classes and label values."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip.choices import CHECKPOINT
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_record, replacing, write_json
from nnunetv2_clip.imaging.anatomy import check_anatomy
from nnunetv2_clip.imaging.header_repairs import half_turn
from nnunetv2_clip.imaging.intake import header_findings, scan_warnings
from nnunetv2_clip.imaging.nifti import FILE_ENDING, read_image, write_nifti
from nnunetv2_clip.job_folder import is_readable
from nnunetv2_clip.msd.masks import mask_bytes, open_image, read_integers
from nnunetv2_clip.msd.submission import check_model, refuse
from nnunetv2_clip.msd.tasks import CT_TASKS, ListedImage, MsdTask, listed_images
from nnunetv2_clip.runner import require_all, run_cases
from nnunetv2_clip.trained_model import TrainedModel

RECORD = "predictions_of.json"
WORTH_WORKERS = 4  # images; nnU-Net's worker processes take longer to start than they save for fewer


@dataclass(frozen=True)
class Setup:
    """A trained model and how to run it.

    Attributes:
        folds: None: all that have the checkpoint.
        device: as in `find_device`.
        processes: that read and write images.
        trust_headers: False: images whose header is rotated by 180 degrees beyond doubt (some copies of the
            Decathlon have such) are turned for the network, as `convert` turns them, and the masks turned back.
    """

    model: TrainedModel
    folds: Sequence[str] | None = None
    checkpoint: str = CHECKPOINT
    device: str | None = None
    processes: int = 1
    trust_headers: bool = False


def predict_tasks(setup: Setup, msd_root: Path, predictions: Path) -> None:
    """Fill `predictions`/<task> with the label maps (task values) of every CT task's test images.

    Each task is predicted with its own classes alone, so that overlaps which a universal label map hides
    (a hepatic vessel below a liver tumour) do not touch it.
    A second call goes on where the first was interrupted, and refuses a folder that another model has filled.

    Raises:
        UserError: the model lacks a class or a fold, test images are missing, or the folder belongs to another model.
        CasesFailed: test images that cannot be read.
    """
    check_model(setup.model, CT_TASKS)
    images = {task.folder: _existing_images(msd_root, task) for task in CT_TASKS}
    _claim(predictions, setup)
    for task in tqdm(CT_TASKS, "tasks", unit="task"):
        folder = predictions / task.folder
        folder.mkdir(parents=True, exist_ok=True)
        waiting = [image for image in images[task.folder] if not is_readable(folder / image.name)]
        if waiting:
            _predict(setup, task, waiting, folder)


def _existing_images(msd_root: Path, task: MsdTask) -> list[ListedImage]:
    images = list(listed_images(msd_root, task))
    missing = [f"{image.label}: the test image {image.path} is missing" for image in images if not image.path.is_file()]
    refuse(missing, msd_root)
    return images


def _claim(predictions: Path, setup: Setup) -> None:
    """Write down whose predictions the folder holds, or see that they are the same model's."""
    model, path = setup.model, predictions / RECORD
    weights = model.checksums(model.folds(setup.checkpoint, setup.folds), setup.checkpoint)
    record = {"model": str(model.where.resolve()), "checkpoints": weights, "trust_headers": setup.trust_headers}
    if predictions.is_dir() and any(predictions.iterdir()) and read_record(path) != record:
        found = "holds files of another model, or of other checkpoints, folds or options"
        expected = "an empty folder, or the beginning of the same predictions"
        raise UserError(predictions, found, expected, "remove the folder, or choose another -o")
    write_json(path, record)


def _predict(setup: Setup, task: MsdTask, images: Sequence[ListedImage], folder: Path) -> None:
    from nnunetv2_clip.inference.loading import load_predictor

    jobs = [TurnJob(image, folder) for image in images]
    turned = []
    if not setup.trust_headers:
        tried = run_cases(turn_if_half_turned, jobs, "anatomy", setup.processes, lambda job: job.image.label)
        turned = [job for job in require_all(tried, "test images") if job]
    sources = [job.turned if job in turned else job.image.path for job in jobs]
    targets = [job.turned_mask if job in turned else job.mask for job in jobs]
    predictor = load_predictor(
        setup.model, tuple(task.classes), dict(task.classes), setup.folds, setup.checkpoint, setup.device
    )
    files = [[str(path)] for path in sources], [str(path)[: -len(FILE_ENDING)] for path in targets]
    if setup.processes <= 1 or len(images) < WORTH_WORKERS:
        predictor.predict_from_files_sequential(*files)
    else:
        predictor.predict_from_files(
            *files, num_processes_preprocessing=setup.processes, num_processes_segmentation_export=setup.processes
        )
    for job in turned:
        turn_back(job)
        print(f"{job.image.label}: its header is rotated by 180 degrees; predicted upright, mask on the image's grid")


@dataclass(frozen=True)
class TurnJob:
    """A test image, its task's folder of predictions, and there its turned copy if it needs one."""

    image: ListedImage
    folder: Path

    @property
    def mask(self) -> Path:
        return self.folder / self.image.name

    @property
    def turned(self) -> Path:
        return self.folder / "turned" / self.image.name

    @property
    def turned_mask(self) -> Path:
        return self.folder / "turned" / "masks" / self.image.name


def turn_if_half_turned(job: TurnJob) -> TurnJob | None:
    """Write a copy with the right header if the image's own is rotated by 180 degrees beyond doubt; else None.

    Raises:
        UserError: the image cannot be read.
    """
    volume = read_image(job.image.path)
    if not check_anatomy(volume).is_half_turned:
        for warning in scan_warnings(job.image.path, volume, "read", header_findings(job.image.path)):
            tqdm.write(f"Warning: {job.image.label}: {warning}", file=sys.stderr)
        return None
    job.turned_mask.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(job.turned, volume.data, half_turn(volume).affine)
    return job


def turn_back(job: TurnJob) -> None:
    """The mask of a turned copy, voxel by voxel, with the header of the test image itself."""
    mask = read_integers(open_image(job.turned_mask))
    with replacing(job.mask) as beside:
        beside.write_bytes(mask_bytes(mask, open_image(job.image.path)))
