"""Simulations as jobs, in this process or in several others."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
Report = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0 to 1."""


class Workers:
    """Runs jobs in this process, or in several others; what they give does not depend on how many those are.

    Args:
        count: of processes; with one, jobs run here and report their progress.
    """

    def __init__(self, count: int) -> None:
        # Spawned, not forked: whoever shows progress may have threads.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context) if count > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(
        self, work: Callable[[JobT, Report], ResultT], jobs: Sequence[JobT], report: Report
    ) -> Iterator[tuple[JobT, ResultT]]:
        """Yield each job with its result, in the order in which they end."""
        if self._pool is None:
            for job in jobs:
                yield job, work(job, report)
            return
        futures = {self._pool.submit(work, job, _silent): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _silent(label: str, share: float) -> None:
    return None


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Leave cycles alone: millions of live holdings would be looked through again and again, and a run makes none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
