"""Adding a class to a trained model through nnU-Net's own training and prediction."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json

from nnunetv2_clip import cli
from nnunetv2_clip.trained_model import TrainedModel
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer
from nnunetv2_clip.training.variants import CLIPUniversalTrainerRandomText
from tests.host.conftest import DATASET, PLANS

NAME_PLANS = "-overwrite_plans_name"
CASES = """
name: new
images: images/{case}.nii.gz
labels: labels/{case}.nii.gz
values: {1: NAME}
"""


def dataset(root, number, name, classes):
    """A raw dataset whose cases annotate one new class, drawn where the spleen is, and preprocessed nothing yet."""
    folder = root / f"source_{name}"
    task = root / "msd" / "msd_spleen" / "Task09_Spleen"
    if not folder.exists():
        for kind in ("images", "labels"):
            shutil.copytree(task / f"{kind}Tr", folder / kind, ignore=shutil.ignore_patterns(".*"))
        (folder / "table.yaml").write_text(CASES.replace("NAME", name))
        rows = "".join(f"- {{index: {33 + n}, name: {each}}}\n" for n, each in enumerate(classes))
        (folder / "classes.yaml").write_text(f"classes:\n{rows}")
        arguments = ["--taxonomy", folder / "classes.yaml", "--source", f"custom={folder / 'table.yaml'}", "-np", 1]
        assert cli.main([str(x) for x in ("convert", "-d", number, "--name", "New", *arguments)]) == 0
    return folder


def preprocess(number, plans_name):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    preprocess_dataset(number, plans_name, ("3d_fullres",), [1], show_progress_bar=False)
    fingerprint = Path(os.environ["nnUNet_preprocessed"]) / f"Dataset{number}_New" / "dataset_fingerprint.json"
    fingerprint.write_text("{}")  # training copies the file and reads nothing in it


def make_trainer(dataset_name, plans_name, trainer_class=CLIPUniversalTrainer, iterations=2):
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset_name
    plans = {**load_json(str(folder / f"{plans_name}.json")), "continue_training": False}
    dataset_json = load_json(str(folder / "dataset.json"))
    trainer = trainer_class(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, iterations, 1
    return trainer


def train(*arguments, **options):
    trainer = make_trainer(*arguments, **options)
    trainer.run_training()
    return Path(trainer.output_folder_base)


def test_a_class_that_the_model_never_learnt_is_added_frozen_by_one_short_training(make_trainer, tiny):
    """The short form of what follows: one dataset, and an old model that is made to forget the spleen."""
    trainer = make_trainer()
    trainer.run_training()
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    old = checkpoint["network_weights"]
    old["class_embedding.seg_layers.trained"][trainer.classes.index("spleen")] = False
    torch.save(checkpoint, path)
    name = "PlansShort"
    assert cli.main(["extend", "-m", trainer.output_folder_base, "-d", DATASET, NAME_PLANS, name, "--overwrite"]) == 0
    folder = tiny / "nnUNet_preprocessed" / DATASET
    if not (folder / f"{name}_3d_fullres").exists():
        (folder / f"{name}_3d_fullres").symlink_to(folder / f"{PLANS}_3d_fullres")
    # Half of the cases annotate the spleen: that none of 16 draws does happens once in 65,000 runs.
    new = weights(train(DATASET, name, iterations=8))
    assert all(torch.equal(new[key], value) for key, value in old.items() if ".seg_layers." not in key)
    own = [key for key in new if key.startswith("extensions.0.")]
    assert any(not torch.equal(new[key], new[key.removeprefix("extensions.0.")]) for key in own)
    trained = new["class_embedding.seg_layers.trained"]
    assert {c for c, each in zip(trainer.classes, trained, strict=True) if each} == {"liver", "liver_tumor", "spleen"}


@pytest.fixture(scope="module")
def chain(tiny):
    """Three models: of the tiny merge, with one class more, and with one more after that."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    results = os.environ["nnUNet_results"]
    os.environ["nnUNet_results"] = str(tiny / "extension_results")
    models = [train(DATASET, PLANS)]
    rules = {"liver": {"largest_components": 1}}
    plans = load_json(str(models[0] / "plans.json"))
    plans["nnunetv2_clip"]["postprocessing"] = {"rules": rules}
    (models[0] / "plans.json").write_text(json.dumps(plans))
    for number, classes in ((902, ["sacrum"]), (903, ["sacrum", "renal_vein"])):
        dataset(tiny, number, classes[-1], classes)
        name = f"Plans{number}"
        assert cli.main(["extend", "-m", str(models[-1]), "-d", str(number), NAME_PLANS, name]) == 0
        preprocess(number, name)
        models.append(train(f"Dataset{number}_New", name))
    yield models
    os.environ["nnUNet_results"] = results
    os.environ["nnUNet_n_proc_DA"] = "1"


