"""Every source by its name: each converter module names its sources in `SOURCES`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from nnunetv2_clip import dataset_conversion
from nnunetv2_clip.conversion.source import Source
from nnunetv2_clip.errors import UserError, suggestion


@cache
def all_sources() -> dict[str, Source]:
    """Name -> source, sorted by name."""
    found: dict[str, Source] = {}
    for module in pkgutil.iter_modules(dataset_conversion.__path__):
        for source in getattr(importlib.import_module(f"{dataset_conversion.__name__}.{module.name}"), "SOURCES", ()):
            assert source.name not in found, f"two sources are called {source.name}"
            found[source.name] = source
    return dict(sorted(found.items()))


def find_source(name: str, option: str = "--source ") -> Source:
    """The source of this name.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    sources = all_sources()
    if name not in sources:
        raise UserError(
            f"{option}{name}",
            f"no source is called {name!r}.{suggestion(name, sources)}",
            f"one of {', '.join(sources)}, or custom=TABLE.yaml",
        )
    return sources[name]
