"""Calls to the directory, timed from outside: how long each takes, and whether it answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from aloraserve.directory.base import Directory
from aloraserve.directory.wrapper import AnswerT, DirectoryWrapper
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.instruments import Instruments

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class DirectoryMetrics(Instruments):
    """Metrics of one process's calls to the directory."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.seconds = self.histogram(
            "aloraserve_directory_seconds",
            "Time that a call to the directory took, by the call and what became of it.",
            ["call", "outcome"],
            _BUCKETS,
        )
        self.unreadable = self.counter(
            "aloraserve_directory_unreadable_total",
            "Records and claims in the directory that could not be read and were passed over.",
        )


class ObservedDirectory(DirectoryWrapper):
    """A directory whose calls are timed; see :class:`~aloraserve.directory.base.Directory`.

    What a caller gave up (a lookup past its budget) counts as "cancelled".

    Args:
        directory: behind it.
        metrics: where the times go.
    """

    def __init__(self, directory: Directory, metrics: DirectoryMetrics) -> None:
        super().__init__(directory)
        self._seconds = metrics.seconds

    async def _through(self, name: str, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        started = time.perf_counter()
        try:
            answer = await call()
        except BaseException as error:
            self._seconds.labels(name, _outcome(error)).observe(time.perf_counter() - started)
            raise
        self._seconds.labels(name, "ok").observe(time.perf_counter() - started)
        return answer


def _outcome(error: BaseException) -> str:
    if isinstance(error, DirectoryUnavailableError):
        return "unavailable"
    return "failed" if isinstance(error, Exception) else "cancelled"
