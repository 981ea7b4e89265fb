"""What a batch costs in nnU-Net's workers: ours against nnU-Net's with 32 regions and with plain label maps.

    python benchmarks/bench_loader.py [--work benchmark_work] [--seconds 36] [--samples 8]

Four tables, one thread, processor time unless it says otherwise: the spatial transform of a label map alone, all
transforms of a sample, the same step by step on phantom cases of 13 to 15 classes, and batches per second out of one
worker process. All three sides take turns on the same data, grids and random numbers. Takes about five minutes after
the phantoms are made. Writes benchmarks/results/loader.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from common import table, verdict, write_result
from scipy.ndimage import zoom
from torch.nn.functional import pad
from training_data import describe, make_trainer, prepare

from nnunetv2_clip.training.spatial_transform import BORDER, _labels_of_cells, _look_up, _several

VARIANTS = {"regions32": "stock, 32 regions", "labels": "stock, label maps", "ours": "ours"}
PATCHES = ((128, 128, 128), (160, 128, 160))
GOALS = {2: 3, 15: 10, 30: 18}  # label values -> times as fast as nnU-Net's
GOAL_S, GOAL_GROWTH, GOAL_BATCHES = 0.15, 1.2, 5
MANY_CLASSES = ("btcv", "amos22")  # phantoms of 13 and 15 classes
COARSE = 4  # the ellipsoids are drawn on a grid this much coarser


def organs(shape, num_values: int) -> torch.Tensor:
    """(1, *shape) int16: background and ellipsoids, one for each other label value."""
    random = np.random.default_rng(0)
    coarse = np.indices([-(-size // COARSE) for size in shape]) * COARSE
    labels = np.zeros(coarse.shape[1:], np.int16)
    for value in range(1, num_values):
        centre = random.uniform(0.2, 0.8, 3) * shape
        radius = random.uniform(0.03, 0.15, 3) * shape
        labels[sum(((coarse[d] - centre[d]) / radius[d]) ** 2 for d in range(3)) < 1] = value
    return torch.from_numpy(zoom(labels, COARSE, order=0)[tuple(map(slice, shape))].copy())[None]


class Pipelines:
    """The training transforms of the three sides for one patch, as their trainers make them."""

    def __init__(self, trainers: dict, patch: tuple[int, ...]):
        settings = trainers["ours"].configuration_manager.configuration
        settings["patch_size"] = list(patch)
        rotation, dummy_2d, self.initial_patch, mirror_axes = trainers[
            "ours"
        ].configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.transforms = {}
        for name, trainer in trainers.items():
            manager = trainer.label_manager
            self.transforms[name] = settled(
                trainer.get_training_transforms(
                    patch, rotation, trainer._get_deep_supervision_scales(), mirror_axes, dummy_2d,
                    use_mask_for_norm=trainer.configuration_manager.use_mask_for_norm,
                    regions=manager.foreground_regions if manager.has_regions else None,
                )
            )  # fmt: skip

    def spatial(self, variant: str) -> SpatialTransform:
        return self.transforms[variant].transforms[0]

    def grid(self, labels: torch.Tensor) -> dict:
        """Rotation and scaling as in training, but for certain."""
        transform = self.spatial("labels")
        usual = transform.p_rotation, transform.p_scaling
        transform.p_rotation = transform.p_scaling = 1
        np.random.seed(1)
        parameters = transform.get_parameters(image=labels)
        transform.p_rotation, transform.p_scaling = usual
        return parameters


def settled(transforms):
    """Each worker of nnU-Net times in its first batches which way of blurring is the faster: done here beforehand."""
    for step in transforms.transforms:
        blur = getattr(step, "transform", None)
        if isinstance(blur, GaussianBlurTransform):
            patch = transforms.transforms[0].patch_size
            for sigma in blur.blur_sigma:
                blur._apply_to_image(
                    torch.zeros(1, *patch), apply_to_channel=torch.ones(1, dtype=torch.bool), sigmas=[[sigma] * 3]
                )
    return transforms


def border_share(labels: torch.Tensor, grid: torch.Tensor) -> float:
    """Of the points of a grid: how many have several labels around them."""
    padded = pad(labels, (BORDER, BORDER) * 3, value=-1)
    found = _look_up(_labels_of_cells(padded), grid.reshape(-1, 3))
    return (found == _several(found.dtype)).float().mean().item()


def in_turns(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor time in seconds, the least of several runs."""
    spent = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            spent[name].append(time.process_time() - start)
    return {name: min(times) for name, times in spent.items()}


