"""Windows of air in `predict`: what sharing one answer among them saves on a whole-body CT, and that no mask changes.

    python benchmarks/bench_air.py [--fields 500 700] [--length 1800]

A drawn patient on a table, 4.5 mm voxels, noisy air, constant outside the scanner's circle; windows of 144 mm as in the
paper's preset. The network has random weights and finds nothing in voxels of air, as a trained one would. Each
side runs in turn, in processor time. Writes benchmarks/results/air.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from bench_predict import network_arguments
from common import RESULTS, table, verdict, write_result
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

sys.path.insert(0, str(Path(__file__).parents[1]))
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.inference import sliding
from nnunetv2_clip.inference.air import air_bound, air_windows
from nnunetv2_clip.inference.sliding import SlidingWindow
from nnunetv2_clip.networks.universal import CLIPUniversalNet

VOXEL_MM, WINDOW_MM = 4.5, 144.0
GOAL = 1.3
NOISE_HU = 12.0
CLASSES = UNIVERSAL.names[:8]
# Of nnU-Net's normalisation: with lungs in the training it lies below the noise of air, without them far above.
CLIPS = {"lungs among the classes": -1020.0, "no lungs among the classes": -150.0}
MEAN, STD, HIGHEST = 0.0, 200.0, 400.0


def ellipse(y, x, centre, radii) -> np.ndarray:
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def whole_body(length_mm: float, field_mm: float, voxel_mm: float = VOXEL_MM) -> np.ndarray:
    """(Z, Y, X) float32 HU: feet first, 1800 mm tall, squeezed into the given length."""
    rng = np.random.default_rng(0)
    size = round(field_mm / voxel_mm)
    y, x = (np.mgrid[:size, :size] + 0.5 - size / 2) * voxel_mm
    slices = []
    for z in (np.arange(round(length_mm / voxel_mm)) + 0.5) * voxel_mm * 1800 / length_mm:
        hu = np.full((size, size), -1000.0)
        hu += rng.normal(0, NOISE_HU, hu.shape)
        hu[(np.abs(x) < 210) & (y > 125) & (y < 145)] = 0  # the table
        if z < 800:
            body = ellipse(y, x, (40, -100), (75, 75)) | ellipse(y, x, (40, 100), (75, 75))
        elif z < 1500:
            body = ellipse(y, x, (0, 0), (120, 180))
            body |= ellipse(y, x, (20, -215), (40, 30)) | ellipse(y, x, (20, 215), (40, 30))
        else:
            body = ellipse(y, x, (20, 0), (95, 75) if z > 1580 else (60, 60))
        hu[body] = 40
        if 1150 < z < 1450:
            hu[ellipse(y, x, (0, -85), (80, 65)) | ellipse(y, x, (0, 85), (80, 65))] = -820
        hu[body] += rng.normal(0, 30, int(body.sum()))
        hu[ellipse(y, x, (0, 0), (field_mm / 2, field_mm / 2)) == 0] = -1024
        slices.append(hu)
    return np.stack(slices).astype(np.float32)


def normalised(hu: np.ndarray, clip: float) -> tuple[torch.Tensor, float]:
    """(1, Z, Y, X) as CTNormalization makes it, and the bound of air."""
    properties = {"percentile_00_5": clip, "percentile_99_5": HIGHEST, "mean": MEAN, "std": STD}
    bound = air_bound({"foreground_intensity_properties_per_channel": {"0": properties}}, ["CTNormalization"])
    return torch.from_numpy((np.clip(hu, clip, HIGHEST) - MEAN) / STD)[None], bound


class QuietInAir(torch.nn.Module):
    """A network with random weights whose logits are negative in voxels of air."""

    def __init__(self, bound: float):
        super().__init__()
        torch.manual_seed(0)
        arguments = {**network_arguments(), "features_per_stage": [16, 32, 64, 128, 128]}
        backbone = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        names = CLASSES
        self.network = CLIPUniversalNet(1, len(names), backbone, names, 384, deep_supervision=False, **arguments)
        vectors = torch.nn.functional.normalize(torch.randn(len(names), 384), dim=1)
        self.network.set_classes(vectors, torch.ones(len(names), dtype=torch.bool))
        self.bound, self.calls = bound, 0
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits = self.network(image)
        return torch.where(image <= self.bound, -3 - logits.abs(), logits)


def stock_predictor() -> nnUNetPredictor:
    cpu = torch.device("cpu")
    return nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=cpu, allow_tqdm=False)


def sliding_window(network, data, bound) -> SlidingWindow:
    edge = round(WINDOW_MM / VOXEL_MM)
    predictor = stock_predictor()
    predictor.configuration_manager = SimpleNamespace(patch_size=[edge] * 3)
    predictor.plans_manager = SimpleNamespace(plans={})
    return SlidingWindow(predictor, [network], data, bound)


class NoSharing(sliding._Answers):
    """Every window is predicted, whatever it holds."""

    def of(self, number: int) -> torch.Tensor:
        return self._predict(self._slicers[number])


def measure(network, data, bound, answers, is_body) -> dict:
    """Processor time, number of predictions, and what came out: masks, and the logits of the body."""
    sliding._Answers = answers
    masks, inside, done, network.calls = [], [], 0, 0

    def sink(rows):
        nonlocal done
        masks.append(np.packbits((rows > 0).numpy()))
        inside.append(rows[:, is_body[done : done + rows.shape[1]]].sum(1, dtype=torch.float64).numpy())
        done += rows.shape[1]

    start = time.process_time()
    sliding_window(network, data, bound).run(len(CLASSES), sink, torch.device("cpu"))
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "calls": network.calls,
        "masks": np.concatenate(masks),
        "inside": np.concatenate(inside),
    }


def rows_of(field_mm: float, length_mm: float) -> list[list[str]]:
    hu, rows, shared = whole_body(length_mm, field_mm), [], sliding._Answers
    share = f"{field_mm:.0f} mm, {100 * float((hu > -300).mean()):.0f} % body and table"
    for title, clip in CLIPS.items():
        data, bound = normalised(hu, clip)
        network = QuietInAir(bound)
        is_body = data[0] > bound
        plain = measure(network, data, None, NoSharing, is_body)
        rows.append([share, title, "every window", plain["calls"], f"{plain['seconds']:.0f} s", "1.00", "", "", ""])
        is_noisy = clip < -1000
        found = measure(network, data, bound if is_noisy else None, shared, is_body)
        factor = plain["seconds"] / found["seconds"]
        equal = ["yes" if np.array_equal(found[key], plain[key]) else "NO" for key in ("masks", "inside")]
        way = "`--skip-air`" if is_noisy else "equal ones share (always)"
        line = [way, found["calls"], f"{found['seconds']:.0f} s", f"{factor:.2f}", verdict(factor, GOAL), *equal]
        rows.append([share, title, *line])
        print(*rows[-2:], sep="\n", flush=True)
    return rows


def geometry() -> list[list[str]]:
    """The share of windows that hold only air around the patient, for windows and fields of view of other sizes."""
    rows = []
    for field in (400.0, 500.0, 700.0):
        data, bound = normalised(whole_body(1800, field, 6.0), CLIPS["lungs among the classes"])
        cells = []
        for window in (96.0, 144.0, 192.0):
            predictor = stock_predictor()
            predictor.configuration_manager = SimpleNamespace(patch_size=[round(window / 6)] * 3)
            slicers = predictor._internal_get_sliding_window_slicers(data.shape[1:])
            cells.append(f"{100 * len(air_windows(data, slicers, bound)) / len(slicers):.0f} %")
        rows.append([f"{field:.0f} mm ({100 * float((data > bound).float().mean()):.0f} % body and table)", *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=float, nargs="+", default=[500.0, 700.0], help="fields of view, mm")
    parser.add_argument("--length", type=float, default=1800.0, help="mm into which the patient is squeezed")
    parser.add_argument("-o", type=Path, default=RESULTS, help="folder of the table (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for field in args.fields for row in rows_of(field, args.length)]
    header = ["field of view", "model", "windows", "predictions", "CPU", "times faster", f"goal {GOAL}"]
    write_result(
        "air",
        "Windows of air in `predict`",
        f"A drawn whole-body CT, voxels of {VOXEL_MM} mm, windows of {WINDOW_MM:.0f} mm, half overlapping; "
        f"{len(CLASSES)} classes, U-Net with 16 base features and random weights, no mirroring. Air is noisy: where "
        "the model clips it away, windows of air are equal. Body equal: the logits of its voxels, to the bit.",
        table([*header, "masks equal", "body equal"], rows),
        "Share of windows that hold only air around the patient (of which one in eight is predicted):",
        table(["field of view", "windows of 96 mm", "144 mm", "192 mm"], geometry()),
        folder=args.o,
    )


if __name__ == "__main__":
    main()
