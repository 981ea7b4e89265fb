"""The six CT tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.files import write_json
from nnunetv2_clip.phantom.layouts.base import Request, apple_double_twins, claims_ras, numbered
from nnunetv2_clip.phantom.layouts.nifti import Layout, write_cases


@dataclass(frozen=True)
class Task:
    """One task as distributed.

    Attributes:
        file: file names, with {n}, the case number.
        labels: names of the label values from 1 in dataset.json; `classes` are those of the phantom.
    """

    folder: str
    file: str
    labels: tuple[str, ...]
    classes: str
    description: str
    reference: str = "Memorial Sloan Kettering Cancer Center"

    def layout(self, rotated: bool) -> Layout:
        """Train and test share one number line with holes; only the liver's training numbers are contiguous."""
        numbers, test_numbers = range(1000), range(131, 1000)
        if self.folder != "Task03_Liver":
            numbers, test_numbers = [n for n in range(1, 1000) if n % 3 != 1], range(1, 1000, 3)
        image, label, test_image = (f"{part}/{self.file}.nii.gz" for part in ("imagesTr", "labelsTr", "imagesTs"))
        codes, recipe = ("LPS" if rotated else "RAS",), numbered(self.classes)
        return Layout(self.folder, image, label, recipe, numbers, test_image, test_numbers, codes)


TASKS = {
    "msd_liver": Task(
        *("Task03_Liver", "liver_{n}", ("liver", "cancer"), "liver liver_tumor"),
        *("Liver and cancer segmentation", "IRCAD Hôpitaux Universitaires"),
    ),
    "msd_lung": Task(
        *("Task06_Lung", "lung_{n:03d}", ("cancer",), "lung_tumor"),
        *("Lung and cancer segmentation", "The Cancer Imaging Archive"),
    ),
    "msd_pancreas": Task(
        *("Task07_Pancreas", "pancreas_{n:03d}", ("pancreas", "cancer"), "pancreas pancreas_tumor"),
        "Pancreas segmentation",
    ),
    "msd_hepaticvessel": Task(
        *("Task08_HepaticVessel", "hepaticvessel_{n:03d}", ("Vessel", "Tumour"), "hepatic_vessel hepatic_vessel_tumor"),
        "Hepatic vessels and tumour segmentation",
    ),
    "msd_spleen": Task("Task09_Spleen", "spleen_{n}", ("spleen",), "spleen", "Spleen Segmentation"),
    "msd_colon": Task(
        "Task10_Colon", "colon_{n:03d}", ("colon cancer primaries",), "colon_tumor", "Colon Cancer Segmentation"
    ),
}


def write(request: Request) -> Path:
    """Write the task's folder; returns it. Option `rotated_headers`: the arrays are LPS, the headers say RAS."""
    task, rotated = TASKS[request.layout], request.option("rotated_headers", False)
    root = write_cases(request, task.layout(rotated), header=claims_ras if rotated else None)
    (root / "imagesTs").mkdir(exist_ok=True)
    training = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name, case in request.cases.items()
        if not case.is_test
    ]
    test = [f"./imagesTs/{name}.nii.gz" for name, case in request.cases.items() if case.is_test]
    content = {
        "name": task.folder.split("_")[1],
        "description": task.description,
        "reference": task.reference,
        "licence": "CC-BY-SA 4.0",
        "release": "1.0 06/08/2018",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(("background", *task.labels))},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
    write_json(root / "dataset.json", content)
    apple_double_twins(root)
    return root