def spatial_rows(pipelines: Pipelines, patch) -> list[list[object]]:
    rows: list[list[object]] = []
    ours: dict[int, float] = {}
    for num_values, goal in GOALS.items():
        labels = organs(pipelines.initial_patch, num_values)
        parameters, drawn = pipelines.grid(labels), {}
        at_borders = border_share(labels, parameters["grid"])

        def draw(variant, labels=labels, parameters=parameters, drawn=drawn):
            drawn[variant] = pipelines.spatial(variant)._apply_to_segmentation(labels, **parameters)

        spent = in_turns({name: lambda name=name: draw(name) for name in ("labels", "ours")}, repeats=4)
        ratio, ours[num_values] = spent["labels"] / spent["ours"], spent["ours"]
        differ = int((drawn["labels"] != drawn["ours"]).sum())
        rows.append([
            _size(patch), num_values, f"{at_borders:.1%}", _ms(spent["labels"]), _ms(spent["ours"]), differ,
            f"{ratio:.1f}x", f">= {goal}x", verdict(ratio, goal),
        ])  # fmt: skip
    resample, as_one = pipelines.spatial("ours")._apply_to_segmentation, labels.clamp(0, 1)
    same = in_turns({"30": lambda: resample(labels, **parameters), "2": lambda: resample(as_one, **parameters)}, 8)
    for name, growth in (("one organ", ours[30] / ours[2]), ("all organs as one", same["30"] / same["2"])):
        rows.append([_size(patch), f"30 against 2, {name}", "", "", "", "", f"{growth:.2f}", f"<= {GOAL_GROWTH}",
                     verdict(growth, GOAL_GROWTH, at_most=True)])  # fmt: skip
    if patch == PATCHES[0]:
        slowest = max(ours.values())
        rows.append([_size(patch), "any", "", "", _ms(slowest), "", "", f"<= {1e3 * GOAL_S:.0f} ms",
                     verdict(slowest, GOAL_S, at_most=True)])  # fmt: skip
    return rows


def steps(transforms, samples, turns: range) -> dict[str, float]:
    """Mean processor time of each transform of a sample in seconds; the random numbers of a sample are its number's."""
    spent: dict[str, float] = {}
    for turn in turns:
        np.random.seed(turn)
        torch.manual_seed(turn)
        image, labels = samples[turn % len(samples)]
        sample = {"image": image.clone(), "segmentation": labels.clone()}
        for step in transforms.transforms:
            name = type(getattr(step, "transform", step)).__name__.replace("LabelMapSpatial", "Spatial")
            start = time.process_time()
            sample = step(**sample)
            spent[name] = spent.get(name, 0) + (time.process_time() - start) / len(turns)
    return spent


def steps_in_turns(pipelines: Pipelines, samples, num_samples: int) -> dict[str, dict[str, float]]:
    """As `steps`, of all sides, sample by sample."""
    spent: dict[str, dict[str, float]] = {name: {} for name in VARIANTS}
    for turn in range(num_samples):
        for name in VARIANTS:
            for step, seconds in steps(pipelines.transforms[name], samples, range(turn, turn + 1)).items():
                spent[name][step] = spent[name].get(step, 0) + seconds / num_samples
    return spent


def sample_rows(pipelines: Pipelines, patch, num_samples: int) -> list[list[object]]:
    rows = []
    for num_values in GOALS:
        labels = organs(pipelines.initial_patch, num_values)
        samples = [(torch.rand(labels.shape), labels)]
        spent = {name: sum(each.values()) for name, each in steps_in_turns(pipelines, samples, num_samples).items()}
        rows.append([_size(patch), num_values, *map(_ms, spent.values()), *_ratios(spent)])
    return rows


def resampled(pipelines: Pipelines, num_samples: int) -> int:
    """How many of the samples are rotated or scaled: nnU-Net draws that for 36 %."""
    count = 0
    for turn in range(num_samples):
        np.random.seed(turn)
        parameters = pipelines.spatial("labels").get_parameters(image=torch.empty(1, *pipelines.initial_patch))
        count += parameters["grid"] is not None
    return count


