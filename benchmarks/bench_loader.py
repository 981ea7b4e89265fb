"""Batches per second out of nnU-Net's workers: label maps (ours) against 32 regions (stock), same plans and data.

    python benchmarks/bench_loader.py [--work benchmark_work] [--seconds 30] [--workers 1]

Once through worker processes as in a training, and once in this process, where processor time per batch can be counted.
Writes benchmarks/results/loader.md.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from common import table, verdict, write_result
from training_data import describe, make_trainer, prepare

GOAL = 2


def batches_per_second(trainer, seconds: float) -> float:
    """Of the worker processes, best of three stretches, after the batches they had in store are used up."""
    loader, validation_loader = trainer.get_dataloaders()
    try:
        for _ in range(8):
            next(loader)
        return max(_stretch(loader, seconds / 3) for _ in range(3))
    finally:
        loader._finish()
        validation_loader._finish()


def _stretch(loader, seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        next(loader)
        count += 1
    return count / (time.perf_counter() - start)


def cpu_seconds(trainer, seconds: float) -> tuple[float, int]:
    """Processor time of one batch, median, and the bytes of its target."""
    loader, _ = trainer.get_dataloaders()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.process_time()
        batch = next(loader)
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2], sum(scale.nbytes for scale in batch["target"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("benchmark_work"), help="folder for data (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=30, help="per measurement (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepare(args.work)
    rates, cpu, target_bytes = {}, {}, {}
    for variant in ("regions32", "ours"):
        os.environ["nnUNet_n_proc_DA"] = str(args.workers)
        trainer = make_trainer(variant, "cpu")
        rates[variant] = batches_per_second(trainer, args.seconds)
        os.environ["nnUNet_n_proc_DA"] = "0"
        cpu[variant], target_bytes[variant] = cpu_seconds(trainer, args.seconds)
    order = ("regions32", "ours")
    speed, work = rates["ours"] / rates["regions32"], cpu["regions32"] / cpu["ours"]
    smaller = target_bytes["regions32"] / target_bytes["ours"]
    write_result(
        "loader",
        "Batches out of the workers, 32 classes, full augmentation",
        describe(trainer),
        table(
            ["", "stock, 32 regions", "ours, label maps", "ratio", "goal", "met"],
            [
                [
                    f"batches per second, {args.workers} worker(s)",
                    *(f"{rates[variant]:.2f}" for variant in order),
                    f"{speed:.2f}x",
                    f">= {GOAL}x",
                    verdict(speed, GOAL),
                ],
                ["processor time of a batch", *(f"{1e3 * cpu[v]:.0f} ms" for v in order), f"{work:.2f}x", "", ""],
                ["targets", *(f"{target_bytes[v] / 2**20:.2f} MiB" for v in order), f"{smaller:.1f}x", "", ""],
            ],
        ),
    )


if __name__ == "__main__":
    main()