def weights(model):
    return torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]


@pytest.mark.slow
def test_only_the_new_part_has_learnt(chain):
    first, second, third = map(weights, chain)
    for before, after, part in ((first, second, "extensions.0."), (second, third, "extensions.1.")):
        shared = [key for key in before if ".seg_layers." not in key]
        assert all(torch.equal(before[key], after[key]) for key in shared)
        own = [key for key in after if key.startswith(part)]
        assert set(after) == {*before, *own}
        assert any(not torch.equal(after[key], after[key.removeprefix(part)]) for key in own)


def logits(model, classes, image):
    from nnunetv2_clip.inference.loading import load_predictor

    predictor = load_predictor(TrainedModel.open(model), classes, device="cpu")
    network = predictor.network.eval()
    network.load_state_dict(predictor.list_of_parameters[0])
    with torch.inference_mode():
        return network(image), list(network.class_names)


@pytest.mark.slow
def test_old_logits_are_the_same_to_the_bit_in_every_generation(chain):
    patch = load_json(str(chain[0] / "plans.json"))["configurations"]["3d_fullres"]["patch_size"]
    image = torch.randn(1, 1, *patch)
    (old, names), *later = (logits(model, None, image) for model in chain)
    for new, new_names in later:
        assert torch.equal(old, new[:, [new_names.index(name) for name in names]])
    (one, _), (two, _) = (logits(model, ["sacrum"], image) for model in chain[1:])
    assert torch.equal(one, two)
    assert len(torch.unique(later[1][0][0].flatten(1), dim=0)) == 3 + 2 + 1  # known, added, never trained


@pytest.mark.slow
def test_the_models_know_old_and_new_classes(chain, capsys):
    assert [set(TrainedModel.open(model).known) - {"liver", "liver_tumor", "spleen"} for model in chain] == [
        set(),
        {"sacrum"},
        {"sacrum", "renal_vein"},
    ]
    assert cli.main(["info", "-m", str(chain[2])]) == 0
    printed = capsys.readouterr().out
    assert "extends" in printed
    assert chain[1].name in printed


@pytest.mark.slow
def test_stock_prediction_paints_what_the_old_model_paints(chain, tiny, tmp_path):
    from tests.host.conftest import call

    source = next((tiny / "msd" / "msd_spleen" / "Task09_Spleen" / "imagesTs").glob("[!.]*.nii.gz"))
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in" / "case_0000.nii.gz")
    maps = []
    for number, model in enumerate((chain[0], chain[2])):
        output = tmp_path / str(number)
        call("nnUNetv2_predict_from_modelfolder", "-i", tmp_path / "in", "-o", output, "-m", model, "-f", 0, "-device",
             "cpu", "-npp", 1, "-nps", 1)  # fmt: skip
        maps.append(np.asarray(nibabel.load(output / "case.nii.gz").dataobj))
    old, new = maps
    assert set(np.unique(new)) - set(np.unique(old)) <= {33, 34}
    assert (old[new < 33] == new[new < 33]).all()


@pytest.mark.slow
def test_streaming_prediction_of_an_old_class_is_the_same(chain, tiny, tmp_path):
    source = next((tiny / "msd" / "msd_spleen" / "Task09_Spleen" / "imagesTs").glob("[!.]*.nii.gz"))
    for number, model in enumerate((chain[0], chain[2])):
        arguments = ["predict", "-i", source, "-o", tmp_path / str(number), "-m", model, "-device", "cpu", "--classes"]
        assert cli.main([str(x) for x in (*arguments, "liver", "--probabilities", "liver")]) == 0
    outputs = [sorted(path for path in (tmp_path / str(n)).rglob("*.nii.gz")) for n in range(2)]
    assert len(outputs[0]) == len(outputs[1]) == 2
    for old, new in zip(*outputs, strict=True):
        assert np.array_equal(nibabel.load(old).get_fdata(), nibabel.load(new).get_fdata())


