"""Several phantom sources into one folder: what `nnunetv2_clip phantom` does."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.phantom.anatomy import DEFAULT_SPACING_MM, generator
from nnunetv2_clip.phantom.layouts.base import (
    RECORD,
    WITHOUT_TEST_CASES,
    SourceTruth,
    known_layout,
    layout_orientations,
    write_source,
)


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

    Sources that are there already, asked for in the same way, are kept: an interrupted run goes on, and further sources
    can be added. Sources that publish no cases without label get none.

    Raises:
        UserError: unknown source or orientation, impossible numbers, or a folder with something else in it.
    """
    _check(order)
    written = _already_there(folder, order)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [source for source in order.sources if source not in written]
    total = sum(order.cases + _num_test_cases(order, source) for source in missing)
    with tqdm(total=total, desc="phantoms", unit="case") as bar:
        for source in missing:
            seeds = source_seeds(source, order.seed, order.cases + _num_test_cases(order, source))
            written[source] = write_source(
                source,
                folder / source,
                seeds[: order.cases],
                seeds[order.cases :],
                spacing_mm=order.spacing_mm or DEFAULT_SPACING_MM,
                orientation=order.orientation or (),
                progress=bar.update,
                order=_record(order),
            )
    return {source: written[source] for source in order.sources}


def _already_there(folder: Path, order: PhantomOrder) -> dict[str, SourceTruth]:
    """The finished sources of an earlier run."""
    if not folder.exists():
        return {}
    remedy = "choose another folder or remove this one"
    if not folder.is_dir():
        raise UserError(folder, "is a file", "a folder", remedy)
    # Unfinished folders of a run that was killed start with a dot.
    entries = sorted(path for path in folder.iterdir() if not path.name.endswith(".partial"))
    foreign = [path.name for path in entries if not (path / RECORD).is_file()]
    if foreign:
        raise UserError(folder, f"holds {', '.join(foreign[:3])}, which are no phantoms", "a new folder", remedy)
    found = {path.name: SourceTruth.load(path) for path in entries if path.name in order.sources}
    for source, truth in found.items():
        if truth.order != _record(order):
            raise UserError(folder / source, f"was written with {truth.order}", f"{_record(order)}", remedy)
    return found


def _record(order: PhantomOrder) -> dict:
    """The order as JSON gives it back, without the list of sources."""
    record = json.loads(json.dumps(asdict(order)))
    del record["sources"]
    return record


def _num_test_cases(order: PhantomOrder, source: str) -> int:
    return 0 if source in WITHOUT_TEST_CASES else order.test_cases


def source_seeds(source: str, seed: int, count: int) -> list[int]:
    """Seeds that differ between sources: no patient is in two of them."""
    return generator(seed, source).integers(1, 2**62, size=count).tolist()


def _check(order: PhantomOrder) -> None:
    for source in order.sources:
        layout_orientations(known_layout(source), [order.orientation] if order.orientation else [])
    if len(set(order.sources)) != len(order.sources):
        raise UserError("--layouts", f"names a source twice: {' '.join(order.sources)}", "each source once")
    if order.cases < 1 or order.test_cases < 0:
        raise UserError("--cases", f"{order.cases} and --test-cases {order.test_cases}", "at least 1 and at least 0")
    if order.seed < 0:
        raise UserError("--seed", str(order.seed), "0 or more")
    if order.spacing_mm and not all(0.5 <= step <= 12 for step in order.spacing_mm):
        raise UserError("--spacing", f"{order.spacing_mm}", "three values from 0.5 to 12 mm")
