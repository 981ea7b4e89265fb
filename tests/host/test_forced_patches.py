"""nnU-Net's own loader places forced patches as our weights say; without them as it always has."""

import json
from collections import Counter
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import class_names, classes_of_regions
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.phantom.layouts import write_source
from nnunetv2_clip.training.forced_patches import ClassDraw, ForcedPatches, PatchCounts
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer

DRAWS = 1200
TOLERANCE = 0.05  # 3.5 standard deviations of a share of one half


def loader(dataset, dataset_json):
    """nnU-Net's, with patches of one voxel, so that a patch tells its reason."""
    labels = LabelManager(dataset_json["labels"], dataset_json["regions_class_order"])
    return nnUNetDataLoader(dataset, 1, (1, 1, 1), (1, 1, 1), labels)


def values_of_patches(dataset, dataset_json, force=True, draws=DRAWS):
    """The label values of patches that nnU-Net places, and how often each."""
    host, found = loader(dataset, dataset_json), Counter()
    for _ in range(draws):
        _, labels, _, properties = dataset.load_case(dataset.identifiers[0])
        corner, _ = host.get_bbox(labels.shape[1:], force, properties["class_locations"])
        found[int(labels[(0, *corner)])] += 1
    return found


@pytest.fixture
def united(tmp_path, nnunet, convert):
    """One scan that LiTS and AbdomenCT-1K both label, as nnU-Net's preprocessing hands it to the loader."""
    named = []
    for layout in ("lits", "abdomenct_1k"):
        written = write_source(layout, tmp_path / layout, [3], spacing_mm=(8.0, 8.0, 8.0))
        named += ["--source", f"{layout}={written.root}"]
    assert convert(*named)[0] == 0
    dataset_json = json.loads((nnunet.raw / "dataset.json").read_text())
    [(case_id, case)] = Manifest.load(nnunet.raw / "label_presence.json").cases.items()
    labels = np.asanyarray(nib.load(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz").dataobj)[None].astype(np.int16)
    keys = LabelManager(dataset_json["labels"], dataset_json["regions_class_order"]).foreground_regions
    locations = DefaultPreprocessor._sample_foreground_locations(labels, keys)
    stored = (np.zeros_like(labels, np.float32), labels, None, {"class_locations": locations})
    dataset = SimpleNamespace(identifiers=[case_id], load_case=lambda identifier: stored)
    return dataset, dataset_json, case.annotated


def weighted(united, balance, counts=None):
    dataset, dataset_json, annotated = united
    draw = ClassDraw.of([annotated], np.ones(1), UNIVERSAL, balance)
    return ForcedPatches(
        dataset, classes_of_regions(dataset_json["labels"]), {dataset.identifiers[0]: annotated}, draw, counts
    )


def share_of_tumour(dataset, dataset_json, force=True):
    """The share of patches of one voxel that lie in the tumour."""
    values = values_of_patches(dataset, dataset_json, force)
    return sum(values[value] for value in dataset_json["labels"]["liver_tumor"]) / DRAWS


def test_a_united_tumour_has_the_share_that_the_docs_state(united):
    np.random.seed(0)
    dataset, dataset_json, annotated = united
    assert len(annotated) == 6
    counts = PatchCounts(len(UNIVERSAL))
    ours = weighted(united, CLIPUniversalTrainer.patch_balance, counts)
    # A liver patch of one voxel may lie in the tumour as well: the counts tell what the reason was.
    assert share_of_tumour(ours, dataset_json) > 0.5 - TOLERANCE
    drawn = dict(zip(class_names(dataset_json["labels"]), counts.since_last() / DRAWS, strict=True))
    assert drawn.pop("liver_tumor") == pytest.approx(1 / 2, abs=TOLERANCE)
    assert {name: share for name, share in drawn.items() if share} == pytest.approx(
        dict.fromkeys(set(annotated) - {"liver_tumor"}, 1 / 10), abs=TOLERANCE
    )


def test_equal_weights_are_the_hosts_own_draw(united):
    np.random.seed(0)
    dataset, dataset_json, _ = united
    stock = share_of_tumour(dataset, dataset_json)
    ours = share_of_tumour(weighted(united, 0), dataset_json)
    assert stock == pytest.approx(1 / 6, abs=TOLERANCE)
    assert ours == pytest.approx(stock, abs=TOLERANCE)


def test_patches_that_are_not_forced_are_no_reason(united):
    counts = PatchCounts(len(UNIVERSAL))
    dataset_json = united[1]
    assert share_of_tumour(weighted(united, 1, counts), dataset_json, force=False) < 0.1
    assert counts.since_last().sum() == 0


def test_with_an_ignore_label_free_patches_still_lie_where_something_is_annotated(united):
    dataset, dataset_json, _ = united
    ignore = max(max(values) for values in dataset_json["labels"].values() if isinstance(values, list)) + 1
    dataset_json["labels"] = {**dataset_json["labels"], "ignore": ignore}
    everywhere = loader(dataset, dataset_json).annotated_classes_key
    image, labels, _, properties = dataset.load_case("")
    labels[labels == 0] = ignore
    properties["class_locations"][everywhere] = np.argwhere(labels != ignore)
    for force in (False, True):
        assert ignore not in values_of_patches(weighted(united, 1), dataset_json, force, draws=50)


def test_the_trainer_counts_what_its_workers_draw_and_logs_it(make_trainer, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # real worker processes
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)])
    trainer.dataloader_train._finish()
    trainer.dataloader_val._finish()
    [forced] = trainer._log["forced_patches"]
    drawn = {name for name, number in zip(trainer.classes, forced, strict=True) if number}
    assert drawn and drawn <= {"liver", "liver_tumor", "spleen"}
    assert sum(forced) >= 3, "a third of the patches, but at least one of each batch"
