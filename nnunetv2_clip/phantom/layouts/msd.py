"""The six CT tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.manifest import write_json
from nnunetv2_clip.phantom.layouts.base import (
    Paint,
    Request,
    annotated_classes,
    apple_double_twins,
    oriented,
    paint,
    save_nifti,
)


@dataclass(frozen=True)
class Task:
    """One task as distributed: folder, file name, names of the label values in dataset.json, recipe."""

    folder: str
    file: str
    labels: tuple[str, ...]
    recipe: Paint
    description: str
    reference: str

    @property
    def first_number(self) -> int:
        return 0 if self.folder == "Task03_Liver" else 1


TASKS = {
    "msd_liver": Task(
        "Task03_Liver",
        "liver_{}",
        ("background", "liver", "cancer"),
        ((1, ("liver",)), (2, ("liver_tumor",))),
        "Liver and cancer segmentation",
        "IRCAD Hôpitaux Universitaires",
    ),
    "msd_lung": Task(
        "Task06_Lung",
        "lung_{:03d}",
        ("background", "cancer"),
        ((1, ("lung_tumor",)),),
        "Lung and cancer segmentation",
        "The Cancer Imaging Archive",
    ),
    "msd_pancreas": Task(
        "Task07_Pancreas",
        "pancreas_{:03d}",
        ("background", "pancreas", "cancer"),
        ((1, ("pancreas",)), (2, ("pancreas_tumor",))),
        "Pancreas segmentation",
        "Memorial Sloan Kettering Cancer Center",
    ),
    "msd_hepaticvessel": Task(
        "Task08_HepaticVessel",
        "hepaticvessel_{:03d}",
        ("background", "Vessel", "Tumour"),
        ((1, ("hepatic_vessel",)), (2, ("hepatic_vessel_tumor",))),
        "Hepatic vessels and tumour segmentation",
        "Memorial Sloan Kettering Cancer Center",
    ),
    "msd_spleen": Task(
        "Task09_Spleen",
        "spleen_{}",
        ("background", "spleen"),
        ((1, ("spleen",)),),
        "Spleen Segmentation",
        "Memorial Sloan Kettering Cancer Center",
    ),
    "msd_colon": Task(
        "Task10_Colon",
        "colon_{:03d}",
        ("background", "colon cancer primaries"),
        ((1, ("colon_tumor",)),),
        "Colon Cancer Segmentation",
        "Memorial Sloan Kettering Cancer Center",
    ),
}


def write(request: Request) -> Path:
    """Write the task's folder; returns it."""
    task = TASKS[request.layout]
    root = request.folder / task.folder
    numbers, test_numbers = training_numbers(task), held_back_numbers(task)
    training, test = [], []
    for position, seed in enumerate(request.seeds):
        name = task.file.format(next(numbers))
        _write_case(request, task, root, name, seed, position, labelled=True)
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    for position, seed in enumerate(request.test_seeds, start=len(request.seeds)):
        name = task.file.format(next(test_numbers))
        _write_case(request, task, root, name, seed, position, labelled=False)
        test.append(f"./imagesTs/{name}.nii.gz")
    (root / "imagesTs").mkdir(exist_ok=True)
    write_json(root / "dataset.json", _dataset_json(task, training, test))
    apple_double_twins(root)
    return root


def training_numbers(task: Task) -> Iterator[int]:
    """Train and test share one number line with holes; only the liver's training numbers are contiguous."""
    return (n for n in range(task.first_number, 1000) if task.first_number == 0 or n % 3 != 1)


def held_back_numbers(task: Task) -> Iterator[int]:
    return (n for n in range(131 if task.first_number == 0 else 1, 1000) if task.first_number == 0 or n % 3 == 1)


def _write_case(request: Request, task: Task, root: Path, name: str, seed: int, position: int, labelled: bool) -> None:
    phantom, codes = request.phantom(seed), request.orientation(position)
    image = oriented(phantom.image, phantom.affine, codes)
    image_file = save_nifti(root / ("imagesTr" if labelled else "imagesTs") / f"{name}.nii.gz", image)
    labels = []
    if labelled:
        label_map = oriented(paint(phantom, task.recipe), phantom.affine, codes)
        labels = [save_nifti(root / "labelsTr" / f"{name}.nii.gz", label_map)]
    request.add(name, phantom, image, image_file, labels, annotated_classes(task.recipe) if labelled else ())


def _dataset_json(task: Task, training: list[dict], test: list[str]) -> dict:
    return {
        "name": task.folder.split("_")[1],
        "description": task.description,
        "reference": task.reference,
        "licence": "CC-BY-SA 4.0",
        "release": "1.0 06/08/2018",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(task.labels)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
