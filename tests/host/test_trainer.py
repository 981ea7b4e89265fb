"""The trainer inside nnU-Net: batches, steps, log, validation, checkpoints, prediction."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.losses.masked import Losses
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training import trainer as trainer_module
from nnunetv2_clip.training.known_voxels import KnownVoxels
from nnunetv2_clip.training.sampling import case_probabilities, repeat_by_probability
from tests.host.conftest import DATASET, PLANS

SUPERVISED = {"liver", "liver_tumor", "spleen"}


def snapshot(trainer):
    return {key: value.clone() for key, value in trainer.network.state_dict().items()}


def unchanged(before, trainer):
    return all(torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())


@pytest.fixture
def ready(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    return trainer


def test_targets_leave_the_workers_as_one_channel(make_trainer, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # a real worker process
    trainer = make_trainer()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.dataloader_train._finish()
    trainer.dataloader_val._finish()
    patch = tuple(trainer.configuration_manager.patch_size)
    assert [target.shape[:2] for target in batch["target"]] == [(2, 1)] * len(batch["target"])
    assert tuple(batch["target"][0].shape[2:]) == patch
    assert batch["target"][0].dtype == torch.int16
    assert len(batch["keys"]) == 2


def test_one_step_changes_the_weights_and_counts_supervised_patches(ready):
    before = snapshot(ready)
    batch = next(ready.dataloader_train)
    result = ready.train_step(batch)
    assert np.isfinite(result["loss"])
    assert not unchanged(before, ready)
    counted = {name for name, count in zip(ready.classes, ready.class_counts.supervised, strict=True) if count}
    expected = set().union(*(ready.manifest.case(key).supervised for key in batch["keys"]))
    assert counted == expected


def test_the_log_holds_the_mean_loss_of_each_class_over_the_pairs_of_the_epoch(ready):
    pairs = Pairs.of(torch.tensor([[0, 1], [0, 4], [1, 1]]))
    ready._count(
        pairs,
        Losses(torch.tensor(0.0), torch.tensor([1.0, 5.0, 2.0]), torch.tensor([True, True, True]), *torch.zeros(2, 3)),
    )
    ready._count(
        pairs[:1], Losses(torch.tensor(0.0), torch.tensor([0.0]), torch.tensor([False]), *torch.zeros(2, 1))
    )  # nothing known
    means = ready.class_counts.end_epoch()["class_loss"]
    assert means[1] == 1.5 and means[4] == 5 and np.isnan([*means[:1], *means[2:4], *means[5:]]).all()
    assert np.isnan(ready.class_counts.end_epoch()["class_loss"]).all(), "the next epoch begins anew"


def with_pseudo_labels(trainer, weight):
    """Every case of the trainer's manifest without truth of the spleen gets a pseudo label of it."""
    cases = {
        case_id: case if "spleen" in case.known else replace(case, pseudo={"spleen": weight})
        for case_id, case in trainer.manifest.cases.items()
    }
    trainer.manifest = Manifest(trainer.manifest.taxonomy, cases)


def test_pseudo_labels_give_weighted_loss_in_training_and_none_in_validation(ready):
    with_pseudo_labels(ready, 0.25)
    spleen = ready.classes.index("spleen")
    batch = next(ready.dataloader_train)
    guessed = [bool(ready.manifest.case(key).pseudo) for key in batch["keys"]]
    ready.network.train()
    pairs = ready._to_device(batch)[2]
    weights = dict(zip(zip(pairs.cases.tolist(), pairs.classes.tolist(), strict=True), pairs.weights, strict=True))
    for (case, k), weight in weights.items():
        assert weight == (0.25 if k == spleen and guessed[case] else 1)
    assert [(case, spleen) in weights for case in (0, 1)] == [True, True]
    assert np.isfinite(ready.train_step(batch)["loss"])
    ready.network.eval()
    validated = ready._to_device(batch)[2]
    assert validated.weights is None
    assert [case in validated.cases[validated.classes == spleen] for case in (0, 1)] == [not guess for guess in guessed]


def with_incomplete_liver(trainer):
    """The liver and its tumour are incomplete in every case that annotated them."""
    cases = {}
    for case_id, case in trainer.manifest.cases.items():
        part = tuple(name for name in case.annotated if name.startswith("liver"))
        annotated = tuple(name for name in case.annotated if name not in part)
        cases[case_id] = replace(case, annotated=annotated, incomplete=part)
    trainer.manifest = Manifest(trainer.manifest.taxonomy, cases)
    trainer._known_voxels = KnownVoxels(trainer.manifest, trainer.dataset_json["labels"])


