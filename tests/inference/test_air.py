"""Windows of air: which they are, and that one answer for all of them changes no mask."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.inference.air import air_bound, air_windows
from nnunetv2_clip.inference.sliding import PROBE_EVERY, SlidingWindow
from tests.inference.conftest import AFFINE, make_ct, make_model, make_plans, save_ct
from tests.inference.test_predict import predict, voxels

AIR, BODY, BOUND = -2.0, 0.5, -1.5
PATCH = (8, 8, 8)
CLASSES = ("liver", "spleen", "aorta")


def windows(shape, step=4) -> list[tuple]:
    """Slicers of 8-cubes, half overlapping."""
    starts = [range(0, size - 7, step) for size in shape]
    return [(slice(None), *(slice(start, start + 8) for start in place)) for place in product(*starts)]


def numbers(slicers, wanted) -> set[int]:
    return {number for number, slicer in enumerate(slicers) if wanted(*(part.start for part in slicer[1:]))}


def test_air_around_the_patient_is_found_and_a_margin_is_kept():
    data = torch.full((1, 16, 32, 32), AIR)
    data[:, :, 20:, :] = BODY
    slicers = windows(data.shape[1:])
    assert air_windows(data, slicers, BOUND) == numbers(slicers, lambda z, y, x: y + 8 <= 19)
    data[:, :, 19] = BOUND  # still air
    assert air_windows(data, slicers, BOUND) == numbers(slicers, lambda z, y, x: y + 8 <= 19)
    data[:, :, 12] = BODY  # the blanket lies right next to the windows that end at 12
    assert air_windows(data, slicers, BOUND) == numbers(slicers, lambda z, y, x: y + 8 <= 11)


def test_air_inside_the_patient_is_none_however_large_and_where_the_scan_ends():
    data = torch.full((1, 24, 40, 40), BODY)
    data[:, :, 10:30, 10:30] = AIR  # from the first slice to the last
    slicers = windows(data.shape[1:])
    assert numbers(slicers, lambda z, y, x: float(data[0, z : z + 8, y : y + 8, x : x + 8].max()) == AIR)
    assert air_windows(data, slicers, BOUND) == set()


def test_windows_of_a_2d_model_are_slices():
    data = torch.full((1, 2, 16, 16), AIR)
    data[:, :, 9:] = BODY
    slicers = [(slice(None), z, slice(y, y + 8), slice(x, x + 8)) for z, y, x in product((0, 1), (0, 4, 8), (0, 4, 8))]
    found = air_windows(data, slicers, BOUND)
    assert found == {number for number, slicer in enumerate(slicers) if slicer[2].start == 0}


def test_the_bound_is_that_of_the_body_or_of_the_clip():
    plans = make_plans(CLASSES)  # clips at -900 and 300, mean 40, std 100
    assert air_bound(plans, ["CTNormalization"]) == pytest.approx(-3.4)
    plans["foreground_intensity_properties_per_channel"]["0"]["percentile_00_5"] = -100.0
    assert air_bound(plans, ["CTNormalization"]) == pytest.approx(-1.4)
    with pytest.raises(UserError, match="ZScoreNormalization"):
        air_bound(plans, ["ZScoreNormalization"])


class Counting(nn.Module):
    """A network with random weights that finds nothing in air, or one class there; counts its calls."""

    def __init__(self, finds_air=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv3d(8, len(CLASSES), 5, padding=2))
        self.finds_air, self.calls = finds_air, 0

    def forward(self, image):
        self.calls += 1
        logits = self.layers(image)
        in_air = torch.where(image < BOUND, -20.0 - logits.abs(), logits)
        return torch.cat((in_air[:, :-1], -in_air[:, -1:]), 1) if self.finds_air else in_air


def run(network, data, bound=None) -> tuple[torch.Tensor, int]:
    """(K, Z, Y, X) logits, and how often the network was asked."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.plans_manager, predictor.configuration_manager = Plans, Plans
    rows = []
    network.calls = 0
    SlidingWindow(predictor, [network], data, bound).run(len(CLASSES), lambda new: rows.append(new.clone()), CPU)
    return torch.cat(rows, 1), network.calls


