"""How much memory this process uses, and how to stay below a budget."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import psutil

from nnunetv2_clip.errors import UserError

GB = 1e9
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
