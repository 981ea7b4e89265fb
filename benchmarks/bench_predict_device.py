"""One large CT on a device, 32 classes: our `predict` against nnU-Net's, time and memory of the whole command.

    python benchmarks/bench_predict_device.py [--device cuda] [--size 400 512 512]

The network has the size of nnU-Net's default for patches of 128^3, with random weights, whose masks fill large parts of
the image: the worst case for an export. Each command runs in a process of its own; both resample with torch. Writes
predict_device.md.
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

import numpy as np
from bench_max_ram import write_ct
from common import results_folder, table, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.files import read_json
from tests.inference.conftest import make_model

# Arguments of PlainConvUNet that differ from those of the tests' model.
NETWORK = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
    "n_conv_per_stage": [2] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
}
PATCH = {"cuda": [128, 128, 128], "cpu": [64, 64, 64]}
# Runs a command in this process and prints what it took.
MEASURED = """
import json, resource, sys, time
import torch
from {module} import {function}
sys.argv = ["command", *{arguments}]
start = time.perf_counter()
code = {function}() or 0
peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
own, children = (resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print("RESULT " + json.dumps(dict(seconds=time.perf_counter() - start, device_gib=peak, host_gib=max(own, children))))
sys.exit(code)
"""


def make_large_model(folder: Path, device: str) -> Path:
    return make_model(folder, UNIVERSAL.names, network=NETWORK, patch=PATCH[device])


def measured(module: str, function: str, *arguments: object) -> dict:
    """Time and peaks of a command; `failed` with the last line of what it said."""
    code = MEASURED.format(module=module, function=function, arguments=[str(one) for one in arguments])
    environment = {**os.environ, "nnUNet_compile": "f", "nnUNet_def_n_proc": "2"}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        environment.setdefault(name, tempfile.gettempdir())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not results:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return json.loads(results[0].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, nargs=3, default=(400, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--pages", type=Path, help="folder of the page (default: benchmarks/results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        results, stages = run_both(Path(work), args)
    rows = [
        [name, *([one["failed"], "", ""] if "failed" in one else columns(one, args.device))]
        for name, one in results.items()
    ]
    write_result(
        "predict_device",
        f"A whole CT on {args.device}, 32 classes",
        f"{tuple(args.size)} voxels; patches of {PATCH[args.device]}, no mirroring, steps of half a patch.",
        table(["command", "wall clock", "memory of the device", "memory of the host"], rows),
        stages,
        folder=args.pages or results_folder(args.device),
    )
    ours = next(iter(results.values()))
    if "failed" in ours:
        raise SystemExit(ours["failed"])


def columns(one: dict, device: str) -> list[str]:
    on_device = f"{one['device_gib']:.1f} GiB" if device == "cuda" else ""
    return [f"{one['seconds']:.0f} s", on_device, f"{one['host_gib']:.1f} GiB"]


def run_both(work: Path, args: argparse.Namespace) -> tuple[dict[str, dict], str]:
    """What each command took, and a sentence on where ours spent it and whether the label maps are equal."""
    image = write_ct(work / "images" / "ct_0000.nii.gz", tuple(args.size))
    model = make_large_model(work / "model", args.device)
    ours, stock = work / "ours", work / "stock"
    common = ["-device", args.device, "--disable_tta"]
    start = time.perf_counter()
    results = {
        "nnunetv2_clip predict": measured(
            "nnunetv2_clip.cli", "main", "predict", "-i", image.parent, "-o", ours, "-m", model, *common
        )
    }
    print(results, f"{time.perf_counter() - start:.0f} s", flush=True)
    results["nnUNetv2_predict_from_modelfolder"] = measured(
        "nnunetv2.inference.predict_from_raw_data", "predict_entry_point_modelfolder", "-i", image.parent, "-o", stock,
        "-m", model, "-f", 0, "-npp", 1, "-nps", 1, *common,
    )  # fmt: skip
    print(results, flush=True)
    return results, sentence(ours, stock)


def sentence(ours: Path, stock: Path) -> str:
    import nibabel as nib

    if not (ours / "prediction.json").is_file():
        return "Ours did not finish."
    case = read_json(ours / "prediction.json", "predict")["cases"]["ct"]
    if "seconds" not in case:
        return f"Ours: {case}"
    text = "Ours: " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in case["seconds"].items()) + "."
    if not (stock / "ct.nii.gz").is_file():
        return f"{text} Stock did not finish."
    maps = [np.asanyarray(nib.load(folder / "ct.nii.gz").dataobj) for folder in (ours, stock)]
    return f"{text} The label maps differ in {np.count_nonzero(maps[0] != maps[1])} voxels of {maps[0].size}."


if __name__ == "__main__":
    main()
