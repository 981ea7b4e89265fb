"""Optional packages behind one door: a missing one is an error that names the extra to install."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from types import ModuleType

from nnunetv2_clip.errors import UserError


def optional(module: str, remedy: str) -> ModuleType:
    """An imported optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside these packages are not the user's business
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError("--encoder", f"the package {error.name} is not installed", "", remedy) from None


def versions(*distributions: str) -> str:
    """Names and installed versions, as the table records them."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)
