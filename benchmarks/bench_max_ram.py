"""Is `predict --max-ram` kept: peak memory of the whole command on a large CT, for several budgets.

    python benchmarks/bench_max_ram.py [--size 300 512 512] [--budgets 6GB 3GB 2GB]

A small network with random weights for 32 classes, whose masks fill large parts of the image: the worst case for the
export. Writes benchmarks/results/max_ram.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from common import table, verdict, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.inference.memory import GB, parse_size
from tests.inference.conftest import SPACING_ZYX, make_model, save_ct

STAGES = ("read", "preprocess", "network", "export", "write")  # as prediction.json names them
LOW_SHARE = 0.625  # rows and columns of the network's grid for each of the image


def write_ct(path: Path, size_zyx: tuple[int, int, int]) -> Path:
    """Smooth noise with the voxels of a clinical CT; the network's grid has `LOW_SHARE` of its rows and columns."""
    from scipy import ndimage

    coarse = np.random.default_rng(0).normal(size=[length // 16 + 1 for length in size_zyx[::-1]])
    zoom = [length / small for length, small in zip(size_zyx[::-1], coarse.shape, strict=True)]
    field = ndimage.zoom(coarse.astype(np.float32), zoom, order=1)
    z, y, x = SPACING_ZYX
    affine = np.diag([x * LOW_SHARE, y * LOW_SHARE, z, 1.0])
    return save_ct(path, np.clip(field * 200, -900, 900).astype(np.int16), affine)


def predict(image: Path, output: Path, model: Path, budget: str | None) -> dict:
    """Run the command in a process of its own."""
    arguments = ["predict", "-i", image, "-o", output, "-m", model, "-device", "cpu", "--disable_tta"]
    arguments += ["-step_size", "1", "--outputs", "labels", "masks", "statistics"]
    arguments += ["--max-ram", budget] if budget else []
    start = time.perf_counter()
    command = [sys.executable, "-m", "nnunetv2_clip.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    entry = json.loads((output / "prediction.json").read_text())["cases"]["ct"] if process.returncode == 0 else {}
    return {
        "peak": usage.ru_maxrss * 1024,
        "seconds": time.perf_counter() - start,
        "passes": entry.get("passes", 1),
        "stages": entry.get("seconds", {}),
        "error": "" if process.returncode == 0 else errors.strip().splitlines()[-1].split(image.name)[-1].lstrip(": "),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(300, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--budgets", nargs="+", default=["6GB", "3GB", "2GB"])
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        image = write_ct(folder / "ct.nii.gz", tuple(args.size))
        model = make_model(folder / "model", UNIVERSAL.names)
        first = None
        for budget in (None, *args.budgets):
            output = folder / (budget or "none")
            found = predict(image, output, model, budget)
            print(budget, found, flush=True)
            if found["error"]:
                rows.append([budget, found["error"], *[""] * (4 + len(STAGES))])
                continue
            labels = np.asanyarray(nib.load(output / "ct.nii.gz").dataobj)
            first = labels if first is None else first
            kept = verdict(found["peak"], parse_size(budget), at_most=True) if budget else ""
            same = "yes" if np.array_equal(first, labels) else "NO"
            peak = f"{found['peak'] / GB:.2f} GB"
            stages = [f"{found['stages'][stage]:.0f} s" for stage in STAGES]
            total = f"{found['seconds']:.0f} s"
            rows.append([budget or "none", peak, kept, found["passes"], total, *stages, same])
    write_result(
        "max_ram",
        "Peak memory of `predict`, 32 classes",
        f"A CT of {tuple(args.size)} voxels, label map, 32 masks and statistics; a tiny network whose random masks "
        "fill large parts of the image, which is the worst case for export and writing. The peak is that of the whole "
        "process (interpreter and libraries included).",
        table(["--max-ram", "peak memory", "kept", "passes", "wall clock", *STAGES, "same label map"], rows),
    )


if __name__ == "__main__":
    main()
