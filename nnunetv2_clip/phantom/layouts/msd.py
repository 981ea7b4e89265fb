"""The six CT tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.files import write_json
from nnunetv2_clip.phantom.layouts.base import (
    UNIT_SPACING_NUMBERS,
    Paint,
    Request,
    annotated_classes,
    apple_double_twins,
    claims_ras,
    painted,
    unit_spacing,
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
    """Write the task's folder; returns it. Option `rotated_headers`: the arrays are LPS, the headers say RAS."""
    task, rotated = TASKS[request.layout], request.option("rotated_headers", False)
    root = request.folder / task.folder
    training, test = [], []
    for number, seed, labelled in request.numbers(training_numbers(task), held_back_numbers(task)):
        name, part = task.file.format(number), "imagesTr" if labelled else "imagesTs"
        change = unit_spacing if task.folder == "Task03_Liver" and number in UNIT_SPACING_NUMBERS else None
        change = claims_ras if rotated else change
        scan = request.scan(seed, ("LPS",) if rotated else ("RAS",))
        image = scan.save(root / part / f"{name}.nii.gz", scan.phantom.image, change)
        if not labelled:
            test.append(f"./imagesTs/{name}.nii.gz")
            request.add(name, scan, image)
            continue
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        label = scan.save(root / "labelsTr" / f"{name}.nii.gz", painted(scan.phantom, task.recipe), change)
        request.add(name, scan, image, [label], annotated_classes(task.recipe))
    (root / "imagesTs").mkdir(exist_ok=True)
    write_json(root / "dataset.json", _dataset_json(task, training, test))
    apple_double_twins(root)
    return root


def training_numbers(task: Task) -> Iterator[int]:
    """Train and test share one number line with holes; only the liver's training numbers are contiguous."""
    return (n for n in range(task.first_number, 1000) if task.first_number == 0 or n % 3 != 1)


def held_back_numbers(task: Task) -> Iterator[int]:
    return (n for n in range(131 if task.first_number == 0 else 1, 1000) if task.first_number == 0 or n % 3 == 1)


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
