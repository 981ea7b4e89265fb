"""Each variant of the trainer differs from the base in what its name says, inside nnU-Net."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_clip.training import variants
from tests.host.test_trainer import predict


def start(make_trainer, name, **arguments):
    trainer = make_trainer(trainer_class=getattr(variants, name), **arguments)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def batch_of(trainer, source):
    """A batch whose cases all come from one source dataset."""
    while True:
        batch = next(trainer.dataloader_train)
        if {trainer.manifest.case(key).dataset for key in batch["keys"]} == {source}:
            return batch


def test_the_paper_recipe(make_trainer):
    trainer = start(make_trainer, "CLIPUniversalTrainerPaper")
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert group["weight_decay"] == 1e-5
    assert group["lr"] == pytest.approx(4e-4 / 6)  # first of five epochs of warm-up
    assert trainer.initial_lr == 4e-4
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("CLIPUniversalTrainerOneHot", "onehot"), ("CLIPUniversalTrainerRandomText", "random:0")],
)
def test_without_text_the_plans_say_what_stands_in(make_trainer, name, encoder):
    trainer = start(make_trainer, name)
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert plans["nnunetv2_clip"]["text"]["encoder"] == encoder
    vectors = trainer.network.class_embedding.vectors
    products = vectors @ vectors.T
    if encoder == "onehot":
        assert torch.equal(vectors, torch.eye(len(trainer.classes)))
    else:
        assert (products - torch.eye(len(vectors))).abs().max() < 0.3  # random directions are nearly orthogonal


def test_unmasked_supervises_every_trained_class_in_training_and_only_annotated_ones_in_validation(make_trainer):
    trainer = start(make_trainer, "CLIPUniversalTrainerUnmasked")
    batch = batch_of(trainer, "msd_spleen")
    trainer.train_step(batch)
    assert np.array_equal(trainer.class_counts.supervised > 0, trainer.trained)
    trainer.on_validation_epoch_start()
    _, _, pairs = trainer._to_device(batch)
    assert {trainer.classes[k] for k in pairs.classes} == {"spleen"}


def test_exclusion_refuses_pseudo_labels(make_trainer, capsys):
    trainer = make_trainer(trainer_class=variants.CLIPUniversalTrainerExclusive)
    case_id, case = next(iter(trainer.manifest.cases.items()))
    trainer.manifest.cases[case_id] = replace(case, pseudo={"aorta": 0.5})
    with pytest.raises(SystemExit):
        trainer.initialize()
    assert "holds pseudo labels" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["12x", "0", ""])
def test_a_typo_in_the_length_of_the_demo_is_a_message(make_trainer, monkeypatch, capsys, text):
    monkeypatch.setenv("nnUNet_clip_demo_epochs", text)
    with pytest.raises(SystemExit):
        make_trainer(trainer_class=variants.CLIPUniversalTrainerDemo)
    assert "nnUNet_clip_demo_epochs" in capsys.readouterr().err


def test_exclusion_adds_known_negatives_and_counts_annotated_patches_only(make_trainer):
    trainer = start(make_trainer, "CLIPUniversalTrainerExclusive")
    batch = batch_of(trainer, "msd_spleen")
    _, _, pairs = trainer._to_device(batch)
    spleen_values = set(trainer.dataset_json["labels"]["spleen"])
    for k, annotated, known in zip(pairs.classes, pairs.annotated, trainer.loss.known_values(pairs), strict=True):
        assert annotated == (trainer.classes[k] == "spleen")
        if trainer.classes[k] == "liver":
            assert spleen_values <= set(known.nonzero().flatten().tolist())
            assert not known[0]
    trainer.train_step(batch)
    assert {trainer.classes[k] for k in np.flatnonzero(trainer.class_counts.supervised)} == {"spleen"}
    trainer.on_validation_epoch_start()
    assert np.isfinite(trainer.validation_step(batch)["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Demo", "Paper", "OneHot", "RandomText", "Unmasked", "Exclusive"])
def test_an_epoch_and_a_prediction_of_each(make_trainer, tiny, tmp_path, name):
    trainer = make_trainer(trainer_class=getattr(variants, f"CLIPUniversalTrainer{name}"))
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=-1))
    values = set(np.unique(predict(Path(trainer.output_folder), tiny, tmp_path / "predicted")))
    assert values <= {0, *(trainer.manifest.taxonomy.find(class_name).index for class_name in trainer.classes)}
