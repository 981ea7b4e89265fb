"""The runner: a bad case is named and the others are done; workers end with their parent."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import psutil
import pytest

from nnunetv2_clip import runner
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.runner import CasesFailed, require_all, require_some, run_cases


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)


def work(task):
    if task == "user":
        raise UserError("file.nii", "is bad")
    if task == "memory":
        raise MemoryError
    if task == "odd":
        raise Unpicklable("odd", "thing")
    if task == "disk":
        raise OSError(28, "No space left on device", "/out/file")
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return task * 2


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_bad_case_is_named_and_the_others_are_done(num_processes):
    tasks = ["a", "user", "b", "memory", "odd", "disk", "c"]
    outcomes = list(run_cases(work, tasks, "working", num_processes, name_of=lambda task: f"case {task}"))
    assert [outcome.task for outcome in outcomes] == tasks
    assert [outcome.result for outcome in outcomes] == ["aa", None, "bb", None, None, None, "cc"]
    errors = {outcome.task: str(outcome.error) for outcome in outcomes if outcome.error}
    assert errors["user"] == "file.nii: is bad."
    assert "case memory: not enough memory" in errors["memory"]
    assert "case odd: Unpicklable: odd" in errors["odd"]
    assert "/out/file" in errors["disk"] and "case disk" in errors["disk"] and "make room" in errors["disk"]


def test_where_no_bar_is_drawn_lines_say_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(runner, "tqdm", partial(runner.tqdm, disable=True))
    list(run_cases(work, ["a", "user"], "working"))
    assert capsys.readouterr().out == ""  # soon done
    monkeypatch.setattr(runner, "LOG_EVERY_S", 0)
    list(run_cases(work, ["a", "user"], "working"))
    assert capsys.readouterr().out == "working: 1 of 2 cases\nworking: 2 of 2 cases\n"


def test_a_killed_worker_costs_its_own_case_only():
    outcomes = list(run_cases(work, ["a", "b", "killed", "c", "d", "e"], "working", 2))
    assert [outcome.result for outcome in outcomes] == ["aa", "bb", None, "cc", "dd", "ee"]
    assert "ended from outside" in str(outcomes[2].error)


def test_all_that_failed_are_named_in_one_error():
    with pytest.raises(CasesFailed, match=r"2 of 3 cases failed(.|\n)*memory(.|\n)*user") as caught:
        require_all(run_cases(work, ["user", "a", "memory"], "working"), "working", "mend them")
    assert caught.value.exit_code == 3
    assert "Remedy: mend them" in str(caught.value)


@dataclass(frozen=True)
class Task:
    case_id: str
    file: str

    def __mul__(self, number):
        raise MemoryError


def test_a_task_names_its_case_and_its_file():
    with pytest.raises(CasesFailed, match=r"(?s)1 of 1 cases failed.*a: a\.nii: not enough memory"):
        require_all(run_cases(work, [Task("a", "a.nii")], "working"), "working")


def test_some_will_do_but_not_none():
    good, errors = require_some(run_cases(work, ["user", "a"], "working"), "working")
    assert [outcome.result for outcome in good] == ["aa"] and list(errors) == ["user"]
    assert require_some(run_cases(work, [], "working"), "working") == ([], {})
    with pytest.raises(CasesFailed, match="2 of 2"):
        require_some(run_cases(work, ["user", "memory"], "working"), "working")


def test_too_few_processes_are_refused():
    with pytest.raises(UserError, match="-np"):
        list(run_cases(work, ["a"], "working", 0))


SLEEPERS = """
import sys, time
from nnunetv2_clip.runner import run_cases
def sleep(task):
    print("at work", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    list(run_cases(sleep, list("abcd"), "sleeping", 2))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout.readline() == parent.stdout.readline() == "at work\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    parent.send_signal(how)
    parent.wait(10)
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_message_is_bounded_but_every_case_is_named():
    error = UserError("label.nii.gz", f"unknown label values {list(range(10**6))}")
    assert len(str(error)) < 5000 and str(error).startswith("label.nii.gz: unknown label values [0, 1")
    failed = str(CasesFailed("convert", {f"case_{n}": UserError("x", "bad") for n in range(900)}, 900))
    assert all(f"case_{n}: " in failed for n in range(900))
