"""Tiny source datasets on disk, and a run of the command line in nnU-Net folders of its own."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (8, 9, 10)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, -2, 0, 8], [0, 0, 5, -20], [0, 0, 0, 1]])  # LPS

TASKS = {"msd_liver": "Task03_Liver", "msd_lung": "Task06_Lung", "msd_spleen": "Task09_Spleen"}


class Folder:
    """Writes images and labels; every image is another scan unless `seed` is given twice."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, name: str, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), path)
        return path

    def image(self, name: str, seed: int, **options) -> Path:
        return self.save(name, scan(seed), **options)

    def label(self, name: str, *values: int, **options) -> Path:
        """Voxel (i, 0, 0) has the i-th value, the rest is background."""
        label = np.zeros(SHAPE, np.uint8)
        label[: len(values), 0, 0] = values
        return self.save(name, label, **options)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "source")


@pytest.fixture
def msd(folder):
    """msd(source, number of cases, *label values) writes a task with the junk of the real archives."""

    def write(source: str, num_cases: int, *values: int, first_seed: int = 0) -> Path:
        root, name = TASKS[source], source.removeprefix("msd_")
        for number in range(num_cases):
            folder.image(f"{root}/imagesTr/{name}_{number}.nii.gz", first_seed + number)
            folder.label(f"{root}/labelsTr/{name}_{number}.nii.gz", *values)
            for part in ("imagesTr", "labelsTr"):
                (folder.path / root / part / f"._{name}_{number}.nii.gz").write_bytes(b"\x00\x05\x16\x07junk")
        folder.image(f"{root}/imagesTs/{name}_77.nii.gz", 77)
        (folder.path / root / "imagesTr" / ".DS_Store").write_bytes(b"junk")
        return folder.path / root

    return write


@pytest.fixture
def nnunet(tmp_path, monkeypatch):
    """nnU-Net's folders: `nnunet.raw` and `nnunet.preprocessed` of dataset 900, which do not exist yet."""

    class Folders:
        raw = tmp_path / "nnUNet_raw" / "Dataset900_Universal"
        preprocessed = tmp_path / "nnUNet_preprocessed" / "Dataset900_Universal"

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return Folders


@pytest.fixture
def convert(nnunet, capsys):
    """convert(*arguments) runs the command line; returns (exit code, text on stderr)."""
    from nnunetv2_clip.cli import main

    def run(*arguments, dataset="900"):
        code = main(["convert", "-d", dataset, "-np", "1", *map(str, arguments)])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def converted(nnunet):
    """What the last run wrote: `converted.cases`, the manifest; `converted.mask(case, class)`, its voxels."""
    import json

    from nnunetv2_clip.manifest import Manifest

    class Converted:
        @property
        def cases(self):
            return Manifest.load(nnunet.raw / "label_presence.json").cases

        def label(self, case_id):
            return nib.load(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz")

        def image(self, case_id):
            return nib.load(nnunet.raw / "imagesTr" / f"{case_id}_0000.nii.gz")

        def mask(self, case_id, name):
            regions = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
            return np.isin(np.asanyarray(self.label(case_id).dataobj), regions[name])

    return Converted()
