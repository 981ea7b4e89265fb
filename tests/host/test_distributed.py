"""Several processes: two ranks of batch 1 are one process of batch 2, whatever each of them annotates."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_clip import cli
from nnunetv2_clip.errors import exit_on_user_error
from nnunetv2_clip.manifest import CasePresence
from nnunetv2_clip.networks.universal import bare_network
from nnunetv2_clip.training.checks import check_batch_feeds_all
from nnunetv2_clip.training.distributed import device_of_this_process
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer
from tests.host.conftest import DATASET, PLANS

ANNOTATED = {"both": ("liver", "spleen"), "liver": ("liver", "liver_tumor"), "spleen": ("spleen",), "none": ()}
# What the two cases of each step annotate; "bad" is a case whose image is not a number.
STEPS = (
    ("both", "spleen"),
    ("none", "liver"),
    ("none", "none"),
    ("bad", "liver"),
    ("spleen", "none"),
    ("liver", "both"),
)


class DoubleTrainer(CLIPUniversalTrainer):
    """In double precision, so that a difference of 1e-6 is a mistake and not rounding."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        torch.manual_seed(0)
        return CLIPUniversalTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        ).double()


def make(folder, batch_dice):
    from batchgenerators.utilities.file_and_folder_operations import load_json

    plans = load_json(str(folder / f"{PLANS}.json"))
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"]["batch_dice"] = batch_dice
    dataset_json = load_json(str(folder / "dataset.json"))
    trainer = DoubleTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    for name, annotated in {**ANNOTATED, "bad": ("liver",)}.items():
        trainer.manifest.cases[name] = CasePresence("drawn", annotated)
    trainer.initialize()
    trainer.network.train()
    return trainer


def batches(trainer):
    """The same drawn batches of two cases in every process."""
    rng = np.random.default_rng(0)
    patch = trainer.configuration_manager.patch_size
    strides = [np.round(1 / np.array(scale)).astype(int) for scale in trainer._get_deep_supervision_scales()]
    for names in STEPS:
        image = rng.normal(size=(2, 1, *patch))
        image[[name == "bad" for name in names]] = np.nan
        labels = rng.integers(0, 30, size=(2, 1, *patch)).astype(np.int16)
        scales = [torch.from_numpy(labels[:, :, :: s[0], :: s[1], :: s[2]].copy()) for s in strides]
        yield names, torch.from_numpy(image), scales


def run_steps(trainer, share):
    """Every step on this process's share of the batch; returns the weights after each."""
    history = []
    for names, image, scales in batches(trainer):
        batch = {"data": image[share], "target": [scale[share] for scale in scales], "keys": names[share]}
        trainer.train_step(batch)
        history.append({key: value.clone() for key, value in bare_network(trainer.network).state_dict().items()})
    return history


def work(folder, output):
    """One process as torchrun starts it: the steps with the Dice of each case, then with that of the batch."""
    rank = int(os.environ["RANK"])
    for batch_dice in (False, True):
        trainer = make(Path(folder), batch_dice)
        assert trainer.is_ddp and trainer.batch_size == 1
        history = run_steps(trainer, slice(rank, rank + 1))
        torch.save((history, trainer.class_counts.end_epoch()["class_loss"]), Path(output) / f"{rank}_{batch_dice}.pth")


