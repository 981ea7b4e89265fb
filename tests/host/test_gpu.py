"""On a CUDA device what the other tests show on the CPU: `make gpu` runs these (marker `gpu`).

`NNUNETV2_CLIP_TEST_DEVICE=cpu` runs them on the CPU, where most compare a thing with itself: only to try them.
"""

# Shapes: P pairs.

import os
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d

from nnunetv2_clip.networks.head import NUM_DYNAMIC_PARAMETERS, text_driven_head
from nnunetv2_clip.networks.head_layout import split_parameters
from nnunetv2_clip.networks.universal import bare_network

pytestmark = pytest.mark.gpu
NAME = os.environ.get("NNUNETV2_CLIP_TEST_DEVICE", "cuda")
# Of the logits, of the gradients of features and of parameters, in the 2-norm. A GPU cuts digits off for its products
# (TF32): a ReLU in two thousand flips, and the gradient of a flipped voxel is as wrong as it is large.
TOLERANCES = {
    torch.float32: (2e-5, 5e-3, 1e-3),
    torch.float16: (2e-3, 5e-2, 1e-2),
    torch.bfloat16: (1e-2, 5e-2, 1e-2),
}


@pytest.fixture(scope="module")
def device():
    if NAME == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device(NAME)


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """nnU-Net compiles on CUDA unless it is told not to."""
    monkeypatch.setenv("nnUNet_compile", "f")


