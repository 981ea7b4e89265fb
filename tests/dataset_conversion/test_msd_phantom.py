"""Phantoms in the layout of the real tasks: after conversion every voxel holds exactly the classes of the truth."""

import json

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.phantom.layouts.base import write_source

SOURCES = ("msd_liver", "msd_lung", "msd_pancreas", "msd_hepaticvessel", "msd_spleen", "msd_colon")


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize("source", SOURCES)
def test_every_voxel_agrees_with_the_truth(source, nnunet, convert, tmp_path):
    written = write_source(
        source, tmp_path / "phantom", (1, 2), (3,), spacing_mm=(12.0, 12.0, 12.0), orientation=("LPS", "IPL")
    )
    assert convert("--source", f"{source}={written.root}")[0] == 0
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    manifest = json.loads((nnunet.preprocessed / "label_presence.json").read_text())["cases"]
    labelled = {f"msd_{case_id}": case for case_id, case in written.cases.items() if not case.is_test}
    assert set(manifest) == set(labelled)
    table = LabelTable.of()
    for case_id, case in labelled.items():
        annotated = manifest[case_id]["annotated"]
        assert sorted(annotated) == sorted(case.annotated)
        truth = voxels(case.truth)
        converted = voxels(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz")
        assert converted.any()
        for name in annotated:
            assert np.array_equal(np.isin(converted, labels[name]), np.isin(truth, table.values_of(name))), name
        for name in set(UNIVERSAL.names) - set(annotated):
            assert not np.isin(converted, labels[name]).any(), name
