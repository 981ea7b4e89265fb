"""Cases one after another or in worker processes: whatever one case does, the others are done.

Every exception of a case is caught and named with the case. A worker that is killed (for lack of memory, as a rule)
costs only the case that it was at. Workers end with their parent, however that ends.
"""

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait as wait_until_ready
from typing import Generic, TypeVar, cast

from tqdm import tqdm

from nnunetv2_clip.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

LOG_EVERY_S = 60.0
AGAIN = "correct them and run the same command again"
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EACCES: "correct the rights of the folder",
    errno.EPERM: "correct the rights of the folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOENT: "see that nothing moves files while the command runs",
}


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of one case.

    Attributes:
        task: as it was given.
        name: of the case, for messages.
        result: what the function returned; None after an error.
        error: why there is no result.
    """

    task: Task
    name: str
    result: Result | None = None
    error: UserError | None = None


class CasesFailed(UserError):
    """Some cases failed, the others are done.

    Args:
        title: what was done with the cases.
        errors: case -> what went wrong.
        num_cases: all of them.
        remedy: what to do about it.
    """

    exit_code = 3
    max_characters = 1_000_000  # every case is named

    def __init__(self, title: str, errors: dict[str, UserError], num_cases: int, remedy: str = AGAIN):
        listed = "".join(f"\n  {_named(name, error)}" for name, error in sorted(errors.items()))
        super().__init__(title, f"{len(errors)} of {num_cases} cases failed:{listed}\n", remedy=remedy)
        self.errors = errors


def _named(name: str, error: UserError) -> str:
    return str(error) if error.where == name else f"{name}: {error}"


def run_cases(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    title: str,
    num_processes: int = 1,
    name_of: Callable[[Task], object] = lambda task: getattr(task, "case_id", task),
    file_of: Callable[[Task], object] = lambda task: getattr(task, "file", None),
) -> Iterator[Outcome[Task, Result]]:
    """`function(task)` for every task, in the order of the tasks, with a progress bar.

    Few cases are under way at a time, so that memory does not grow with the number of tasks.

    Args:
        function: must be importable by its name where `num_processes` is above 1.
        name_of: the case identifier or file of a task, for messages (by default its `case_id`, or the task itself).
        file_of: what an error that names no file is said of (by default the task's `file`); None: the name.

    Raises:
        UserError: fewer than one process.
    """
    if num_processes < 1:
        raise UserError("-np", str(num_processes), "1 or more worker processes")
    names = [str(name_of(task)) for task in tasks]
    places = [str(file_of(task) or name) for task, name in zip(tasks, names, strict=True)]
    ready: dict[int, Result | UserError] = {}
    following = 0
    if not tasks:
        return
    with _progress(title, len(tasks)) as advance:
        for number, result in _results(function, tasks, places, min(num_processes, len(tasks))):
            advance()
            ready[number] = result
            while following in ready:
                result = ready.pop(following)
                task, name = tasks[following], names[following]
                following += 1
                if isinstance(result, UserError):
                    yield Outcome(task, name, error=result)
                else:
                    yield Outcome(task, name, result)


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """What to call after every case: moves a bar; where none is drawn (cli.py decides) it says now and then how far."""
    done, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done += 1
        bar.update()
        if bar.disable and time.monotonic() - said >= LOG_EVERY_S:
            print(f"{title}: {done} of {total} cases", flush=True)
            said = time.monotonic()

    with tqdm(total=total, desc=title, unit="case") as bar:
        yield advance


def require_all(outcomes: Iterable[Outcome[Task, Result]], title: str, remedy: str = AGAIN) -> list[Result]:
    """The results of all cases, when all have been tried. Raises CasesFailed: some failed; every one is named."""
    good, errors = good_and_bad(outcomes)
    if errors:
        raise CasesFailed(title, errors, len(good) + len(errors), remedy)
    return [cast(Result, outcome.result) for outcome in good]


def require_some(
    outcomes: Iterable[Outcome[Task, Result]], title: str
) -> tuple[list[Outcome[Task, Result]], dict[str, UserError]]:
    """The cases that went well, and case -> what went wrong, when all have been tried.

    Raises:
        CasesFailed: there are cases, and all failed.
    """
    good, errors = good_and_bad(outcomes)
    if errors and not good:
        raise CasesFailed(title, errors, len(errors))
    return good, errors


def good_and_bad(outcomes: Iterable[Outcome[Task, Result]]) -> tuple[list[Outcome[Task, Result]], dict[str, UserError]]:
    """The cases that went well, and case -> what went wrong, when all have been tried."""
    outcomes = list(outcomes)
    errors = {outcome.name: outcome.error for outcome in outcomes if outcome.error}
    return [outcome for outcome in outcomes if not outcome.error], errors


def as_user_error(error: Exception, name: str) -> UserError:
    """Any exception of a case as a message that names the case or its file."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError):
        return UserError(name, "not enough memory", "a few GB for each worker process", "use fewer with -np")
    if isinstance(error, OSError) and error.strerror:
        return UserError(error.filename or name, f"{error.strerror} ({name})", remedy=_REMEDIES.get(error.errno, ""))
    found = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return UserError(name, found, remedy="check the files of this case; if they are right, report this message")


def _attempt(function: Callable[[Task], Result], task: Task, name: str) -> Result | UserError:
    try:
        return function(task)
    except Exception as error:
        return as_user_error(error, name)


_Numbered = Generator[tuple[int, object], None, list[int]]


def _results(function: Callable, tasks: Sequence, places: Sequence[str], num_processes: int) -> Iterator:
    """(number of the task, result or error) as they become ready."""
    if num_processes <= 1:
        for number, task in enumerate(tasks):
            yield number, _attempt(function, task, places[number])
        return
    waiting = iter(range(len(tasks)))
    while suspects := (yield from _in_pool(function, tasks, places, waiting, num_processes)):
        for number in suspects:  # one of them has ended the pool: each alone, to find out which
            if (yield from _in_pool(function, tasks, places, iter([number]), 1)):
                yield number, _worker_died(places[number])


def _in_pool(
    function: Callable, tasks: Sequence, places: Sequence[str], waiting: Iterator[int], num_processes: int
) -> _Numbered:
    """Work on what is waiting; returns the tasks that were under way when a worker died, none in the end."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, context, initializer=_prepare_worker)
    under_way: dict[Future, int] = {}
    submitting: list[int] = []
    try:
        while True:
            for number in islice(waiting, 2 * num_processes - len(under_way)):
                submitting = [number]
                under_way[pool.submit(_attempt, function, tasks[number], places[number])] = number
                submitting = []
            if not under_way:
                return []
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield under_way.pop(future), result
    except BrokenProcessPool:
        return sorted([*under_way.values(), *submitting])
    finally:
        if under_way:  # given up before the end: nobody waits for what the workers are doing
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _worker_died(name: str) -> UserError:
    found = "its worker process was ended from outside, most likely for lack of memory"
    expected = "a few GB of memory for each worker process"
    return UserError(name, found, expected, "run the same command again with a smaller -np; what is done stays done")


def _prepare_worker() -> None:
    """Ctrl-C is the parent's business, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "not in a worker"
    wait_until_ready([parent.sentinel])
    os._exit(1)
