"""A merge as the planners see it: dataset.json, manifest and fingerprint, no images."""

import json

import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.manifest import FILE_NAME, CasePresence, Manifest

NAME = "Dataset903_Planned"
NUM_CASES = 20


@pytest.fixture
def merge(tmp_path, monkeypatch):
    """Folder of the preprocessed dataset. Cases of 300 x 400 x 400 mm at 3 x 1 x 1 mm; one annotates four classes."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    raw, preprocessed = tmp_path / "nnUNet_raw" / NAME, tmp_path / "nnUNet_preprocessed" / NAME
    cases = [f"case_{i:03d}" for i in range(NUM_CASES)]
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    for case in cases:
        (raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
        (raw / "labelsTr" / f"{case}.nii.gz").touch()
    write(
        raw / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **{row.name: [row.index] for row in UNIVERSAL}},
            "regions_class_order": [row.index for row in UNIVERSAL],
            "numTraining": NUM_CASES,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
        },
    )
    annotated = [("liver",)] * (NUM_CASES - 1) + [("liver", "spleen", "stomach", "aorta")]
    presence = {case: CasePresence("source", classes) for case, classes in zip(cases, annotated, strict=True)}
    Manifest(UNIVERSAL, presence).save(raw / FILE_NAME)
    statistics = {"mean": 90, "std": 40, "median": 95, "min": -900, "max": 2000}
    write(
        preprocessed / "dataset_fingerprint.json",
        {
            "spacings": [[3.0, 1.0, 1.0]] * NUM_CASES,
            "shapes_after_crop": [[100, 400, 400]] * NUM_CASES,
            "foreground_intensity_properties_per_channel": {
                "0": {**statistics, "percentile_00_5": -50, "percentile_99_5": 210}
            },
            "median_relative_size_after_cropping": 1.0,
        },
    )
    return preprocessed


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
