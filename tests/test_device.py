"""`-device`: the fastest that is there, or exactly the one that was named."""

import pytest
import torch

from nnunetv2_clip.device import find_device
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
