"""Where logits are summed: on the device in blocks of classes, or in main memory, as its free memory allows; here the
free memory of a device is pretended."""

from __future__ import annotations

import json

import pytest
import torch

from nnunetv2_clip.inference import case_predictor
from nnunetv2_clip.inference.memory import DEVICE_SHARE, MAX_DEVICE_PASSES, classes_at_a_time, free_beside
from nnunetv2_clip.inference.sliding import SlidingWindow
from tests.inference.test_predict import LEARNT, predict, voxels


@pytest.mark.parametrize(
    ("fitting", "expected"),
    [(100, 32), (32, 32), (31, 16), (16, 16), (15, 11), (11, 11), (8, 8), (7, 0), (1, 0), (0, 0), (-3, 0)],
)
def test_passes_are_few_and_about_equal(fitting, expected):
    count = classes_at_a_time(32, 1000, round(fitting * 1000 / DEVICE_SHARE) + 1)
    assert count == expected
    assert not count or -(-32 // count) <= MAX_DEVICE_PASSES


def test_a_device_that_shares_main_memory_is_not_asked():
    assert free_beside(lambda: pytest.fail("no need to run the network"), torch.device("cpu")) is None


def test_free_is_what_stays_free_while_the_network_runs(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 - 300 * done.count("ran"), 2000))
    assert free_beside(lambda: done.append("ran"), torch.device("cuda")) == 700
    assert done == ["emptied", "ran"]


def bytes_for(share: float, window: SlidingWindow) -> int:
    """What is free when this share of the learnt classes fits, beside what one class takes for a while."""
    per_class = window.buffer_bytes_per_class + 2 * window.patch_bytes_per_class
    return round(share * len(LEARNT) * per_class / DEVICE_SHARE) + 1


@pytest.fixture
def pretend(monkeypatch):
    """Pretend that a share of the classes fits on the device; says on which devices sums were made."""
    monkeypatch.setattr(case_predictor, "SLACK_BYTES", 0)
    monkeypatch.setattr(case_predictor, "_resampled_bytes", lambda window, case: 0)
    devices, run = [], SlidingWindow.run

    def noting(window, num_classes, sink, device):
        devices.append((num_classes, device.type))
        run(window, num_classes, sink, device)

    def free_for(share: float) -> list:
        devices.clear()
        free = lambda look, device: bytes_for(share, look.__self__) + 2 * look.__self__.buffer_bytes_per_class  # noqa: E731
        monkeypatch.setattr(case_predictor, "free_beside", free)
        return devices

    monkeypatch.setattr(SlidingWindow, "run", noting)
    return free_for


def test_blocks_of_classes_give_the_masks_of_one_pass(tmp_path, model, ct, pretend, capsys):
    for name, share, passes in (("one", 1, [4]), ("two", 0.5, [2, 2]), ("four", 0.25, [1, 1, 1, 1])):
        devices = pretend(share)
        assert predict(ct, tmp_path / name, model, "--probabilities", "liver") == 0
        assert [count for count, _ in devices] == passes
        record = json.loads((tmp_path / name / "prediction.json").read_text())["cases"]["case"]
        assert record.get("passes", 1) == len(passes)
    assert "main memory" not in capsys.readouterr().err
    one, two, four = (voxels(tmp_path / name / "case.nii.gz") for name in ("one", "two", "four"))
    assert one.any() and (one == two).all() and (one == four).all()
    # The head multiplies matrices of another size: rounding may move a probability to the next step.
    one, two, four = (voxels(tmp_path / name / "case/probabilities/liver.nii.gz") for name in ("one", "two", "four"))
    assert max(abs(one - two).max(), abs(one - four).max()) < 1.01 / 65535


def test_sums_in_main_memory_are_said_once(tmp_path, model, ct, pretend, capsys):
    (ct.parent / "again_0000.nii.gz").write_bytes(ct.read_bytes())
    devices = pretend(0.2)
    assert predict(ct.parent, tmp_path / "out", model) == 0
    assert devices == [(4, "cpu")] * 2
    printed = capsys.readouterr().err
    assert printed.count("summed in main memory") == 1 and "GB free, they need" in printed


def test_a_device_that_runs_out_of_memory_is_relieved_of_the_sums(tmp_path, model, ct, monkeypatch, capsys):
    assert predict(ct, tmp_path / "expected", model) == 0
    run = SlidingWindow.run

    def crowded(window, num_classes, sink, device):
        if device.type == "cuda":
            sink(torch.zeros((num_classes, 1, *window._data.shape[2:])))  # it had begun
            raise torch.cuda.OutOfMemoryError("pretended")
        run(window, num_classes, sink, device)

    monkeypatch.setattr(SlidingWindow, "run", crowded)
    elsewhere = lambda predictor, *_: (torch.device("cuda"), len(predictor.trained))  # noqa: E731
    monkeypatch.setattr(case_predictor.CasePredictor, "_where_to_sum", elsewhere)
    assert predict(ct, tmp_path / "out", model) == 0
    assert "the device ran out of it" in capsys.readouterr().err
    assert (voxels(tmp_path / "out" / "case.nii.gz") == voxels(tmp_path / "expected" / "case.nii.gz")).all()
