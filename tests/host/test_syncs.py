"""How often the processor waits for the device in one training step: ours against nnU-Net's own trainer.

Counted without a GPU: the step runs on PyTorch's `meta` device, which computes shapes alone. What would wait for a GPU
has no value there and raises; the reads that a trainer may make are counted and answered with ones. Not in it, as it is
the same for both: the scaler of mixed precision, which reads one flag more.
"""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.overrides import TorchFunctionMode

META = torch.device("meta")
OF_THE_SCALER = 1
READS = {torch.Tensor.cpu, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy}
READS |= {getattr(torch.Tensor, name) for name in ("__bool__", "__float__", "__int__", "__index__")}
SENT = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}  # made in main memory, then copied: the copy waits


class Waits(TorchFunctionMode):
    """`count[name]`: the reads of a value on the device, and the copies to it for which the processor waits."""

    def __init__(self):
        self.count = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        from_device = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_meta
        if function in READS and from_device:
            self.count[function.__name__] += 1
            with torch.no_grad():
                ones = torch.ones(args[0].shape, dtype=args[0].dtype)
            return function(ones, *args[1:], **kwargs)
        result = function(*args, **kwargs)
        on_device = isinstance(result, torch.Tensor) and result.is_meta
        copied = function is torch.Tensor.to and not from_device and not kwargs.get("non_blocking")
        if on_device and (copied or function in SENT):
            self.count[function.__name__] += 1
        return result


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """It does not know the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


@pytest.fixture
def on_meta(make_trainer):
    """A trainer whose network, loss and optimizer are on the meta device, and a batch in main memory."""

    def make(trainer_class=None, change=lambda trainer: None, **options):
        trainer = make_trainer(trainer_class=trainer_class, **options)
        trainer.on_train_start()
        batch = next(trainer.dataloader_train)
        change(trainer)
        trainer.network = trainer.network.to(META)
        trainer.loss = trainer.loss.to(META)
        trainer.optimizer, _ = trainer.configure_optimizers()
        trainer.device = META
        return trainer, batch

    return make


def waits(trainer, batch):
    with Waits() as counted:
        trainer.train_step(batch)
    return counted.count


def count_on_meta(trainer):
    from nnunetv2_clip.training.class_log import ClassCounts

    trainer.class_counts = ClassCounts(len(trainer.classes), META)


def with_batch_dice(plans):
    plans["configurations"]["3d_fullres"]["batch_dice"] = True


@pytest.mark.parametrize("options", [{}, {"change_plans": with_batch_dice}], ids=["case Dice", "batch Dice"])
def test_a_training_step_waits_at_most_four_times(options, on_meta):
    ours = waits(*on_meta(change=count_on_meta, **options))
    assert 0 < ours.total() + OF_THE_SCALER <= 4, ours


def test_a_training_step_of_the_host_waits_as_often_as_we_think(on_meta):
    assert waits(*on_meta(nnUNetTrainer)).total() + OF_THE_SCALER == 2


def test_weights_of_pairs_and_incomplete_classes_wait_no_more(on_meta):
    from tests.host.test_trainer import with_incomplete_liver, with_pseudo_labels

    def change(trainer):
        count_on_meta(trainer)
        with_incomplete_liver(trainer)
        with_pseudo_labels(trainer, 0.25)

    assert waits(*on_meta(change=change)).total() + OF_THE_SCALER <= 4


def test_a_network_with_later_parts_reads_nothing():
    from nnunetv2_clip.networks.pairs import Pairs
    from tests.networks.test_universal import extended, make_network

    network = extended(make_network()).to(META)
    pairs = Pairs.of(torch.tensor([[0, 4], [1, 0], [1, 1]]), META)
    with Waits() as counted:
        sum(scale.sum() for scale in network(torch.zeros(2, 1, 8, 8, 8, device=META), pairs)).backward()
    assert not counted.count


def test_a_wait_is_counted():
    with Waits() as counted:
        value = torch.zeros(3, device=META)
        assert value.sum() > -1 and value.cpu().shape == (3,)
        torch.tensor([1.0], device=META)
        torch.ones(2).to(META), torch.ones(2).to(META, non_blocking=True)
        with pytest.raises(NotImplementedError):
            value.nonzero()
    assert counted.count.total() == 4


def test_a_validation_step_reads_two_values(on_meta):
    trainer, batch = on_meta(change=count_on_meta)
    trainer.network.eval()
    with torch.no_grad(), Waits() as counted:
        result = trainer.validation_step(batch)
    assert counted.count.total() == 2 and np.isfinite(result["loss"])
