"""The experiments run from end to end at their smallest size, and what they write there replaces no result."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_an_interrupted_run_on_a_gpu_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    step = gpu.Step("wait", "", ("-c", "echo $$ > WORK/pid; echo begun; sleep 100"), program="bash")
    monkeypatch.setattr("builtins.print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu.run(step, Namespace(device="cpu", work=tmp_path, pages=tmp_path, small=True), seconds=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_a_run_on_a_gpu_needs_is_said_before_it_begins(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    gpu.check_installed()
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(SystemExit, match="lacks our trainers"):
        gpu.check_installed()


def test_a_network_that_nnunet_has_compiled_is_scored(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import proof_study

    network = torch.nn.Linear(2, 2)
    trainer = Mock(network=torch.compile(network, backend="eager"), device=torch.device("cpu"))
    predictor = proof_study.make_predictor(trainer)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])  # as nnU-Net does before it predicts
    assert predictor.network is network


def test_patients_of_a_study_that_was_stopped_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import proof_study

    def stopped(study):
        assert list((study.folder / "nnUNet_raw").iterdir()) == []
        (study.folder / "nnUNet_raw" / "half").touch()
        raise KeyboardInterrupt

    for name in proof_study.NNUNET_FOLDERS:
        monkeypatch.setenv(name, "")  # given back afterwards
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(proof_study.Study, "_prepare", stopped)
    study = proof_study.Study(tmp_path, 0, proof_study.Size(1, 1, 1, (9, 9, 9)))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            study.prepare()


def test_a_trainer_that_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_iteration

    measured = []

    def run_alone(*names):
        measured.append(names)
        return {"number": len(measured)}

    monkeypatch.setattr(bench_iteration, "run_alone", run_alone)
    results = [bench_iteration.kept(variant, "small", tmp_path / "parts") for variant in ("ours", "regions2", "ours")]
    assert [result["number"] for result in results] == [1, 2, 1]
    assert measured == [("ours", "small"), ("regions2", "small")]


@pytest.mark.slow
def test_what_a_gpu_is_asked_runs_on_the_cpu_and_goes_on_where_it_was_cut(tmp_path):
    def run(*options):
        command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--small", "-w", tmp_path, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    cut = run("--minutes", "0.1", "--only", "head")
    assert cut.returncode == 1 and "no time left" in cut.stdout
    done = run("--only", "head", "predict")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    pages = tmp_path / "gpu_cpu_small" / "pages"
    assert {path.name for path in pages.iterdir()} >= {"head.md", "head.log", "predict_device.md", "README.md"}
    assert "| head |" in (pages / "README.md").read_text()
    again = run("--only", "head", "predict")
    assert again.returncode == 0 and again.stdout.count("done before") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "page"),
    [
        (("bench_masking.py",), "masking.md"),
        (("bench_extension.py",), "extension.md"),
        (("bench_proof.py", "masking", "--seeds", "1"), "proof_masking_20steps.md"),
        (("bench_proof.py", "encodings", "--seeds", "1"), "proof_encodings_20steps.md"),
        (("bench_proof.py", "false-positives", "--seeds", "1"), "proof_false_positives_20steps.md"),
        (("bench_proof.py", "dying", "--seeds", "1"), "proof_dying_20steps.md"),
    ],
)
def test_an_experiment_at_its_smallest_size(command, page, tmp_path):
    results = {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()}
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments, "--small", "-w", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / page).read_text()
    assert "smoke test" in text
    if script == "bench_extension.py":
        assert "1 of 1 seeds" in text, "the old logits are identical to the bit, however short the training"
    assert {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()} == results
