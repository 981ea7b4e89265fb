"""Where networks run: what `-device` means."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def find_device(text: str | torch.device | None = "auto") -> torch.device:
    """The device of this name.

    Args:
        text: "auto" or None (the fastest that is there: cuda, then mps, then cpu), "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    from nnunetv2_clip.errors import UserError

    count = torch.cuda.device_count()
    there = [*(["cuda"] if count else []), *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    name = there[0] if text in (None, "auto") else str(text)
    there += [f"cuda:{number}" for number in range(count)]
    if name not in there:
        expected = f"auto, {', '.join(there)}"
        raise UserError(f"-device {name}", "is not available on this machine", expected, "use -device auto")
    return torch.device(name)