def test_incomplete_classes_give_loss_in_their_known_voxels_and_are_not_validated(ready):
    with_incomplete_liver(ready)
    while True:
        batch = next(ready.dataloader_train)
        if {ready.manifest.case(key).dataset for key in batch["keys"]} == {"msd_liver", "msd_spleen"}:
            break
    ready.network.train()
    _, label_maps, pairs = ready._to_device(batch)
    assert {ready.classes[k] for k in pairs.classes} == SUPERVISED and pairs.known is not None
    losses = ready.loss.of_pairs(ready._logits(batch["data"], pairs), label_maps, pairs)
    assert torch.isfinite(losses.mean) and np.isfinite(ready.train_step(batch)["loss"])
    liver = pairs.classes == ready.classes.index("liver")
    assert not pairs.known[liver][:, 0].any(), "the background of these cases may be liver"
    ready.network.eval()
    assert {ready.classes[k] for k in ready._to_device(batch)[2].classes} == {"spleen"}


def test_a_dataset_without_incomplete_classes_knows_every_voxel(ready):
    assert ready._to_device(next(ready.dataloader_train))[2].known is None


def test_a_dataset_without_pseudo_labels_goes_the_unweighted_way(ready):
    batch = next(ready.dataloader_train)
    assert ready._to_device(batch)[2].weights is None


def test_a_batch_without_annotated_pair_changes_no_weight(ready):
    ready.train_step(next(ready.dataloader_train))  # momentum and weight decay are awake
    before = snapshot(ready)
    batch = next(ready.dataloader_train)
    nothing = np.zeros((len(batch["keys"]), len(ready.classes)), dtype=bool)
    ready._presence = lambda case_ids: nothing
    assert np.isnan(ready.train_step(batch)["loss"])
    assert unchanged(before, ready)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_unannotated_classes_get_exactly_zero_gradient_at_every_scale_through_train_step(ready, is_compiled):
    """The embedding of a class reaches the loss through its own pairs only: its gradient tells who was supervised."""
    embedding = ready.network.class_embedding
    batch = next(ready.dataloader_train)
    supervised = ready.manifest.presence(batch["keys"], ready.classes).any(0)
    assert 0 < supervised.sum() < len(supervised)
    if is_compiled:
        torch._dynamo.reset()
        ready.network = torch.compile(ready.network, backend="aot_eager")
    num_scales = len(ready.loss.weights)
    for scale in range(num_scales):
        vectors = embedding.vectors.detach().clone().requires_grad_()
        embedding.seg_layers.text_embedding = vectors
        ready.loss.weights = tuple(float(each == scale) for each in range(num_scales))  # this scale's loss alone
        assert np.isfinite(ready.train_step(batch)["loss"])
        assert (vectors.grad[~supervised] == 0).all(), scale
        assert (vectors.grad[supervised].abs().amax(1) > 0).all(), scale


@pytest.mark.parametrize("works", [True, False])
def test_a_trainer_compiles_where_the_host_would_and_a_compiler_is_there(works, make_trainer, monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clip.training import trainer as module

    trainer = make_trainer()
    assert not trainer._do_i_compile()  # the host compiles nothing on a CPU
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(module, "compiles_on", lambda device: works)
    assert trainer._do_i_compile() == works


def test_a_training_with_validation_compiles_three_graphs(make_trainer, monkeypatch):
    """As of stock nnU-Net. The final validation compiles where nnUNet_compile=t asks for it."""
    from functools import partial

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from torch._dynamo.testing import CompileCounterWithBackend

    from nnunetv2_clip.device import compiles_on
    from nnunetv2_clip.networks.universal import bare_network

    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    monkeypatch.setenv("nnUNet_compile", "t")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    compiles_on.cache_clear()
    assert compiles_on(torch.device("cpu"))
    backend.clear()
    trainer = make_trainer()
    trainer.on_train_start()
    assert bare_network(trainer.network) is not trainer.network
    for presence in (trainer._presence, lambda case_ids: np.zeros((len(case_ids), len(trainer.classes)), bool)):
        trainer._presence = presence
        trainer.network.train()
        trainer.train_step(next(trainer.dataloader_train))
        trainer.network.eval()
        with torch.no_grad():
            trainer.validation_step(next(trainer.dataloader_val))
    assert backend.frame_count == 2
    trainer.perform_actual_validation()
    assert backend.frame_count == 3
    compiles_on.cache_clear()
    torch._dynamo.reset()


def test_a_non_finite_loss_changes_no_weight_and_stops_the_run_after_a_while(ready):
    ready.max_bad_steps = 2
    before = snapshot(ready)
    batch = next(ready.dataloader_train)
    batch["data"][:] = float("nan")
    assert np.isnan(ready.train_step(batch)["loss"])
    assert unchanged(before, ready)
    with pytest.raises(SystemExit) as stop:
        ready.train_step(batch)
    assert stop.value.code == 2


def with_infinite_gradients(trainer):
    """The loss stays as it is; a handle whose `remove` ends it."""
    layer = trainer.network.feature_layers[-1]
    return layer.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * float("inf"),))


