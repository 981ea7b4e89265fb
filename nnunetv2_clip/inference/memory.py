"""How much memory this process uses, and how to stay below a budget."""

from __future__ import annotations

import contextlib
import math
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from nnunetv2_clip.errors import UserError

if TYPE_CHECKING:
    import torch

GB = 1e9
DEVICE_SHARE = 0.9  # of a device's free memory: its allocator leaves gaps
MAX_DEVICE_PASSES = 4  # each runs the whole network; beyond it sums in main memory are the smaller evil
_UNITS = {"": GB, "G": GB, "GB": GB, "GIB": 2.0**30, "M": 1e6, "MB": 1e6, "MIB": 2.0**20}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parse_size(text: str) -> int:
    """Bytes of a text such as 6GB, 800MB or 6 (GB).

    Raises:
        UserError: something else.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    try:
        size = float(match[1]) * unit if unit else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise UserError("--max-ram", f"{text!r}", "a size such as 6GB or 800MB")
    return int(size)


def free_beside(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that stay free on a GPU while `work` runs there; None for a device that shares main memory."""
    import torch

    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what an earlier case has left
    work()
    return torch.cuda.mem_get_info(device)[0]


def classes_at_a_time(num_classes: int, bytes_per_class: int, free: int) -> int:
    """For how many classes sums fit into the free memory of a device; 0 where that would take too many passes.

    Fewer than all are a share of about equal passes.
    """
    fitting = int(DEVICE_SHARE * free) // bytes_per_class
    passes = math.ceil(num_classes / fitting) if fitting > 0 else MAX_DEVICE_PASSES + 1
    return math.ceil(num_classes / passes) if passes <= MAX_DEVICE_PASSES else 0


def used_bytes() -> int:
    """Memory of this process now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The most since `reset_peak`, or since the start where the system cannot reset it (psutil knows no peak)."""
    match = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE) if _STATUS.exists() else None
    if match:
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Start a new measurement."""
    with contextlib.suppress(OSError):  # another system than Linux: then peaks count from the start, the safe side
        _CLEAR.write_text("5")
