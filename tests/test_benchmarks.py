"""The experiments run from end to end at their smallest size, and what they write there replaces no result."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
