"""Several phantom sources into one folder: what `nnunetv2_clip phantom` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.phantom.anatomy import DEFAULT_SPACING_MM, generator
from nnunetv2_clip.phantom.layouts.base import SourceTruth, known_layout, known_orientation, write_source


@dataclass(frozen=True)
class PhantomOrder:
    """What the user asked for."""

    sources: tuple[str, ...]
    cases: int = 6
    test_cases: int = 1
    seed: int = 0
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None


def write_sources(folder: Path, order: PhantomOrder) -> dict[str, SourceTruth]:
    """Write `folder/<source>/` for every source; a source is complete or not there.

    Raises:
        UserError: unknown source or orientation, impossible numbers, or a folder with something in it.
    """
    _check(order)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(folder, "is not empty", "a new folder", "choose another folder or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    total = len(order.sources) * (order.cases + order.test_cases)
    with tqdm(total=total, desc="phantoms", unit="case") as bar:
        for source in order.sources:
            seeds = source_seeds(source, order.seed, order.cases + order.test_cases)
            written[source] = write_source(
                source,
                folder / source,
                seeds[: order.cases],
                seeds[order.cases :],
                spacing_mm=order.spacing_mm or DEFAULT_SPACING_MM,
                orientation=order.orientation or (),
                progress=bar.update,
            )
    return written


def source_seeds(source: str, seed: int, count: int) -> list[int]:
    """Seeds that differ between sources: no patient is in two of them."""
    return generator(seed, source).integers(1, 2**62, size=count).tolist()


def _check(order: PhantomOrder) -> None:
    for source in order.sources:
        known_layout(source)
    if len(set(order.sources)) != len(order.sources):
        raise UserError("--sources", f"names a source twice: {' '.join(order.sources)}", "each source once")
    if order.orientation:
        known_orientation(order.orientation)
    if order.cases < 1 or order.test_cases < 0:
        raise UserError("--cases", f"{order.cases} and --test-cases {order.test_cases}", "at least 1 and at least 0")
    if order.seed < 0:
        raise UserError("--seed", str(order.seed), "0 or more")
    if order.spacing_mm and not all(0.5 <= step <= 12 for step in order.spacing_mm):
        raise UserError("--spacing", f"{order.spacing_mm}", "three values from 0.5 to 12 mm")