@pytest.mark.parametrize("has_scaler", [False, True])
def test_infinite_gradients_of_finite_losses_change_no_weight_and_stop_the_run_after_a_while(ready, has_scaler):
    if has_scaler:
        ready.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    ready.max_bad_steps = 3
    before = snapshot(ready)
    hook = with_infinite_gradients(ready)
    batch = next(ready.dataloader_train)
    for _ in range(2):
        assert np.isfinite(ready.train_step(batch)["loss"])
    assert unchanged(before, ready) and ready._bad_steps == 2 and ready.class_counts.supervised.sum() == 0
    with pytest.raises(SystemExit) as stop:
        ready.train_step(batch)
    assert stop.value.code == 2
    hook.remove()
    ready.train_step(batch)
    assert not unchanged(before, ready) and ready._bad_steps == 0


def test_validation_counts_no_class_that_the_fold_does_not_train(ready):
    batch = next(ready.dataloader_val)
    ready.network.eval()
    k = int(ready._to_device(batch)[2].classes[0])  # a class that this validation case annotates
    ready.trained[k] = False
    assert k not in ready._to_device(batch)[2].classes
    counts = ready.validation_step(batch)
    assert counts["fn_hard"][k] == counts["fp_hard"][k] == counts["tp_hard"][k] == 0  # Dice 0/0: left out of the mean


def test_a_validation_batch_without_annotated_class_does_not_count(ready):
    ready.network.eval()
    outputs = [ready.validation_step(next(ready.dataloader_val))]
    ready._presence = lambda case_ids: np.zeros((len(case_ids), len(ready.classes)), bool)
    outputs.append(ready.validation_step(next(ready.dataloader_val)))
    assert np.isnan(outputs[1]["loss"])
    expected = float(outputs[0]["loss"])
    ready.on_validation_epoch_end(outputs)
    assert ready.logger.get_value("val_losses", step=-1) == pytest.approx(expected)


def test_the_trainer_draws_its_cases_by_the_balanced_probabilities(ready):
    ready.manifest.cases.update(
        {key: replace(case, absent=("colon_tumor",)) for key, case in list(ready.manifest.cases.items())[:1]}
    )  # one case alone supervises a class: it is to be drawn more often
    drawn = Counter(ready.get_dataloaders()[0].data_loader.indices)
    cases = sorted(drawn)
    expected = repeat_by_probability(cases, case_probabilities(cases, ready.manifest, ready.sampling_balance))
    assert drawn == Counter(expected)
    assert drawn[next(iter(ready.manifest.cases))] == max(drawn.values()) > min(drawn.values())


def test_a_case_that_teaches_nothing_is_never_drawn_until_it_is_completed(ready, capsys, monkeypatch):
    monkeypatch.setattr(trainer_module, "check_cases", lambda *arguments: None)  # the label maps show more
    taught, measured = (set(map(str, loader.data_loader.indices)) for loader in ready.get_dataloaders())
    first, second, *_ = sorted(taught)
    unknown = dict(annotated=(), absent=())
    for case_id in (first, second, *measured):
        ready.manifest.cases[case_id] = replace(ready.manifest.cases[case_id], **unknown)
    ready.manifest.cases[second] = replace(ready.manifest.cases[second], pseudo=dict.fromkeys(SUPERVISED, 0.5))
    capsys.readouterr()
    training, validation = ready.get_tr_and_val_datasets()
    assert set(training.identifiers) == taught - {first}
    assert set(validation.identifiers) == measured, "nnU-Net needs something to draw"
    assert "1 cases teach nothing" in capsys.readouterr().out


