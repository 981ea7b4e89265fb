"""Cases over worker processes with a progress bar; memory stays that of one case per worker."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from nnunetv2_clip.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_cases(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_processes: int, description: str
) -> Iterator[Result]:
    """`function(job)` for every job, in the order of the jobs; with one process in this process.

    Raises:
        UserError: fewer than one process.
    """
    if num_processes < 1:
        raise UserError("-np", str(num_processes), "1 or more worker processes")
    num_processes = min(num_processes, len(jobs))
    with tqdm(total=len(jobs), desc=description, unit="case") as bar:
        if num_processes <= 1:
            for job in jobs:
                yield function(job)
                bar.update()
            return
        with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
            for result in pool.imap(function, jobs):
                yield result
                bar.update()
