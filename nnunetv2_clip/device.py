"""Where networks run: what `-device` means, and whether torch.compile works there."""

from __future__ import annotations

import functools
import sys
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


@functools.cache
def compiles_on(device: torch.device) -> bool:
    """Compile and run next to nothing on a device. Where that fails (mostly, no compiler is there) a line says so."""
    import torch

    try:
        torch.compile(_add_one)(torch.zeros(1, device=device))
    except Exception as error:  # whatever the compilers raise
        why = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        print(
            f"Note: torch.compile is left out, networks run slower and with the same result ({why}). It needs a C "
            f"compiler; nnUNet_compile=f leaves it out without this note.",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


def _add_one(values: torch.Tensor) -> torch.Tensor:
    return values + 1