def start_ranks(code, **environment):
    """Two processes with the variables that torchrun sets; returns when both have ended well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        variables = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **variables, **environment},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]


@pytest.mark.slow
def test_two_ranks_of_batch_1_equal_one_process_of_batch_2(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    folder = tiny / "nnUNet_preprocessed" / DATASET
    start_ranks(f"from tests.host.test_distributed import work; work({str(folder)!r}, {str(tmp_path)!r})")
    for batch_dice in (False, True):
        ranks, losses = zip(*(torch.load(tmp_path / f"{rank}_{batch_dice}.pth") for rank in (0, 1)), strict=True)
        trainer = make(folder, batch_dice)
        alone = run_steps(trainer, slice(0, 2))
        expected = np.array(trainer.class_counts.end_epoch()["class_loss"])
        assert np.isfinite(expected).sum() == 3  # liver, liver tumour, spleen: what the log and the curves show
        for of_rank in losses:
            np.testing.assert_allclose(of_rank, expected, rtol=0, atol=1e-6)
        for step, (first, second, expected) in enumerate(zip(*ranks, alone, strict=True)):
            for key, value in expected.items():
                assert torch.equal(first[key], second[key]), (step, key)
                assert torch.allclose(first[key], value, rtol=0, atol=1e-6), (step, key)
        moved = [any(not torch.equal(a[key], b[key]) for key in a) for a, b in zip(alone, alone[1:], strict=False)]
        assert moved == [True, False, False, True, True]  # no pair anywhere; a bad image on one rank: no step


def test_more_processes_than_cases_in_a_batch_are_refused_with_the_way_out(capsys):
    with exit_on_user_error():
        check_batch_feeds_all(2, 2)
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        check_batch_feeds_all(2, 4)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "a batch of 2 for 4 GPUs" in message and "batch_size" in message


@pytest.fixture
def sixth_of_eight(monkeypatch):
    """This process has rank 5 of 8; its node has four GPUs."""
    for name, value in {"is_initialized": True, "get_rank": 5, "get_world_size": 8}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("asked", ["cuda", "cpu"])
def test_local_rank_not_rank_picks_the_device(asked, sixth_of_eight):
    device = device_of_this_process(torch.device(asked), torch.device("cuda", 5))
    assert device == torch.device("cuda", 1) if asked == "cuda" else torch.device("cpu")


@pytest.mark.parametrize("changed", [{"LOCAL_RANK": None}, {"RANK": "0"}, {"RANK": None}, {"WORLD_SIZE": "1"}])
def test_as_nnunet_starts_processes_its_own_choice_of_gpu_stays(changed, sixth_of_eight, monkeypatch):
    """Also where the variables of another torchrun are inherited."""
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    assert device_of_this_process(torch.device("cuda"), torch.device("cuda", 5)) == torch.device("cuda", 5)


def torchrun_train(plans_name, results, *options):
    """The stock command in two processes of two steps each; the fold's folder and what was printed."""
    folder = Path(sys.executable).parent
    arguments = [
        "901",
        "3d_fullres",
        "0",
        "-tr",
        "CLIPUniversalTrainerDemo",
        "-p",
        plans_name,
        "-device",
        "cpu",
        *options,
    ]
    result = subprocess.run(
        [folder / "torchrun", "--nproc_per_node", "2", "--no-python", folder / "nnUNetv2_train", *arguments, *options],
        env={
            **os.environ,
            "nnUNet_results": str(results),
            "nnUNet_clip_demo_epochs": "1",
            "nnUNet_clip_demo_iterations": "2",
            "nnUNet_n_proc_DA": "0",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return results / DATASET / f"CLIPUniversalTrainerDemo__{plans_name}__3d_fullres" / "fold_0", result.stdout


@pytest.mark.slow
def test_torchrun_trains_and_validates_with_the_stock_command(tiny, tmp_path):
    fold, printed = torchrun_train(PLANS, tmp_path)
    assert (fold / "checkpoint_final.pth").is_file()
    assert (fold / "validation" / "summary.json").is_file()
    assert printed.count("Mean Validation Dice over annotated classes") == 1
    before = {path.name: path.read_bytes() for path in (fold / "validation").iterdir()}
    _, printed = torchrun_train(PLANS, tmp_path, "--val", "--npz")
    assert "Epoch" not in printed and printed.count("Mean Validation Dice over annotated classes") == 1
    after = {path.name: path.read_bytes() for path in (fold / "validation").iterdir()}
    more = {f"{name.removesuffix('.nii.gz')}{ending}" for name in before for ending in (".npz", ".pkl")}
    assert set(after) - set(before) == {name for name in more if not name.startswith("summary.json")}
    assert after["summary.json"] == before["summary.json"]


@pytest.mark.slow
def test_two_processes_add_a_class_and_leave_all_else_as_it_was(tiny, tmp_path):
    """Frozen: most parameters have no gradient, and a process may have no case with the new class."""
    fold, _ = torchrun_train(PLANS, tmp_path)
    path, name = fold / "checkpoint_final.pth", "PlansExtendedByTwo"
    checkpoint = torch.load(path, weights_only=False)
    old = checkpoint["network_weights"]
    trained = old["class_embedding.seg_layers.trained"]
    classes = list(json.loads((fold.parent / "dataset.json").read_text())["labels"])[1:]
    trained[classes.index("spleen")] = False  # so that it can be added anew
    torch.save(checkpoint, path)
    own_plans = "-overwrite_plans_name", name, "--overwrite"
    assert cli.main(["extend", "-m", str(fold.parent), "-d", DATASET, *own_plans]) == 0
    preprocessed = tiny / "nnUNet_preprocessed" / DATASET
    if not (preprocessed / f"{name}_3d_fullres").exists():
        (preprocessed / f"{name}_3d_fullres").symlink_to(preprocessed / f"{PLANS}_3d_fullres")
    fold, _ = torchrun_train(name, tmp_path)
    new = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert all(torch.equal(new[key], value) for key, value in old.items() if ".seg_layers." not in key)
    own = [key for key in new if key.startswith("extensions.0.")]
    assert any(not torch.equal(new[key], new[key.removeprefix("extensions.0.")]) for key in own)
