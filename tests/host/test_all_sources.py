"""All sources in one merge: nnU-Net accepts it, learns from it and predicts universal indices with it."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.phantom.layouts import layout_names, write_source

from .conftest import call

SPACING_MM = (10.0, 10.0, 12.0)
OPTIONS = {source: {"numbers": (0, 48, 1)} for source in ("lits", "ct_org")}  # 28-47 have a wrong voxel size
ITERATIONS = 60


@pytest.mark.slow
def test_the_merge_of_all_sources_trains_and_predicts(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_clip_demo_epochs", "1")
    monkeypatch.setenv("nnUNet_clip_demo_iterations", str(ITERATIONS))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    sources = [name for name in layout_names() if name != "custom"]
    arguments = []
    for number, source in enumerate(sources):
        options = OPTIONS.get(source, {})
        seeds = range(10 * number, 10 * number + 2)  # other patients in every source
        written = write_source(source, tmp_path / "source" / source, seeds, spacing_mm=SPACING_MM, **options)
        arguments += ["--source", f"{source}={written.root}"]
    call("nnunetv2_clip", "convert", "-d", 900, "-np", 2, *arguments)
    raw = tmp_path / "nnUNet_raw" / "Dataset900_Universal"
    manifest = json.loads((raw / "label_presence.json").read_text())
    assert {case["dataset"] for case in manifest["cases"].values()} == set(sources)
    assert set().union(*(case["annotated"] for case in manifest["cases"].values())) == set(UNIVERSAL.names)

    call("nnUNetv2_extract_fingerprint", "-d", 900, "-np", 2, "--verify_dataset_integrity")
    call("nnunetv2_clip", "plan", "-d", 900, "-pl", "small", "-gpu_memory_target", 0.01)
    call("nnUNetv2_preprocess", "-d", 900, "-plans_name", "CLIPSmallPlans", "-c", "3d_fullres", "-np", 2)
    call("nnunetv2_clip", "embed", "-d", 900, "--encoder", "minilm")
    model = ("-d", 900, "-c", "3d_fullres", "-f", 0, "-tr", "CLIPUniversalTrainerDemo", "-p", "CLIPSmallPlans")
    call("nnUNetv2_train", *model[1:2], "3d_fullres", 0, *model[6:], "-device", "cpu")

    images = tmp_path / "images"
    images.mkdir()
    for case in ("btcv_0001_0000.nii.gz",):
        (images / case).write_bytes((raw / "imagesTr" / case).read_bytes())
    call("nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", *model, "-device", "cpu", "-npp", 1, "-nps", 1)
    [predicted] = (tmp_path / "out").glob("*.nii.gz")
    values = set(np.unique(np.asanyarray(nib.load(predicted).dataobj)))
    assert values <= {0, *(row.index for row in UNIVERSAL)}
    assert len(values) > 1, "nothing was predicted: the test shows nothing"