@pytest.fixture
def exact():
    """Convolutions and products in full single precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


def difference(values, exact):
    """In the 2-norm, relative: one flipped ReLU decides a maximum, and says nothing."""
    values, exact = values.detach().double().cpu(), exact.detach().double().cpu()
    return (values - exact).norm().item() / max(exact.norm().item(), 1e-30)


# ---------------------------------------------------------------- the head


def plain_head(features, theta, case_index):
    """(P, *spatial): three convolutions for each pair, one pair after the other."""
    rows = []
    for case, (w1, b1, w2, b2, w3, b3) in zip(case_index, zip(*split_parameters(theta), strict=True), strict=True):
        x = features[case : case + 1]
        for weight, bias in ((w1, b1), (w2, b2)):
            x = conv3d(x, weight.reshape(8, 8, 1, 1, 1), bias.flatten()).relu()
        rows.append(conv3d(x, w3.reshape(1, 8, 1, 1, 1), b3.flatten())[0, 0])
    return torch.stack(rows)


def head_problem(device, dtype, num_pairs=6):
    torch.manual_seed(0)
    features = torch.randn(2, 8, 24, 20, 28, device=device).to(dtype).requires_grad_()
    theta = torch.randn(num_pairs, NUM_DYNAMIC_PARAMETERS, device=device).mul_(0.3).requires_grad_()
    return features, theta, torch.tensor([0] * (num_pairs - 2) + [1] * 2, device=device)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_head_under_autocast_equals_plain_convolutions(device, dtype, layout):
    features, theta, cases = head_problem(device, dtype)
    mixed = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    with mixed:
        logits = text_driven_head(features.to(memory_format=layout), theta, cases)
    assert logits.dtype == dtype
    wanted_features, wanted_theta = (x.detach().double().cpu().requires_grad_() for x in (features, theta))
    wanted = plain_head(wanted_features, wanted_theta, cases.tolist())
    weight = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    got = torch.autograd.grad((logits.double() * weight.to(device)).sum(), (features, theta))
    exact = torch.autograd.grad((wanted * weight).sum(), (wanted_features, wanted_theta))
    pairs = zip((logits, *got), (wanted, *exact), strict=True)
    found = [difference(*pair) for pair in pairs]
    assert all(value < tolerance for value, tolerance in zip(found, TOLERANCES[dtype], strict=True)), found


def test_the_fused_kernel_is_what_runs_on_a_card_of_its_kind(device):
    from nnunetv2_clip.networks.head import fused_kernel_runs_on

    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("no card with compute capability 8.0 or newer")
    assert fused_kernel_runs_on(device, torch.float16), "the line printed above says why the matrix form runs instead"


def test_head_and_loss_keep_no_maps_of_hidden_layers(device):
    """Peak memory of 32 classes at 64^3: logits, their gradients, and a little. Grouped convolutions: 40 times more."""
    if device.type != "cuda":
        pytest.skip("the peak memory of a CPU is that of the whole process: benchmarks/bench_head.py")
    features = torch.randn(1, 8, 64, 64, 64, device=device, dtype=torch.float16, requires_grad=True)
    theta = torch.randn(32, NUM_DYNAMIC_PARAMETERS, device=device, requires_grad=True)
    cases = torch.zeros(32, dtype=torch.long, device=device)
    text_driven_head(features, theta, cases).float().mean().backward()  # what the first run allocates for good
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    text_driven_head(features, theta, cases).mean().backward()
    one_map = 2 * 64**3  # bytes of a class
    assert torch.cuda.max_memory_allocated(device) - before < 4 * 32 * one_map


# ---------------------------------------------------------------- the trainer


def prepared(make_trainer, device, dtype=torch.float32, **options):
    torch.manual_seed(0)
    trainer = make_trainer(device=device, **options)
    trainer.initialize()
    trainer.network.train()
    if dtype == torch.float32:
        trainer._autocast, trainer.grad_scaler = nullcontext, None
    return trainer


def drawn_batches(trainer, count):
    """Batches of random voxels that annotate 0, 1 and 2 classes in turn."""
    rng = np.random.default_rng(0)
    annotating = {len(case.annotated): case_id for case_id, case in trainer.manifest.cases.items()}
    keys = [annotating[number] for number in sorted(annotating)]
    patch, size = trainer.configuration_manager.patch_size, trainer.batch_size
    values = sorted(
        {0} | {int(value) for group in trainer.dataset_json["labels"].values() for value in np.ravel(group)}
    )
    strides = [np.round(1 / np.array(scale)).astype(int) for scale in trainer._get_deep_supervision_scales()]
    for number in range(count):
        labels = rng.choice(values, size=(size, 1, *patch)).astype(np.int16)
        yield {
            "data": torch.from_numpy(rng.normal(size=(size, 1, *patch)).astype(np.float32)),
            "target": [torch.from_numpy(labels[:, :, :: s[0], :: s[1], :: s[2]].copy()) for s in strides],
            "keys": [keys[number % len(keys)]] * size,
        }


def weights_after(trainer, count=3):
    losses = [float(trainer.train_step(batch)["loss"]) for batch in drawn_batches(trainer, count)]
    network = bare_network(trainer.network)
    return losses, {name: value.detach().cpu().clone() for name, value in network.named_parameters()}


def test_training_steps_on_the_device_equal_those_on_the_cpu(make_trainer, device, exact):
    on_device, on_cpu = (weights_after(prepared(make_trainer, where)) for where in (device, torch.device("cpu")))
    np.testing.assert_allclose(on_device[0], on_cpu[0], rtol=1e-4)
    # A bias before an instance norm has no gradient but rounding, which momentum carries on.
    assert max(difference(value, on_cpu[1][name]) for name, value in on_device[1].items() if value.dim() > 1) < 1e-3


def test_twenty_steps_in_mixed_precision_stay_finite(make_trainer, device):
    trainer = prepared(make_trainer, device, torch.float16)
    losses, weights = weights_after(trainer, 20)
    assert np.isfinite(losses[4:]).all(), "the scaler has found its factor in the first steps"
    assert all(value.isfinite().all() for value in weights.values())
    assert trainer._bad_steps == 0


def test_compiled_steps_equal_eager_ones(make_trainer, device, exact, monkeypatch):
    eager = weights_after(prepared(make_trainer, device))
    monkeypatch.setenv("nnUNet_compile", "t")
    compiled = prepared(make_trainer, device)
    if compiled.network is bare_network(compiled.network):
        assert device.type != "cuda", "nnU-Net compiles on CUDA"
        pytest.skip("nnU-Net does not compile on this device")
    losses, weights = weights_after(compiled)
    np.testing.assert_allclose(losses, eager[0], rtol=1e-3)
    assert max(difference(value, eager[1][name]) for name, value in weights.items() if value.dim() > 1) < 1e-2


def test_channels_last_gives_the_same_step(make_trainer, device, exact):
    plain = weights_after(prepared(make_trainer, device))
    trainer = prepared(make_trainer, device)
    trainer.network = trainer.network.to(memory_format=torch.channels_last_3d)
    turned = weights_after(trainer)
    np.testing.assert_allclose(turned[0], plain[0], rtol=1e-4)


def test_a_step_waits_for_the_device_at_most_four_times(make_trainer, device):
    if device.type != "cuda":
        pytest.skip("CUDA counts them; on the CPU tests/host/test_syncs.py does")
    trainer = prepared(make_trainer, device, torch.float16)
    weights_after(trainer, 4)
    batch = next(iter(drawn_batches(trainer, 1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # else a line that waits twice counts once
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]
    assert len(waits) <= 4, waits


# ---------------------------------------------------------------- prediction from Python


def test_a_model_predicts_on_the_device_as_on_the_cpu(tmp_path, device):
    from nnunetv2_clip import load_model
    from tests.inference.conftest import AFFINE, make_ct, make_model

    loaded, image = load_model(make_model(tmp_path), "cpu"), (make_ct(), AFFINE)
    there, here = (loaded.predict(image, probabilities=loaded.classes, device=name) for name in (NAME, None))
    assert there["liver"].any()
    for name in loaded.classes:  # in half precision there
        first, second = (one.probabilities(name)[name] for one in (there, here))
        assert np.abs(first - second).mean() < 0.01 and np.mean(there[name] != here[name]) < 0.01, name
