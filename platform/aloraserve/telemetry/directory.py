"""What a process sees of the directory: how long each call takes, and whether it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from prometheus_client import CollectorRegistry

from aloraserve.directory.base import Directory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.cached_labels import Histogram
from aloraserve.telemetry.instruments import Instruments

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_CALLS = frozenset(
    {"join", "publish", "retire", "apply", "lookup", "claim", "withdraw", "states", "epoch", "reclaim", "ping"}
    | {"announce", "announced"}
)


class DirectoryMetrics(Instruments):
    """Metrics of one process's calls to the directory."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.seconds = Histogram(
            "aloraserve_directory_seconds",
            "Time that a call to the directory took, by the call and what became of it.",
            ["call", "outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )


class ObservedDirectory:
    """A directory whose calls are timed; see :class:`~aloraserve.directory.base.Directory`.

    What a caller gave up (a lookup past its budget) counts as "cancelled".

    Args:
        directory: behind it.
        metrics: where the times go.
    """

    def __init__(self, directory: Directory, metrics: DirectoryMetrics) -> None:
        self._directory = directory
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._directory, name)
        if name not in _CALLS:
            return method
        timed = self._timed(name, method)
        # Found directly from now on.
        setattr(self, name, timed)
        return timed

    def _timed(self, name: str, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        seconds = self._metrics.seconds
        ok = seconds.labels(name, "ok")

        async def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                answer = await method(*arguments, **options)
            except BaseException as error:
                seconds.labels(name, _outcome(error)).observe(time.perf_counter() - started)
                raise
            ok.observe(time.perf_counter() - started)
            return answer

        return call


def observed(directory: Directory, metrics: DirectoryMetrics) -> Directory:
    """Return the directory with its calls timed."""
    return cast(Directory, ObservedDirectory(directory, metrics))


def _outcome(error: BaseException) -> str:
    if isinstance(error, DirectoryUnavailableError):
        return "unavailable"
    return "failed" if isinstance(error, Exception) else "cancelled"
