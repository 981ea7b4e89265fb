"""How often a CT that is all right is called wrong, and how often one that is wrong is not.

    python benchmarks/bench_false_alarms.py                          # 200 random bodies, a phantom of each source
    python benchmarks/bench_false_alarms.py --bodies 5 --small -w .  # a smoke test; writes no result

The bodies are those of random_bodies.py; each is spoiled in every way that stands there. Many show a part of the trunk
only: without a liver nothing tells right from left, and a volume that nothing is known of counts as missed here. The
phantoms are `nnunetv2_clip check`ed as the releases that they imitate. Writes results/false_alarms.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from common import RESULTS, table, write_result
from random_bodies import SPOILED, random_body
from tqdm import tqdm

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.check import check_downloads
from nnunetv2_clip.conversion.merge import Input
from nnunetv2_clip.dataset_conversion.registry import all_sources
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.inference.inputs import read_scan
from nnunetv2_clip.phantom.layouts import layout_names, write_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--work", type=Path, default=Path("false_alarms_work"), help="(default: %(default)s)")
    parser.add_argument("--bodies", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a smoke test, without sources: writes to -w")
    args = parser.parse_args()
    false, named = alarms(args.bodies)
    rows = [("nothing", f"{sum(map(bool, false.values()))} of {args.bodies}", "")]
    rows += [(kind, "", f"{args.bodies - named[kind]} of {args.bodies}") for kind in SPOILED]
    parts = [table(("what is wrong with the CT", "called wrong", "not called wrong"), rows)]
    parts += [f"- body {seed}: {text}" for seed, text in false.items() if text]
    parts += [] if args.small else [source_alarms()]
    title = "False and missed alarms of the checks of a CT"
    write_result("false_alarms", title, *parts, folder=args.work if args.small else RESULTS)


def alarms(bodies: int) -> tuple[dict[int, str], Counter[str]]:
    """What was found wrong with each body as it is, and how many bodies of each kind of fault were called wrong."""
    false, named = {}, Counter()
    for seed in tqdm(range(bodies), desc="bodies"):
        body = random_body(seed)
        false[seed] = found_in(body)
        named.update(kind for kind, spoil in SPOILED.items() if found_in(spoil(body)))
    return false, named


def found_in(volume: Volume) -> str:
    """What the gate says of header, voxels and anatomy, in words."""
    try:
        return "; ".join(read_scan((volume.data, volume.affine)).warnings)
    except UserError as error:
        return str(error)


def source_alarms(cases: int = 2) -> str:
    """The problems of a phantom of each source."""
    found, sources = [], all_sources()
    names = sorted(set(sources) & set(layout_names()))
    for number, name in enumerate(tqdm(names, desc="sources")):
        with tempfile.TemporaryDirectory() as folder:
            seeds = range(1000 * number, 1000 * number + cases)
            root = Path(write_source(name, Path(folder) / name, seeds).root)
            found += check_downloads([Input(sources[name], root)], UNIVERSAL, None, 1, require_all=False).problems
    lines = [f"- {text}" for text in found]
    return "\n".join([f"Phantoms of {len(names)} sources, {cases} cases each: {len(found)} problems.", "", *lines])


if __name__ == "__main__":
    main()
