"""The Medical Segmentation Decathlon as data: its ten tasks, their label values, their test images."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_json
from nnunetv2_clip.imaging.nifti import FILE_ENDING


@dataclass(frozen=True)
class MsdTask:
    """One task of the challenge.

    Attributes:
        folder: name of its folder in the download and in a submission.
        modality: CT or MRI.
        values: label values of its masks beside 0.
        num_test: number of test images of the published task.
        classes: universal class -> label value, organ before tumour; empty for MRI.
        num_training: number of labelled images of the published task, where it is converted.
        title: for people.
    """

    folder: str
    modality: str
    values: tuple[int, ...]
    num_test: int
    classes: Mapping[str, int] = field(default_factory=dict)
    num_training: int | None = None
    title: str = ""

    @property
    def stem(self) -> str:
        """What the names of its files start with."""
        return self.folder.split("_")[1].lower()


def _ct(folder: str, title: str, num_training: int, num_test: int, **classes: int) -> MsdTask:
    return MsdTask(folder, "CT", tuple(classes.values()), num_test, classes, num_training, title)


# Label values: each task's dataset.json. Order: the challenge's.
TASKS: tuple[MsdTask, ...] = (
    MsdTask("Task01_BrainTumour", "MRI", (1, 2, 3), 266),
    MsdTask("Task02_Heart", "MRI", (1,), 10),
    _ct("Task03_Liver", "Liver", 131, 70, liver=1, liver_tumor=2),
    MsdTask("Task04_Hippocampus", "MRI", (1, 2), 130),
    MsdTask("Task05_Prostate", "MRI", (1, 2), 16),
    _ct("Task06_Lung", "Lung", 63, 32, lung_tumor=1),
    _ct("Task07_Pancreas", "Pancreas", 281, 139, pancreas=1, pancreas_tumor=2),
    _ct("Task08_HepaticVessel", "Vessel", 303, 140, hepatic_vessel=1, hepatic_vessel_tumor=2),
    _ct("Task09_Spleen", "Spleen", 41, 20, spleen=1),
    _ct("Task10_Colon", "Colon", 126, 64, colon_tumor=1),
)
CT_TASKS = tuple(task for task in TASKS if task.modality == "CT")
MRI_TASKS = tuple(task for task in TASKS if task.modality == "MRI")


def find_task(name: str, where: object) -> MsdTask:
    """The task of a folder name. Raises UserError: no such task."""
    folders = {task.folder.lower(): task for task in TASKS}
    if name.lower() not in folders:
        near = suggestion(name, folders)
        raise UserError(where, f"unknown task {name!r}.{near}", f"one of {', '.join(task.folder for task in TASKS)}")
    return folders[name.lower()]


def predictable_tasks(classes: Collection[str]) -> dict[str, dict[str, int]]:
    """The CT tasks that have all their classes among these: folder -> class -> label value.

    Raises:
        UserError: there is none.
    """
    tasks = {task.folder: dict(task.classes) for task in CT_TASKS if set(task.classes) <= set(classes)}
    if not tasks:
        needs = "; ".join(f"{task.folder}: {', '.join(task.classes)}" for task in CT_TASKS)
        raise UserError("--outputs msd", f"no task has all its classes among {', '.join(sorted(classes))}", needs)
    return tasks


@dataclass(frozen=True)
class ListedImage:
    """One image of a task's test list: its file name (as a submission must spell it) and where it lies."""

    task: MsdTask
    name: str
    path: Path

    @property
    def label(self) -> str:
        """How messages name it, and its place in a submission."""
        return f"{self.task.folder}/{self.name}"


def listed_images(msd_root: Path, task: MsdTask) -> Iterator[ListedImage]:
    """The test images that the task's dataset.json lists, in its order; they need not exist.

    Raises:
        UserError: the task is not there, or its dataset.json has no usable list `test`.
    """
    path = msd_root / task.folder / "dataset.json"
    if not path.parent.is_dir():
        raise UserError(path.parent, "does not exist", "the task as downloaded and unpacked", "check -i")
    content = read_json(path, "unpack the task's archive again")
    listed = content.get("test") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(path, "has no list 'test'", 'a list such as ["./imagesTs/liver_132.nii.gz", ...]')
    seen: set[str] = set()
    for entry in listed:
        relative = PurePosixPath(entry) if isinstance(entry, str) else None
        if relative is None or relative.is_absolute() or ".." in relative.parts or not entry.endswith(FILE_ENDING):
            raise UserError(path, f"lists the test image {entry!r}", "a path such as ./imagesTs/liver_132.nii.gz")
        if relative.name.startswith("._"):  # leftovers of macOS archives
            continue
        if relative.name in seen:
            raise UserError(path, f"lists the test image {relative.name!r} twice", "every image once")
        seen.add(relative.name)
        yield ListedImage(task, relative.name, path.parent / relative)
