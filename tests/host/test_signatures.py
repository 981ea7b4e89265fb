"""Every overridden method has the host's parameters: a new nnU-Net that changes one fails here, not at night."""

import inspect

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clip.training import variants
from nnunetv2_clip.training.trainer import CLIPUniversalTrainer

TRAINERS = [CLIPUniversalTrainer] + [
    value
    for value in vars(variants).values()
    if inspect.isclass(value) and issubclass(value, CLIPUniversalTrainer) and value is not CLIPUniversalTrainer
]


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
def test_init_has_the_hosts_parameters(trainer):
    expected = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    assert list(inspect.signature(trainer.__init__).parameters) == expected


OVERRIDDEN = sorted(name for name in vars(CLIPUniversalTrainer) if callable(getattr(nnUNetTrainer, name, None)))


@pytest.mark.parametrize("name", [name for name in OVERRIDDEN if not name.startswith("__")])
def test_overridden_methods_take_what_the_host_passes(name):
    ours = inspect.signature(getattr(CLIPUniversalTrainer, name)).parameters
    host = list(inspect.signature(getattr(nnUNetTrainer, name)).parameters)
    handed_on = {parameter.name for parameter in ours.values() if parameter.kind.name.startswith("VAR_")}
    assert set(ours) - handed_on <= set(host) if handed_on else list(ours) == host


def test_trainers_folder_only_re_exports():
    import nnunetv2_clip.trainers as package

    folder = next(iter(package.__path__))
    from pathlib import Path

    for file in Path(folder).glob("*.py"):
        assert "\nclass " not in file.read_text() and "\ndef " not in file.read_text(), file