def read_samples(trainer, num_samples: int) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], float]:
    """Images and label maps as nnU-Net's loader crops them from the files; processor time of one in seconds."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    loader = trainer.get_dataloaders()[0].data_loader
    loader.transforms = None
    start, samples = time.process_time(), []
    while len(samples) < num_samples:
        batch = next(loader)
        samples += zip(batch["data"], batch["target"], strict=True)
    return samples, (time.process_time() - start) / len(samples)


def step_rows(pipelines: Pipelines, trainer, num_samples: int) -> list[list[object]]:
    samples, reading = read_samples(trainer, num_samples)
    spent = steps_in_turns(pipelines, samples, num_samples)
    names = sorted(spent["regions32"], key=lambda name: -spent["regions32"][name])
    rows = [["reading and cropping (blosc2)", *[_ms(reading)] * 3]]
    rows += [[name, *(_ms(spent[side].get(name, 0)) for side in VARIANTS)] for name in names]
    return [*rows, ["all", *(_ms(reading + sum(spent[side].values())) for side in VARIANTS)]]


def batches_per_second(trainer, seconds: float) -> tuple[float, float]:
    """Of one worker process, after its first batches; and MiB of a batch."""
    os.environ["nnUNet_n_proc_DA"] = "1"
    make = trainer.get_training_transforms
    trainer.get_training_transforms = lambda *arguments, **options: settled(make(*arguments, **options))
    loader, validation_loader = trainer.get_dataloaders()
    try:
        for _ in range(4):
            batch = next(loader)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            batch = next(loader)
            count += 1
        rate = count / (time.perf_counter() - start)
    finally:
        loader._finish()
        validation_loader._finish()
    return rate, sum(tensor.nbytes for tensor in [batch["data"], *batch["target"]]) / 2**20


def batch_rows(trainers: dict, seconds: float) -> list[list[object]]:
    measured = {name: batches_per_second(trainer, seconds) for name, trainer in trainers.items()}
    rates, sizes = ({name: values[i] for name, values in measured.items()} for i in range(2))
    gain = rates["ours"] / rates["regions32"]
    return [
        ["batches per second, wall clock", *(f"{rates[name]:.2f}" for name in VARIANTS), f"{gain:.1f}x",
         f"{rates['ours'] / rates['labels']:.1f}x", f">= {GOAL_BATCHES}x", verdict(gain, GOAL_BATCHES)],
        ["a batch in shared memory", *(f"{sizes[name]:.0f} MiB" for name in VARIANTS), *_ratios(sizes), "", ""],
    ]  # fmt: skip


def _ratios(values: dict[str, float]) -> list[str]:
    return [f"{values[stock] / values['ours']:.1f}x" for stock in ("regions32", "labels")]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def _size(patch) -> str:
    return " x ".join(map(str, patch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("benchmark_work"), help="for data (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=36, help="of each worker's rate (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=8, help="of the means (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepare(args.work, "resenc")
    trainers = {name: make_trainer(name, "cpu", "resenc") for name in VARIANTS}
    cases = [case for case in trainers["ours"].do_split()[0] if case.startswith(MANY_CLASSES)]
    for trainer in trainers.values():
        trainer.do_split = lambda: (list(cases), list(cases))

    spatial, samples = [], []
    for patch in PATCHES:
        pipelines = Pipelines(trainers, patch)
        spatial += spatial_rows(pipelines, patch)
        samples += sample_rows(pipelines, patch, args.samples)
    by_step = step_rows(pipelines, trainers["ours"], 2 * args.samples)  # of the last patch, that of the plans
    batches = batch_rows(trainers, args.seconds)
    sides, ratios = list(VARIANTS.values()), ["stock, 32 regions / ours", "stock, label maps / ours"]
    write_result(
        "loader",
        "Batches out of nnU-Net's workers",
        describe(trainers["ours"]) + f" Of the cases only those of {' and '.join(MANY_CLASSES)} are drawn.",
        "## Spatial transform of a label map\n\nBackground and ellipsoids, rotated and scaled by the same grid.",
        table(
            ["patch", "label values", "at borders", "stock", "ours", "voxels that differ", "ratio", "goal", "met"],
            spatial,
        ),
        f"## All transforms of a sample\n\nMean of {args.samples} samples with the same random numbers, "
        f"{resampled(pipelines, args.samples)} of them rotated or scaled.",
        table(["patch", "label values", *sides, *ratios], samples),
        f"## The same, step by step\n\nMean of {2 * args.samples} phantom samples, "
        f"{resampled(pipelines, 2 * args.samples)} of them rotated or scaled; patch {_size(PATCHES[-1])}.",
        table(["", *sides], by_step),
        f"## One worker process\n\nPatch {_size(PATCHES[-1])}.",
        table(["", *sides, *ratios, "goal", "met"], batches),
    )


if __name__ == "__main__":
    main()
