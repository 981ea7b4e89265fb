"""Evaluation of 32 classes per case against a plain loop over the classes with surface-distance, side by side.

    python benchmarks/bench_evaluate.py              # 200 cases of 128^3: about a quarter of an hour on one core
    python benchmarks/bench_evaluate.py --cases 6    # a sample; the table says so

Both sides start from the same two label maps in memory and give Dice, NSD and HD95 per class, every case on both
sides; the largest difference between them is part of the table. Memory is that of arrays at one time beyond the two
label maps, in passes that are not timed. Writes benchmarks/results/evaluate.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.evaluation.overlap import overlaps
from nnunetv2_clip.evaluation.surface import surface_metrics
from nnunetv2_clip.evaluation.tables import Table
from nnunetv2_clip.evaluation.volumes import LabelVolume
from nnunetv2_clip.imaging.nifti import Geometry
from nnunetv2_clip.painting import paint, unpaint

FULL_CASES, SIZE = 200, 128
NUM_PATIENTS = 4  # phantoms to draw; the cases are shifted copies
TOLERANCE_MM = 3.0
RESULT = Path(__file__).parent / "results" / "evaluate.md"
Metrics = dict[str, tuple[float, float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=FULL_CASES, help=f"number of cases [{FULL_CASES}]")
    parser.add_argument("--size", type=int, default=SIZE, help=f"voxels along each axis [{SIZE}]")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # surface-distance uses old names of scipy
    patients = [painted_phantom(seed, args.size) for seed in tqdm(range(NUM_PATIENTS), desc="Phantoms")]
    cases = [make_case(patients[number % NUM_PATIENTS], number) for number in range(min(args.cases, 2))]
    ours(*cases[0]), plain(*cases[0])  # warm up: imports and look-up tables

    sides = {"plain": plain, "ours": ours}
    seconds, peaks = dict.fromkeys(sides, 0.0), {name: [] for name in sides}
    difference, memory = 0.0, []
    bar = tqdm(range(args.cases), desc="Cases", unit="case")
    for number in bar:
        case = make_case(patients[number % NUM_PATIENTS], number)
        found = {}
        for name, function in sides.items():
            start = time.perf_counter()
            found[name] = function(*case)
            seconds[name] += time.perf_counter() - start
        difference = max(difference, largest_difference(found["ours"], found["plain"]))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        if number in (0, args.cases - 1):
            for name, function in sides.items():
                peaks[name].append(peak_mib(function, case))
        bar.set_postfix({name: f"{total:.0f} s" for name, total in seconds.items()})
    text = report(args, seconds, peaks, difference, memory)
    print(text)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


def painted_phantom(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size, size) painted label map of a synthetic patient with all classes, and its affine."""
    from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, make_phantom

    phantom = make_phantom(seed, tuple(length / size for length in DEFAULT_BODY_MM))
    return paint(phantom.masks, UNIVERSAL), phantom.affine


def make_case(patient: tuple[np.ndarray, np.ndarray], number: int) -> tuple[LabelVolume, LabelVolume]:
    """A reference, and a prediction that is off by one voxel in smooth patches of the volume."""
    painted, affine = patient
    rng = np.random.default_rng(number)
    reference = np.roll(painted, rng.integers(-4, 5, 3), axis=(0, 1, 2))
    patches = ndimage.zoom(rng.normal(size=(8, 8, 8)), np.array(painted.shape) / 8, order=1) > 0
    moved = np.roll(reference, rng.choice((-1, 1), 3), axis=(0, 1, 2))
    return as_volume(reference, affine), as_volume(np.where(patches, moved, reference), affine)


def as_volume(painted: np.ndarray, affine: np.ndarray) -> LabelVolume:
    grid = Geometry(painted.shape, affine)
    unpainted = unpaint(painted, UNIVERSAL, UNIVERSAL.names, grid.spacing_mm)
    return LabelVolume(unpainted.values, unpainted.sets, grid)


def ours(reference: LabelVolume, prediction: LabelVolume) -> Metrics:
    """What `nnunetv2_clip evaluate` does with a case."""
    # Fresh volumes: boxes are kept between calls, and must be found again here.
    reference = LabelVolume(reference.values, reference.sets, reference.grid)
    prediction = LabelVolume(prediction.values, prediction.sets, prediction.grid)
    return {
        name: (overlap.dice, *surface_metrics(reference, prediction, name, TOLERANCE_MM))
        for name, overlap in overlaps(reference, prediction, UNIVERSAL.names).items()
    }


def plain(reference: LabelVolume, prediction: LabelVolume) -> Metrics:
    """One class after the other: two masks, Dice, surface distances, two metrics."""
    import surface_distance

    found = {}
    for name in UNIVERSAL.names:
        truth = np.isin(reference.values, reference.values_of(name))
        predicted = np.isin(prediction.values, prediction.values_of(name))
        dice = surface_distance.compute_dice_coefficient(truth, predicted) if (truth | predicted).any() else np.nan
        if not truth.any() or not predicted.any():  # the library fails on one empty mask under numpy 2
            nsd = 0.0 if truth.any() or predicted.any() else np.nan
            found[name] = dice, nsd, np.nan
            continue
        distances = surface_distance.compute_surface_distances(truth, predicted, reference.grid.spacing_mm)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
        found[name] = dice, nsd, surface_distance.compute_robust_hausdorff(distances, 95)
    return found


def peak_mib(function: Callable[..., Metrics], case: tuple[LabelVolume, LabelVolume]) -> float:
    """The arrays that a side holds at one time, beyond its input."""
    tracemalloc.start()
    try:
        function(*case)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def largest_difference(first: Metrics, second: Metrics) -> float:
    pairs = np.array([[first[name], second[name]] for name in UNIVERSAL.names], float)
    assert np.array_equal(np.isnan(pairs[:, 0]), np.isnan(pairs[:, 1]))
    return float(np.nanmax(np.abs(pairs[:, 0] - pairs[:, 1])))


def report(args: argparse.Namespace, seconds: dict, peaks: dict, difference: float, memory: list[float]) -> str:
    sample = "" if args.cases == FULL_CASES else f" A sample: {args.cases} of {FULL_CASES} cases were run."
    speed = seconds["plain"] / seconds["ours"]
    rows = tuple(
        (
            name,
            f"{seconds[key]:.1f}",
            f"{seconds[key] / args.cases:.3f}",
            factor,
            f"{peaks[key][0]:.0f} and {peaks[key][-1]:.0f}",
        )
        for name, key, factor in (
            ("plain loop over surface-distance", "plain", "1.0"),
            ("nnunetv2_clip evaluate", "ours", f"{speed:.1f}"),
        )
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "surface-distance", "nnunetv2_clip"))
    note = (
        f"{args.cases} cases of {args.size}^3 voxels, 32 classes, Dice, NSD at {TOLERANCE_MM:g} mm and HD95, one "
        f"process.{sample} Goal: 5 times. Largest difference between the two in any number: {difference:.1e}. "
        f"Resident memory of the process (both sides) at most {memory[0]:.0f} MiB after the first case and "
        f"{memory[-1]:.0f} MiB after the last. {processor()}, "
        f"{os.cpu_count()} cores; Python {platform.python_version()}, {versions}."
    )
    columns = ("", "seconds", "per case", "times as fast", "peak memory of first and last case (MiB)")
    return Table("Evaluation of 32 classes", columns, rows, note).markdown()


def version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
