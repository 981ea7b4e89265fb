"""One training iteration and its peak memory: our trainer with 32 classes against nnU-Net's with 32 regions and with 2.

    python benchmarks/bench_iteration.py [--work benchmark_work] [--device cpu] [--seconds 25] [--planners small]
    python benchmarks/bench_iteration.py --device cuda --planners resenc     # ResEncL, patches of 160 x 128 x 160

Same plans and data. Batches are drawn before the clock starts (bench_loader.py measures them); the iteration is
forward, loss, backward and optimizer step. Each trainer runs in a process of its own, in turns. Two networks: nnU-Net's
default plans, and the small ones of the demo, where the backbone costs least and all else weighs most. Writes
benchmarks/results/iteration.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import results_folder, table, verdict, wait_for_device, write_result
from training_data import PLANNERS, describe, make_trainer, prepare

from nnunetv2_clip.files import write_json

NAMES = {"regions32": "stock, 32 regions", "regions2": "stock, 2 regions", "ours": "ours, 32 classes"}
NUM_BATCHES = 12
# Ratio of our time to (32 regions, 2 regions); None: no goal.
GOALS = {"cpu": (None, 1.1), "cuda": (0.6, 1.05)}
MEMORY_GOAL = 1.1  # of the trainer with two regions


def measure_variant(variant: str, device: str, planner: str, seconds: float) -> dict:
    """Median wall-clock and processor time of an iteration, and the peak memory that iterations add."""
    import torch

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    os.environ["nnUNet_n_proc_DA"] = "0"
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train has it
    trainer = make_trainer(variant, device, planner)
    trainer.network.train()
    loader, _ = trainer.get_dataloaders()
    batches = [next(loader) for _ in range(NUM_BATCHES)]
    before = _peak_mib(device)
    for batch in batches if device == "cuda" else batches[:1]:  # cuDNN tries its ways, compilers compile
        trainer.train_step(batch)
    wait_for_device()
    walls, cpus, end = [], [], time.perf_counter() + seconds
    while len(walls) < NUM_BATCHES or time.perf_counter() < end:
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train_step(batches[len(walls) % NUM_BATCHES])
        wait_for_device()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    keys = [key for batch in batches for key in batch["keys"]]
    pairs = trainer.manifest.presence(keys, trainer.classes).sum() / NUM_BATCHES if variant == "ours" else None
    whole = trainer.batch_size * trainer.label_manager.num_segmentation_heads
    return {
        "wall": sorted(walls)[len(walls) // 2],
        "cpu": sum(_fastest(cpus)) / NUM_BATCHES,
        "mib": _peak_mib(device) - before,
        "pairs": float(whole if pairs is None else pairs),
        "description": describe(trainer),
    }


def _fastest(times: list[float]) -> list[float]:
    """The fastest iteration on each batch: cases with many classes count as much as those with few."""
    return [min(times[number::NUM_BATCHES]) for number in range(NUM_BATCHES)]


def _peak_mib(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("benchmark_work"), help="folder for data (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=25, help="per trainer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--planners", nargs="+", choices=tuple(PLANNERS), default=["small", "default"])
    parser.add_argument("--pages", type=Path, help="folder of the page (default: benchmarks/results)")
    parser.add_argument("--parts", type=Path, help="keeps the figures of each trainer here: a run that is cut goes on")
    parser.add_argument("--variant", choices=tuple(NAMES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    for planner in args.planners:
        prepare(args.work, planner)
    import torch

    torch.set_num_threads(args.threads)
    if args.variant:
        print("RESULT " + json.dumps(measure_variant(args.variant, args.device, args.planners[0], args.seconds)))
        return
    parts = []
    for planner in args.planners:
        parts += report({variant: kept(variant, planner, args.parts) for variant in NAMES}, args.device)
    write_result(
        "iteration",
        f"A training iteration on {args.device}",
        *parts,
        "Wall: median. Processor time: mean over the batches of the fastest iteration on each; "
        "the comparison on the CPU uses it.",
        folder=args.pages or results_folder(args.device),
    )


def report(results: dict[str, dict], device: str) -> list[str]:
    """What was measured with one network, and the goals."""
    clock = "cpu" if device == "cpu" else "wall"
    rows = [
        [
            NAMES[variant],
            f"{result['pairs']:.1f}",
            f"{1e3 * result['wall']:.0f} ms",
            f"{1e3 * result['cpu']:.0f} ms",
            f"{result['mib']:.0f} MiB",
        ]
        for variant, result in results.items()
    ]
    ours, comparisons = results["ours"], []
    for variant, goal in zip(("regions32", "regions2"), GOALS[device], strict=True):
        reached = ours[clock] / results[variant][clock]
        comparisons.append(
            [f"time: ours / {NAMES[variant]}", f"{reached:.2f}x"]
            + ([f"<= {goal}x", verdict(reached, goal, at_most=True)] if goal else ["", ""])
        )
    memory = ours["mib"] / results["regions2"]["mib"]
    comparisons.append(
        [
            f"memory: ours / {NAMES['regions2']}",
            f"{memory:.2f}x",
            f"<= {MEMORY_GOAL}x",
            verdict(memory, MEMORY_GOAL, True),
        ]
    )
    return [
        ours["description"],
        table(["trainer", "maps of logits per batch", "wall", "processor time", "peak memory added"], rows),
        table(["comparison", "ratio", "goal", "met"], comparisons),
    ]


def kept(variant: str, planner: str, folder: Path | None) -> dict:
    """The figures that stand in the folder, or those of a run."""
    path = folder / f"{planner}_{variant}.json" if folder else None
    if path and path.is_file():
        return json.loads(path.read_text())
    result = run_alone(variant, planner)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    return result


def run_alone(variant: str, planner: str) -> dict:
    """The measurement in a fresh process: peak memory never goes down within one."""
    command = [sys.executable, *sys.argv, "--variant", variant, "--planners", planner]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = output.split("RESULT ")[1].strip()
    print(f"{NAMES[variant]}, {planner}: {result}", flush=True)
    return json.loads(result)


if __name__ == "__main__":
    main()
