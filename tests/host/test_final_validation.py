"""The final validation: the files of nnU-Net's own, without its volumes of logits."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clip.training import distributed
from tests.inference.conftest import TorchWithoutHalf


def validate(trainer, validation, name: str) -> Path:
    """The folder of a final validation with probabilities, under another name."""
    validation(trainer, True)
    folder = Path(trainer.output_folder) / "validation"
    return folder.rename(folder.with_name(name))


def the_hosts_own(trainer, save_probabilities: bool) -> None:
    nnUNetTrainer.perform_actual_validation(trainer, save_probabilities)
    trainer._write_masked_summary()


@pytest.mark.parametrize("configuration", ["3d_fullres", pytest.param("2d", marks=pytest.mark.slow)])
def test_files_and_summary_are_those_of_the_host(make_trainer, monkeypatch, configuration):
    """In single precision on both sides: the host sums patches in half precision, which moves voxels at surfaces."""
    monkeypatch.setattr(predict_from_raw_data, "torch", TorchWithoutHalf())
    trainer = make_trainer(configuration)
    trainer.initialize()
    with torch.no_grad():  # classes that differ, and logits around 0
        trainer.network.controller.dynamic_parameters.weight.normal_(std=0.3)
    assert not trainer.trained.all(), "a class that is absent everywhere"
    weights = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    stock = validate(trainer, the_hosts_own, "stock")
    ours = validate(trainer, type(trainer).perform_actual_validation, "ours")
    cases = list(trainer.do_split()[1])
    names = {f"{case}{ending}" for case in cases for ending in (".nii.gz", ".npz", ".pkl")}
    assert {path.name for path in ours.iterdir()} == {path.name for path in stock.iterdir()} == {*names, "summary.json"}
    assert (ours / "summary.json").read_text() == (stock / "summary.json").read_text()
    for case in cases:
        images = [nib.load(folder / f"{case}.nii.gz") for folder in (stock, ours)]
        assert images[0].header == images[1].header
        labels = [np.asarray(image.dataobj) for image in images]
        assert len(np.unique(labels[0])) > 1 and np.array_equal(*labels)
        properties = [pickle.loads((folder / f"{case}.pkl").read_bytes()) for folder in (stock, ours)]
        assert str(properties[0]) == str(properties[1])
        found = [np.load(folder / f"{case}.npz")["probabilities"] for folder in (stock, ours)]
        assert found[0].dtype == found[1].dtype and found[0].shape == found[1].shape
        assert np.ptp(found[0]) > 0.5 and np.abs(found[0] - found[1]).max() < 0.51 / 65535
    assert all(torch.equal(value, weights[key]) for key, value in trainer.network.state_dict().items())
    assert trainer.network.decoder.deep_supervision


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_the_cases_and_wait_equally_often(monkeypatch, num_ranks):
    waits = []
    monkeypatch.setattr(distributed, "world_size", lambda: num_ranks)
    monkeypatch.setattr(distributed.dist, "barrier", lambda: waits.append(rank))
    for count in (0, 1, 2, 29, 30, 31, 64):
        waits.clear()
        cases, shares = [str(number) for number in range(count)], []
        for rank in range(num_ranks):
            monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
            shares.append(list(distributed.share_of_rank(cases)))
        assert sorted(case for share in shares for case in share) == sorted(cases)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert len({waits.count(rank) for rank in range(num_ranks)}) == 1
        assert bool(waits) == (num_ranks > 1)