def test_short_recipes_keep_checkpoints_to_continue_from(make_trainer):
    for epochs, every in ((1000, 50), (50, 5), (5, 1)):
        trainer = make_trainer()
        trainer.num_epochs = epochs
        trainer.on_train_start()
        assert trainer.save_every == every


def test_a_fold_that_supervises_nothing_is_refused_before_it_trains(make_trainer, capsys):
    trainer = make_trainer()
    for case_id, case in trainer.manifest.cases.items():
        trainer.manifest.cases[case_id] = replace(case, annotated=(), absent=())
    with pytest.raises(SystemExit):
        trainer.initialize()
    assert "supervises any class" in capsys.readouterr().err


def test_the_rules_of_learn_postprocessing_survive_the_training_of_another_fold(make_trainer):
    trainer = make_trainer()
    rules = {"rules": {"liver": {"largest_components": 1}}}
    plans_file = Path(trainer.output_folder_base) / "plans.json"
    plans_file.write_text(json.dumps({"nnunetv2_clip": {"postprocessing": rules}}))
    trainer.on_train_start()
    ours = json.loads(plans_file.read_text())["nnunetv2_clip"]
    assert ours["postprocessing"] == rules and ours["text"]["encoder"] == "minilm"


def test_an_epoch_without_anything_to_learn_has_no_loss(ready):
    ready.on_train_epoch_start()
    ready.on_train_epoch_end([{"loss": np.array(np.nan)}])
    assert np.isnan(ready.logger.get_value("train_losses", step=-1))


def test_prediction_mirrors_nothing_when_the_reader_does_not_reorient(make_trainer):
    """None, because nnU-Net's predictor fails on an empty tuple."""
    trainer = make_trainer(change_plans=lambda plans: plans.update(image_reader_writer="SimpleITKIO"))
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[-1] == ()
    assert trainer.inference_allowed_mirroring_axes is None


def test_mirroring_never_touches_left_right(ready):
    assert ready.inference_allowed_mirroring_axes == (0, 1)  # patches are (z, y, x) here


def test_cascades_are_refused_with_a_reason_before_anything_is_written(make_trainer, tmp_path, capsys):
    def add_cascade(plans):
        plans["configurations"]["3d_lowres"] = dict(
            plans["configurations"]["3d_fullres"], next_stage="3d_cascade_fullres"
        )
        plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    with pytest.raises(SystemExit) as stop:
        make_trainer("3d_cascade_fullres", change_plans=add_cascade)
    assert stop.value.code == 2
    assert "cascade" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


def test_a_manifest_that_lost_a_case_stops_before_training(make_trainer, capsys):
    trainer = make_trainer()
    lost = sorted(trainer.manifest.cases)[0]
    del trainer.manifest.cases[lost]
    with pytest.raises(SystemExit):
        trainer.on_train_start()
    assert lost in capsys.readouterr().err


def test_a_label_map_that_contradicts_the_manifest_names_the_case(make_trainer, capsys):
    from dataclasses import replace

    trainer = make_trainer()
    case_id = next(key for key in sorted(trainer.manifest.cases) if "spleen" in key)
    trainer.manifest.cases[case_id] = replace(trainer.manifest.cases[case_id], annotated=("liver",))
    with pytest.raises(SystemExit):
        trainer.on_train_start()
    message = capsys.readouterr().err
    assert case_id in message
    assert "spleen" in message


