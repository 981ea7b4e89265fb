"""Commands that are ended while their workers are at work: no worker stays, and the same command finishes the rest."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nnunetv2_clip.phantom.layouts.base import write_source

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGTERM, signal.SIGKILL]
NUM_CASES = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("liver") / "source"
    return write_source("msd_liver", folder, range(NUM_CASES), spacing_mm=(4.0, 4.0, 4.0)).root


class Run:
    """The command line in a process of its own, with two workers, in nnU-Net folders below `folder`."""

    def __init__(self, folder, *arguments):
        variables = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        environment = {**os.environ, **{name: str(folder / name) for name in variables}}
        command = [sys.executable, "-m", "nnunetv2_clip.cli", *map(str, arguments), "-np", "2"]
        folder.mkdir(exist_ok=True)
        self.says = folder / "stderr.txt"
        with open(self.says, "w") as stderr:
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stderr=stderr)

    def end(self, how, is_at_work):
        """Send the signal as soon as the workers are at work; the text on stderr."""
        deadline = time.monotonic() + 120
        while not is_at_work():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        children = psutil.Process(self.process.pid).children(recursive=True)
        assert len(children) >= 2
        self.process.send_signal(how)
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        self.process.wait(60)
        return self.says.read_text()

    def finish(self):
        return self.process.wait(240)


def contents(*folders):
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Run(folder, "convert", "-d", 900, "--source", f"msd_liver={source}").finish() == 0
    return contents(folder / "nnUNet_raw", folder / "nnUNet_preprocessed")


@pytest.mark.parametrize("how", SIGNALS)
def test_convert_leaves_no_worker_and_goes_on(source, undisturbed, tmp_path, how):
    command = ("convert", "-d", 900, "--source", f"msd_liver={source}")
    raw, preprocessed = tmp_path / "nnUNet_raw", tmp_path / "nnUNet_preprocessed"
    records = raw / "Dataset900_Universal" / ".conversion" / "cases"
    run = Run(tmp_path, *command)
    text = run.end(how, lambda: any(records.glob("*.json")))
    assert run.process.returncode == (143 if how == signal.SIGTERM else -how)
    assert ("Ended by SIGTERM; run the same command again" in text) == (how == signal.SIGTERM)
    assert "Traceback" not in text
    assert 0 < len(list(records.glob("*.json"))) < NUM_CASES and not list(raw.glob("*/dataset.json"))
    assert Run(tmp_path, *command).finish() == 0
    assert contents(raw, preprocessed) == undisturbed


@pytest.mark.parametrize("how", SIGNALS)
def test_check_leaves_no_worker_and_can_be_run_again(source, tmp_path, how):
    command = ("check", "--source", f"msd_liver={source}", "--partial")
    assert Run(tmp_path, *command, "-o", "whole.html").finish() == 0
    run = Run(tmp_path, *command, "-o", "page.html")
    text = run.end(how, lambda: re.search(rf"checking: .* [1-9]\d*/{NUM_CASES} ", run.says.read_text()))
    assert run.process.returncode == (143 if how == signal.SIGTERM else -how)
    assert "Traceback" not in text
    assert not (tmp_path / "page.html").exists()
    assert Run(tmp_path, *command, "-o", "page.html").finish() == 0
    pages = [(tmp_path / name).read_text() for name in ("page.html", "whole.html")]
    assert len({re.sub(r"\d\d:\d\d", "", page) for page in pages}) == 1  # but for the time of day
