"""`-device`: the fastest that is there, or exactly the one that was named; and does torch.compile work there."""

import pytest
import torch

from nnunetv2_clip.device import compiles_on, find_device
from nnunetv2_clip.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Pretends that so many CUDA devices and an mps device are there."""

    def pretend(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(("cuda", "mps", "fastest"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_takes_the_fastest_that_is_there(machine, cuda, mps, fastest):
    machine(cuda, mps)
    assert find_device("auto") == find_device(None) == find_device() == torch.device(fastest)


def test_a_device_is_taken_by_its_name(machine):
    machine(2, True)
    for name in ("cpu", "mps", "cuda", "cuda:0", "cuda:1"):
        assert find_device(name) == find_device(torch.device(name)) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:7", "cuda:-1", "cuda:", "gpu", "", "cpu:3"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine, name):
    machine(2, False)
    with pytest.raises(UserError, match=r"-device .*Expected: auto, cuda, cpu, cuda:0, cuda:1\."):
        find_device(name)


def test_without_gpu_cuda_is_refused(machine):
    machine(0, False)
    with pytest.raises(UserError, match=r"Expected: auto, cpu\."):
        find_device("cuda")


def test_a_compiler_that_fails_is_tried_once_and_named_in_one_line(monkeypatch, capsys):
    tried = []

    def fail(*arguments):
        tried.append(arguments)
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    compiles_on.cache_clear()
    assert not compiles_on(torch.device("cpu")) and not compiles_on(torch.device("cpu"))
    compiles_on.cache_clear()
    assert len(tried) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Failed to find C compiler" in line and "nnUNet_compile=f" in line
