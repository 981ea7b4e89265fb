"""All that only a GPU can say, as one command: `make gpu`.

    python benchmarks/gpu.py                             # 25 minutes on one card
    python benchmarks/gpu.py --minutes 9                 # cut earlier; call it again and it goes on
    python benchmarks/gpu.py --device cpu --small        # a trial without GPU: the figures mean nothing

Needs the repository and an installed package with pytest: no internet, no git. Prints as it goes. Every step leaves its
page and its log in benchmarks/results/gpu/CARD/ (in the work folder for a trial) at once, so that a run can be cut at
any point; what is done with the same sources is not done again. README.md there says which steps ran, and how they
ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import machine, results_folder, table

from nnunetv2_clip.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("nnunetv2_clip", "trainers", "plans", "dataset_conversion", "benchmarks", "tests", "demo")
DONE = "passed"


@dataclass(frozen=True)
class Step:
    """One line of the table.

    Attributes:
        command: arguments of Python, or of `program`; DEVICE, WORK, PAGES and SOURCES (a short digest of them) are
            filled in.
        small: what is added in a trial.
        full: what is added otherwise.
        environment: variables for the command; those of `small_environment` in a trial.
    """

    name: str
    about: str
    command: tuple[str, ...]
    full: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    program: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    small_environment: dict[str, str] = field(default_factory=dict)


STEPS = (
    Step(
        "tests",
        "kernel, training step, mixed precision, compiled, memory, syncs: on the device as on the CPU",
        ("-m", "pytest", "-q", "-rs", "-m", "gpu or not slow", "-p", "no:cacheprovider", "tests/host/test_gpu.py",
         "tests/networks/test_head_triton.py"),
        environment={"NNUNETV2_CLIP_TEST_DEVICE": "DEVICE"},
    ),
    Step(
        "head",
        "text-driven head against grouped convolutions",
        ("benchmarks/bench_head.py", "--devices", "DEVICE", "--dtypes", "float32", "float16", "--pages", "PAGES"),
        full=("--sizes", "64", "96", "128"),
        small=("--sizes", "16"),
    ),
    Step(
        "iteration",
        "a training iteration with ResEncL plans against stock with 2 and 32 regions",
        ("benchmarks/bench_iteration.py", "--device", "DEVICE", "--pages", "PAGES", "--work", "WORK/iteration",
         "--parts", "WORK/iteration/SOURCES"),
        full=("--planners", "resenc", "--threads", "8"),  # which draw the batches, before the clock starts
        small=("--planners", "small", "--seconds", "1"),
    ),
    Step(
        "predict",
        "a whole CT of 400 x 512 x 512 voxels, 32 classes, against stock",
        ("benchmarks/bench_predict_device.py", "--device", "DEVICE", "--pages", "PAGES"),
        small=("--size", "40", "64", "64"),
    ),
    Step(
        "demo",
        "the whole chain",
        ("demo/run.sh", "WORK/demo"),
        program="bash",
        environment={"DEVICE": "DEVICE"},
        small_environment={"CASES": "5", "EPOCHS": "1", "ITERATIONS": "2"},
    ),
    Step(
        "proof",
        "docs/evidence.md at ten times the steps",
        ("benchmarks/bench_proof.py", "masking", "-device", "DEVICE", "--pages", "PAGES", "-w", "WORK/proof"),
        full=("--steps", "10000", "--seeds", "1", "--arms", "masked", "upper_bound"),
        small=("--small", "--seeds", "1", "--arms", "masked", "upper_bound"),
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=25, help="then what runs is stopped (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a trial at the smallest size")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these steps")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("-w", "--work", type=Path, default=ROOT / "benchmark_work", help="(default: %(default)s)")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device. Expected: one NVIDIA GPU. For a trial: --device cpu --small")
    check_installed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `run` ends what it has started
    args.work = args.work.resolve() / f"gpu_{args.device}{'_small' * args.small}"
    args.pages = args.work / "pages" if args.small else results_folder(args.device)
    args.work.mkdir(parents=True, exist_ok=True)
    args.pages.mkdir(parents=True, exist_ok=True)
    run_all([step for step in STEPS if args.only is None or step.name in args.only], args)


def check_installed() -> None:
    """The commands that the steps call stand beside this Python, and nnU-Net will find our trainers."""
    folder, commands = Path(sys.executable).parent, ("nnunetv2_clip", "nnUNetv2_train", "pytest", "python")
    missing = [f"the command {name}" for name in commands if not (folder / name).is_file()]
    if "nnUNet_extTrainer" not in os.environ:  # a file beside the packages sets it at each start of Python
        missing.append("our trainers for nnU-Net")
    if missing:
        raise SystemExit(
            f"{sys.executable} lacks {', '.join(missing)}. Expected: this package, installed for it. Remedy: "
            f"{sys.executable} -m pip install -e . pytest (without internet: --no-index --find-links FOLDER_OF_WHEELS)"
        )


def run_all(steps: list[Step], args: argparse.Namespace) -> None:
    """One after the other, until the time is up; the table is written after each."""
    end, status, sources = time.monotonic() + 60 * args.minutes, Status.load(args.pages), fingerprint()
    for step in steps:
        if status.is_done(step, sources) and not args.again:
            print(f"{step.name}: done before", flush=True)
            continue
        left = end - time.monotonic()
        if left < 5:
            print(f"{step.name}: no time left; call again", flush=True)
            continue
        print(f"\n=== {step.name}: {step.about} ({left / 60:.0f} minutes left)", flush=True)
        start = time.monotonic()
        result = run(step, args, left)
        status.note(step, result, sources, (time.monotonic() - start) / 60)
        print(f"=== {step.name}: {result}", flush=True)
    print("\n" + (args.pages / "README.md").read_text())
    failed = [step.name for step in steps if not status.is_done(step, sources)]
    if failed:
        raise SystemExit(f"not done: {', '.join(failed)}. Logs and pages: {args.pages}")


def run(step: Step, args: argparse.Namespace, seconds: float) -> str:
    """Run the command; what it prints goes to the screen and to PAGES/NAME.log."""
    values = {"DEVICE": args.device, "WORK": str(args.work), "PAGES": str(args.pages), "SOURCES": fingerprint()}

    def filled(text: str) -> str:
        for key, value in values.items():
            text = text.replace(key, value)
        return text

    command = [step.program, *map(filled, (*step.command, *(step.small if args.small else step.full)))]
    extra = step.environment | (step.small_environment if args.small else {})
    environment = {**os.environ, **{key: filled(value) for key, value in extra.items()}, "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the commands that we install
    )
    with (args.pages / f"{step.name}.log").open("w", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        watch = Watch(process, seconds)
        try:
            for line in process.stdout or ():
                text = line.decode("utf-8", "replace")
                print(text, end="", flush=True)
                log.write(text)
                log.flush()
            code = process.wait()
        except BaseException:  # Ctrl-C does not reach it, as it has a session of its own
            watch.stop()
            process.wait()
            raise
        finally:
            watch.cancel()
    if watch.has_stopped_it:
        return "cut: no time left"
    return DONE if code == 0 else f"FAILED (exit code {code})"


class Watch:
    """Stops a command with all its children when the time is up."""

    def __init__(self, process: subprocess.Popen, seconds: float):
        from threading import Timer

        self._process, self.has_stopped_it = process, False
        self._timer = Timer(seconds, self.stop)
        self._timer.start()
        self.cancel = self._timer.cancel

    def stop(self) -> None:
        self.has_stopped_it = True
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(self._process.pid, signal.SIGKILL)


class Status:
    """Which step ended how, with which sources: PAGES/status.json, and README.md for people."""

    def __init__(self, folder: Path, entries: dict[str, dict]):
        self._folder, self._entries = folder, entries

    @classmethod
    def load(cls, folder: Path) -> Status:
        path = folder / "status.json"
        return cls(folder, json.loads(path.read_text()) if path.is_file() else {})

    def is_done(self, step: Step, sources: str) -> bool:
        entry = self._entries.get(step.name, {})
        return (entry.get("result"), entry.get("sources")) == (DONE, sources)

    def note(self, step: Step, result: str, sources: str, minutes: float) -> None:
        self._entries[step.name] = {"result": result, "sources": sources, "minutes": round(minutes, 1)}
        write_json(self._folder / "status.json", self._entries)
        write_text(self._folder / "README.md", self._page())

    def _page(self) -> str:
        rows = [
            [step.name, step.about, entry["result"], entry["minutes"], entry["sources"]]
            for step in STEPS
            if (entry := self._entries.get(step.name))
        ]
        header = ["step", "what", "result", "minutes", "sources"]
        parts = ["# On a GPU", machine(), *environment_lines(), table(header, rows), "Made by `make gpu`."]
        return "\n\n".join(parts) + "\n"


def environment_lines() -> list[str]:
    """What decides whether kernels can be compiled, and how workers hand batches over."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "not installed"
    shm = Path("/dev/shm")
    room = f"{shutil.disk_usage(shm).total / 2**30:.1f} GiB" if shm.is_dir() else "not there"
    lines = [f"- C compiler: {shutil.which('gcc') or shutil.which('cc') or 'none'}; Triton: {triton}; /dev/shm: {room}"]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        lines.append(
            f"- {properties.name}: compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}"
        )
    return ["\n".join(lines)]


def fingerprint() -> str:
    """Of all sources: a result is one of exactly these."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sh") and path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main()
