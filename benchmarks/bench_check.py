"""What `nnunetv2_clip check` costs, in processor time, against an older version of the package on the same cases.

    python benchmarks/bench_check.py --against ../older_checkout              # 100 phantoms of 128^3, some minutes
    python benchmarks/bench_check.py --against ../older_checkout --small -w . # a smoke test: the figures mean nothing

Both versions run as a user runs them, in fresh processes with one worker, in turns; the smallest time of each counts,
start of the process included. Writes results/check.md, with fewer than 100 cases to the work folder (-w).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import RESULTS, table, verdict, write_result
from tqdm import tqdm

from nnunetv2_clip.imaging.nifti import write_nifti
from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, make_phantom

GOAL, SIZE, SMALL_SIZE = 1.3, 128, 48
HERE = Path(__file__).parents[1]
# The whole package of a checkout, whatever is installed: parts of it lie beside its main folder.
CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
sys.meta_path = [finder for finder in sys.meta_path if "nnunetv2_clip" not in repr(finder)]
import nnunetv2_clip
nnunetv2_clip.__path__.append(sys.argv[1])
from nnunetv2_clip.cli import main
from nnunetv2_clip.dataset_conversion import custom
assert custom.__file__.startswith(sys.argv[1]) and main.__code__.co_filename.startswith(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""
TABLE = """
name: phantoms
images: images/{case}.nii.gz
labels: labels/{case}.nii.gz
values: {1: liver, 2: spleen, 3: right_kidney, 4: left_kidney, 5: [right_lung, left_lung]}
"""
LABELS = (("liver",), ("spleen",), ("right_kidney",), ("left_kidney",), ("right_lung", "left_lung"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="PATH", help="a checkout of an older version")
    parser.add_argument("--cases", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each version (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a smoke test: 2 small cases, one turn, writes to -w")
    parser.add_argument("-w", "--work", type=Path, default=Path("check_work"), help="(default: %(default)s)")
    args = parser.parse_args()
    size = SMALL_SIZE if args.small else SIZE
    if args.small:
        args.cases, args.turns = 2, 1
    with tempfile.TemporaryDirectory() as folder:
        write_cases(Path(folder), args.cases, size)
        seconds = measure(Path(folder), {"this version": HERE, "against": args.against.resolve()}, args.turns)
    title = "Cost of nnunetv2_clip check" + (" (smoke test)" if args.small else "")
    write_result("check", title, *report(args, seconds, size), folder=RESULTS if args.cases >= 100 else args.work)


def write_cases(root: Path, cases: int, size: int) -> None:
    """Different patients as a custom source: four organs, and two lungs under one value that are to be split."""
    (root / "table.yaml").write_text(TABLE)
    spacing = tuple(float(length) / size for length in DEFAULT_BODY_MM)
    for seed in tqdm(range(cases), desc="phantoms"):
        phantom = make_phantom(seed, spacing)
        masks = [np.any([phantom.masks[name] for name in names], axis=0) for names in LABELS]
        label_map = np.select(masks, range(1, len(masks) + 1)).astype(np.uint8)
        for kind, data in (("images", phantom.image), ("labels", label_map)):
            (root / kind).mkdir(exist_ok=True)
            write_nifti(root / kind / f"p{seed:03}.nii.gz", data, phantom.affine)


def measure(root: Path, versions: dict[str, Path], turns: int) -> dict[str, float]:
    """Version -> processor seconds of a check of all cases, with its workers."""
    seconds = dict.fromkeys(versions, np.inf)
    for _ in tqdm(range(turns), desc="turns"):
        for name, checkout in versions.items():
            seconds[name] = min(seconds[name], check(root, checkout))
    return seconds


def check(root: Path, checkout: Path) -> float:
    command = [
        str(checkout),
        "check",
        "--source",
        f"custom={root / 'table.yaml'}",
        "-o",
        str(root / "check.html"),
        "-np",
        "1",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    (root / "check.html").unlink(missing_ok=True)
    subprocess.run([sys.executable, "-c", CHECK, *command, "--quiet"], check=False)
    assert (root / "check.html").is_file(), f"the check of {checkout} failed"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(args: argparse.Namespace, seconds: dict[str, float], size: int) -> list[str]:
    mine, older = seconds.values()
    rows = [
        ("the older version", f"{older:.1f}", f"{1e3 * older / args.cases:.0f}", "1.00", ""),
        ("this version", f"{mine:.1f}", f"{1e3 * mine / args.cases:.0f}", f"{mine / older:.2f}",
         verdict(mine / older, GOAL, at_most=True)),
    ]  # fmt: skip
    text = (
        f"{args.cases} phantoms of {size} x {size} x {size} voxels with a label map, as a custom source with a pair of "
        f"organs to split; one worker; the smallest processor time of {args.turns} turn(s). Goal: at most {GOAL} times."
    )
    return [text, table(("", "processor s", "ms per case", "times the older", f"at most {GOAL}"), rows)]


if __name__ == "__main__":
    main()
