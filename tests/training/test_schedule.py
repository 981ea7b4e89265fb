"""The paper's learning rate."""

import pytest
import torch

from nnunetv2_clip.training.variants import WarmUpCosine, warm_up_cosine


def test_the_factor_rises_in_equal_steps_and_falls_as_half_a_cosine():
    factors = [warm_up_cosine(epoch, num_epochs=9, warm_up=1) for epoch in range(10)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[5] == pytest.approx(0.5)  # the middle of epochs 1 to 9
    assert factors[9] == pytest.approx(0)
    assert factors[1:] == sorted(factors[1:], reverse=True)


def test_stepping_by_epoch_number_needs_no_history():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    scheduler = WarmUpCosine(optimizer, num_epochs=50, warm_up=5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-4 / 6)
    scheduler.step(5)  # nnU-Net continues a training by stepping straight to its epoch
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-4)
    assert scheduler.get_last_lr() == [pytest.approx(4e-4)]