def train(trainer):
    trainer.run_training()
    trainer.perform_actual_validation()
    return Path(trainer.output_folder)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_an_epoch_with_validation_resume_and_prediction(make_trainer, tiny, configuration, capsys, tmp_path):
    trainer = make_trainer(configuration)
    fold = train(trainer)
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    per_case = {Path(case["prediction_file"]).name: case["metrics"] for case in summary["metric_per_case"]}
    keys = {name: str(tuple(trainer.dataset_json["labels"][name])) for name in trainer.classes}
    for name, metrics in per_case.items():
        measured = {c for c, key in keys.items() if metrics[key]["n_ref"] == metrics[key]["n_ref"]}  # not NaN
        assert measured == set(trainer.manifest.case(name.removesuffix(".nii.gz")).supervised)
    printed = capsys.readouterr().out
    assert printed.count("Mean Validation Dice") == 1
    assert "over annotated classes" in printed

    curves = json.loads((fold / "training_curves.json").read_text())
    assert curves["epochs"] == 1
    counted = {name for name, count in zip(curves["classes"], curves["supervised_patches"][0], strict=True) if count}
    assert counted <= SUPERVISED
    has_loss = {name for name, loss in zip(curves["classes"], curves["class_loss"][0], strict=True) if loss is not None}
    assert has_loss == counted

    resumed = make_trainer(configuration, continue_training=True)
    resumed.load_checkpoint(str(fold / "checkpoint_final.pth"))
    assert unchanged(snapshot(trainer), resumed)
    assert resumed.current_epoch == 1
    resumed.num_epochs = 2
    resumed.run_training()
    for key in ("supervised_patches", "class_loss"):
        assert len(resumed.logger.get_value(key, step=None)) == 2

    predictions = [predict(fold, tiny, tmp_path / "as_trained")]
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    checkpoint["trainer_name"] = "nnUNetTrainer"  # nnU-Net's documented way of sharing a model
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    predictions.append(predict(fold, tiny, tmp_path / "as_stock"))
    assert np.array_equal(*predictions)
    index = {"liver": 6, "spleen": 1, "liver_tumor": 27}
    assert set(np.unique(predictions[0])) <= {0, *index.values()}


def predict(fold, tiny, output):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image = next(
        path for path in sorted((tiny / "msd" / "msd_liver" / "Task03_Liver" / "imagesTs").glob("liver_*.nii.gz"))
    )
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.parent), (0,), "checkpoint_final.pth")
    output.mkdir()
    predictor.predict_from_files_sequential([[str(image)]], [str(output / "case")])
    result = nibabel.load(output / "case.nii.gz")
    assert result.shape == nibabel.load(image).shape
    assert np.allclose(result.affine, nibabel.load(image).affine)
    return np.asarray(result.dataobj)


def test_another_text_table_is_refused_while_folds_exist(make_trainer, tiny, capsys):
    from dataclasses import replace

    from nnunetv2_clip.text.table import FILE_NAME, TextTable

    trainer = make_trainer()
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    path = tiny / "nnUNet_preprocessed" / DATASET / FILE_NAME
    original = path.read_bytes()
    table = TextTable.load(path)
    try:
        replace(table, vectors=np.roll(table.vectors, 1, axis=1)).save(path)
        with pytest.raises(SystemExit):
            make_trainer()
    finally:
        path.write_bytes(original)
    assert "text embeddings" in capsys.readouterr().err


def test_universal_weights_move_to_another_class_list_with_the_stock_flag(make_trainer, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    first = make_trainer()
    first.initialize()
    first.save_checkpoint(str(tmp_path / "universal.pth"))
    second = make_trainer()
    second.initialize()
    second.network.keep_classes(("spleen", "liver"))
    load_pretrained_weights(second.network, str(tmp_path / "universal.pth"))
    for key, value in second.network.state_dict().items():
        if ".seg_layers." not in key:
            assert torch.equal(value, first.network.state_dict()[key]), key


def test_stock_weights_fill_the_whole_backbone_after_one_command(make_trainer, tiny, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clip.training.pretrained import prepare_weights

    stock = make_trainer(trainer_class=nnUNetTrainer)
    stock.initialize()
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    prepare_weights(str(tmp_path / "stock.pth"), str(tmp_path / "ready.pth"), "901", "3d_fullres", PLANS)
    trainer = make_trainer()
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(tmp_path / "ready.pth"))
    weights = stock.network.state_dict()
    del weights["decoder.stages.0.convs.0.all_modules.0.weight"]
    torch.save({"network_weights": weights}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="decoder.stages.0.convs.0.all_modules.0.weight .found nothing"):
        prepare_weights(str(tmp_path / "other.pth"), str(tmp_path / "x.pth"), "901", "3d_fullres", PLANS)
    assert not (tmp_path / "x.pth").exists()
    weights = stock.network.state_dict()
    backbone = [key for key in trainer.network.state_dict() if key.startswith(("encoder.", "decoder."))]
    assert len(backbone) > 20
    for key in backbone:
        assert torch.equal(trainer.network.state_dict()[key], weights[key]), key
