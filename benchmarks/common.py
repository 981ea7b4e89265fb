"""What the benchmarks share: repeated timing, the description of the machine, and the Markdown table."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """The fastest of several runs: what else runs on the machine can only add to it."""

    wall_s: float
    cpu_s: float  # of all threads of this process: hardly moved by other work on the machine

    def __str__(self) -> str:
        return f"{1e3 * self.wall_s:.1f} ms (CPU {1e3 * self.cpu_s:.1f})"


def measure(function: Callable[[], object], budget_s: float = 10, max_repeats: int = 20) -> Timing:
    """Wall-clock and processor time of `function`: one warm-up, then at least twice and until the budget is spent."""
    function()
    walls, cpus, end = [], [], time.perf_counter() + budget_s
    while len(walls) < 2 or (time.perf_counter() < end and len(walls) < max_repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        wait_for_device()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timing(min(walls), min(cpus))


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def processor() -> str:
    """Name and number of cores of this machine's processor."""
    names = []
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def machine() -> str:
    """Date, hardware, versions and load, as Markdown lines."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: the GPU columns stay empty"
    versions = ", ".join(f"{name} {version(name)}" for name in ("nnunetv2_clip", "nnunetv2", "torch"))
    lines = [
        f"- {date.today()}, {processor()}, {torch.get_num_threads()} thread(s); GPU: {gpu}",
        f"- Python {platform.python_version()}, {versions}",
    ]
    if hasattr(os, "getloadavg"):
        lines.append(f"- load average of the last five minutes {os.getloadavg()[1]:.1f} (other work on the machine)")
    return "\n".join(lines)


def verdict(reached: float, goal: float, at_most: bool = False) -> str:
    """Was the goal reached: `yes` or `MISSED`."""
    good = reached <= goal if at_most else reached >= goal
    return "yes" if good else "MISSED"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def results_folder(device: str) -> Path:
    """Where results are kept: those of a GPU by the name of the card."""
    if device == "cpu":
        return RESULTS
    return RESULTS / "gpu" / re.sub(r"\W+", "_", torch.cuda.get_device_name()).strip("_").lower()


def write_result(name: str, title: str, *parts: str, folder: Path = RESULTS) -> None:
    """Print the page and write it to results/NAME.md, with the command that made it and the machine.

    Args:
        folder: another one for a run that is no result, so that it replaces none.
    """
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    page = "\n\n".join([f"# {title}", machine(), *parts, f"Made by `{command}`."]) + "\n"
    print(page)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