class Plans:
    patch_size = PATCH
    plans: dict = {}


CPU = torch.device("cpu")


def every_window(network, data) -> torch.Tensor:
    """The plain loop: each window is predicted, whatever it holds."""
    from nnunetv2_clip.inference import sliding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding._Answers, "of", lambda self, number: self._predict(self._slicers[number]))
        return run(network, data)[0]


def half_air(noise: float) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    data = torch.full((1, 24, 40, 24), AIR) + noise * torch.randn((1, 24, 40, 24), generator=rng)
    data[:, :, 24:] = BODY + torch.randn((1, 24, 16, 24), generator=rng).clamp(-1.5)
    return data


@torch.inference_mode()
def test_windows_of_one_value_are_predicted_once_and_not_a_bit_changes():
    network, data = Counting(), half_air(noise=0)
    logits, calls = run(network, data)
    count = len(windows(data.shape[1:]))
    plain = numbers(windows(data.shape[1:]), lambda z, y, x: y + 8 <= 24)
    assert calls == count - len(plain) + 1 < 0.6 * count
    assert torch.equal(logits, every_window(network, data))
    data[:, 8:, :24] = AIR + 0.25  # another value: another answer
    logits, calls = run(network, data)
    assert torch.equal(logits, every_window(network, data))


@torch.inference_mode()
def test_windows_that_are_nearly_of_one_value_are_predicted_each():
    network, data = Counting(), half_air(noise=1e-5)
    logits, calls = run(network, data)
    assert calls == len(windows(data.shape[1:]))
    assert torch.equal(logits, every_window(network, data))


@torch.inference_mode()
def test_noisy_air_shares_an_answer_no_mask_changes_and_the_body_not_a_bit():
    network, data = Counting(), half_air(noise=0.05)
    expected = every_window(network, data)
    logits, calls = run(network, data, BOUND)
    slicers = windows(data.shape[1:])
    air = air_windows(data, slicers, BOUND)
    assert calls == len(slicers) - len(air) + -(-len(air) // PROBE_EVERY) < 0.7 * len(slicers)
    assert (expected > 0).any(), "there are masks"
    assert torch.equal(logits > 0, expected > 0)
    body = data[0] > BOUND
    assert torch.equal(logits[:, body], expected[:, body])
    assert not torch.equal(logits, expected), "noise is not equal noise"
    unasked, calls = run(network, data)
    assert torch.equal(unasked, expected) and calls == len(slicers)


@torch.inference_mode()
def test_a_model_that_finds_something_in_air_is_asked_everywhere():
    network, data = Counting(finds_air=True), half_air(noise=0.05)
    logits, _ = run(network, data, BOUND)
    assert torch.equal(logits, every_window(network, data))


def test_the_command_skips_air_and_records_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data = rng.normal(-1000, 8, (40, 90, 20)).astype(np.int16)
    data[:, 60:] = make_ct((40, 30, 20))
    image = save_ct(tmp_path / "ct.nii.gz", data, AFFINE)
    model = make_model(tmp_path / "model")
    for name, more in (("all", ()), ("skipped", ("--skip-air",))):
        assert predict(image, tmp_path / name, model, *more) == 0
        record = json.loads((tmp_path / name / "prediction.json").read_text())
        assert record["skip_air"] == bool(more)
    found, expected = (voxels(tmp_path / name / "ct.nii.gz") for name in ("skipped", "all"))
    assert (found == expected).all() and found.any()
    assert capsys.readouterr().err.count("--skip-air is without effect: the model finds some class in air") == 1
    assert predict(image, tmp_path / "all", model, "--skip-air", "--continue_prediction") == 2
    assert "was begun with other skip_air" in capsys.readouterr().err
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]
    (model / "plans.json").write_text(json.dumps(plans))
    assert predict(image, tmp_path / "other", model, "--skip-air") == 2
    assert "ZScoreNormalization" in capsys.readouterr().err
