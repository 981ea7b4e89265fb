"""Conversion against plain gzip work on the same files, side by side, and its memory over the number of cases.

    python benchmarks/bench_convert.py                     # a few minutes
    python benchmarks/bench_convert.py --cases 2 --many 200

The yardstick reads every image and label file once through gzip and writes what it read through gzip at the same level
(once all of it, once the label files only, since the conversion links images). Both sides run in fresh processes with
one and two workers, in turns. Writes benchmarks/results/convert.md.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from nnunetv2_clip import __version__
from nnunetv2_clip.evaluation.tables import Table
from nnunetv2_clip.imaging.nifti import COMPRESSION_LEVEL
from nnunetv2_clip.phantom.anatomy import make_phantom

SPACING_MM = (1.4, 1.4, 2.5)
FEW, MANY, TINY = 100, 1000, (24, 24, 24)
GOAL = 1.25
# The peak of ru_maxrss would count the memory of the process that started this one.
CONVERT = """
import sys
from nnunetv2_clip.cli import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""
Times = dict[str, tuple[float, float]]
RESULT = Path(__file__).parent / "results" / "convert.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=4, help="cases for the times [4]")
    parser.add_argument("--many", type=int, default=MANY, help=f"tiny cases for the memory [{MANY}]")
    parser.add_argument("--yardstick", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.yardstick:
        run_yardstick(Path(args.yardstick[0]), int(args.yardstick[1]), args.yardstick[2] == "all")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shape = write_cases(folder / "times", args.cases)
        times = {workers: measure_times(folder, workers) for workers in (1, 2)}
        memory = {}
        for number in (min(FEW, args.many), args.many):
            write_tiny_cases(folder / f"many_{number}", number)
            memory[number] = convert(folder, folder / f"many_{number}", 1)[2]
    text = report(args, shape, times, memory)
    print(text)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


def write_cases(root: Path, number: int) -> tuple[int, ...]:
    """Phantoms as an MSD task; each is the same patient moved by some voxels, so that no two are copies."""
    phantom = make_phantom(0, SPACING_MM)
    label = phantom.masks["liver"].astype(np.uint8) + phantom.masks["liver_tumor"]
    for case in tqdm(range(number), desc="phantoms"):
        image = np.roll(phantom.image, 3 * case, axis=2)
        save(root, case, image, np.roll(label, 3 * case, axis=2), phantom.affine)
    return phantom.image.shape


def write_tiny_cases(root: Path, number: int) -> None:
    generator = np.random.default_rng(0)
    for case in tqdm(range(number), desc="tiny cases"):
        image = generator.integers(-1000, 1000, TINY).astype(np.int16)
        save(root, case, image, (image > 900).astype(np.uint8), np.diag([2.0, 2, 2, 1]))


def save(root: Path, case: int, image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    for part, data in (("imagesTr", image), ("labelsTr", label)):
        (root / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), root / part / f"liver_{1000 + case}.nii.gz")


def measure_times(folder: Path, workers: int) -> Times:
    """(seconds, processor seconds) of each side, the shorter of two turns."""
    root, times = folder / "times", {}
    for _ in range(2):
        for name in ("all", "labels", "conversion"):
            if name == "conversion":
                seconds, cpu_seconds, _ = convert(folder, root, workers)
            else:
                seconds, cpu_seconds, _ = timed([__file__, "--yardstick", str(root), str(workers), name])
            before = times.get(name, (np.inf, np.inf))
            times[name] = (min(before[0], seconds), min(before[1], cpu_seconds))
    return times


def timed(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[float, float, str]:
    """(seconds, processor seconds with all workers, printed text) of a Python process."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu_seconds, done.stdout


def run_yardstick(root: Path, workers: int, write_images: bool) -> None:
    files = sorted(root.glob("*/*.nii.gz"))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(partial(read_and_write, write_images=write_images), files))


def read_and_write(path: Path, write_images: bool) -> None:
    content = gzip.decompress(path.read_bytes())
    if write_images or path.parent.name == "labelsTr":
        beside = path.with_suffix(".copy")
        beside.write_bytes(gzip.compress(content, COMPRESSION_LEVEL, mtime=0))
        beside.unlink()


def convert(folder: Path, root: Path, workers: int) -> tuple[float, float, float]:
    """(seconds, processor seconds, peak memory of the main process in MiB) of a conversion in a fresh folder."""
    environment = dict(os.environ)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        shutil.rmtree(folder / variable, ignore_errors=True)
        environment[variable] = str(folder / variable)
    options = ["convert", "-d", "900", "-np", str(workers), "--source", f"msd_liver={root}"]
    seconds, cpu_seconds, text = timed(["-c", CONVERT, *options], environment)
    return seconds, cpu_seconds, int(text.split()[-2]) / 1024


def report(
    args, shape: tuple[int, ...], times: dict[int, dict[str, tuple[float, float]]], memory: dict[int, float]
) -> str:
    names = {
        "all": "gzip: read all, write all",
        "labels": "gzip: read all, write labels",
        "conversion": "nnunetv2_clip convert",
    }
    rows = []
    for name, title in names.items():
        row = [title]
        for sides in times.values():
            for kind in range(2):
                row.append(f"{sides[name][kind]:.1f} ({sides['conversion'][kind] / sides[name][kind]:.2f})")
        rows.append(tuple(row))
    columns = ("seconds (conversion takes)", "1 worker", "1 worker, processor", "2 workers", "2 workers, processor")
    peak = ", ".join(f"{number} cases {mib:.0f} MiB" for number, mib in memory.items())
    note = (
        f"{args.cases} cases of {' x '.join(map(str, shape))} voxels in the layout of MSD Liver, images linked, start "
        "of the processes included, the shorter of two turns; in brackets how many times as long the conversion takes. "
        f"Goal: at most {GOAL} times reading and writing all. The conversion also makes checksums and fingerprints, "
        f"tests the anatomy and looks for copies. Peak memory of `convert -np 1` on tiny cases of {TINY[0]}^3 voxels: "
        f"{peak}. {os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the end of the run "
        f"(other work ran beside it if above 2); Python {platform.python_version()}, numpy {np.__version__}, "
        f"nnunetv2_clip {__version__}."
    )
    return Table("Conversion", columns, tuple(rows), note).markdown()


if __name__ == "__main__":
    main()