@pytest.mark.slow
def test_rules_of_the_old_model_travel(chain):
    assert all("rules" in load_json(str(m / "plans.json"))["nnunetv2_clip"]["postprocessing"] for m in chain)


@pytest.fixture
def new_trainer(chain, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return lambda *arguments: make_trainer("Dataset903_New", "Plans903", *arguments)


@pytest.mark.slow
def test_an_old_class_gives_no_loss_and_no_patch_is_wasted_on_it(new_trainer):
    trainer = new_trainer()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    assert trainer.network.training
    assert not trainer.network.encoder.training
    assert not trainer.network.extensions[0].training
    assert trainer.network.extensions[1].training
    trainer._presence = lambda case_ids: np.ones((len(case_ids), len(trainer.classes)), dtype=bool)
    pairs = trainer._to_device(next(trainer.dataloader_train))[-1]
    assert {trainer.classes[k] for k in pairs.classes.tolist()} == {"renal_vein"}


@pytest.mark.slow
def test_a_class_that_a_frozen_training_cannot_learn_is_not_called_trained(new_trainer):
    """A pseudo label of another model, or a class that the manifest has gained since `extend`."""
    trainer = new_trainer()
    for case_id, case in trainer.manifest.cases.items():
        trainer.manifest.cases[case_id] = replace(case, pseudo={"colon": 0.5})
    trainer.initialize()
    assert not trainer.trained[trainer.classes.index("colon")]
    assert trainer.trained[trainer.classes.index("renal_vein")]


@pytest.mark.slow
def test_another_table_is_refused_and_so_is_a_variant_without_text(new_trainer, capsys):
    trainer = new_trainer(CLIPUniversalTrainerRandomText)
    with pytest.raises(SystemExit):
        trainer.initialize()
    trainer = new_trainer()
    trainer.text.vectors[trainer.classes.index("liver"), 0] += 0.1
    with pytest.raises(SystemExit):
        trainer.initialize()
    assert "text embedding of liver is not that of the old model" in capsys.readouterr().err


@pytest.mark.slow
def test_other_weights_in_the_frozen_part_stop_the_training(new_trainer, capsys):
    trainer = new_trainer()
    trainer.initialize()
    with torch.no_grad():
        next(trainer.network.encoder.parameters()).add_(1)
    with pytest.raises(SystemExit):
        trainer.on_train_start()
    assert "frozen tensors" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_goes_on_from_its_own_checkpoint(new_trainer, chain):
    trainer = new_trainer()
    trainer.initialize()
    trainer.load_checkpoint(str(chain[2] / "fold_0" / "checkpoint_final.pth"))
    trainer.on_train_start()
    state = trainer.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights(chain[2]).items())
    assert trainer.current_epoch == 1


@pytest.mark.slow
def test_transfer_starts_with_backbone_and_controller_and_only_class_rows_differ(chain, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    name = "PlansTransfer"
    arguments = ["extend", "-m", str(chain[0]), "-d", "903", "--mode", "transfer", NAME_PLANS, name, "--overwrite"]
    assert cli.main(arguments) == 0
    folder = tiny / "nnUNet_preprocessed" / "Dataset903_New"  # nnU-Net looks into the folder of preprocessed cases
    (folder / f"{name}_3d_fullres").symlink_to(folder / "Plans903_3d_fullres")
    trainer = make_trainer("Dataset903_New", name)
    trainer.initialize()
    old, new = weights(chain[0]), trainer.network.state_dict()
    assert set(old) == set(new)
    differing = {key for key in old if not torch.equal(old[key], new[key])}
    assert differing == {"class_embedding.seg_layers.text_embedding", "class_embedding.seg_layers.trained"}
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())
    trained = {name for name, each in zip(trainer.classes, trainer.trained, strict=True) if each}
    assert trained == {"renal_vein"}
