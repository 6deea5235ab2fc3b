"""What an engine has to do: the load that a replica publishes and the rate at which it prefills."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aloraserve.directory.base import ReplicaLoad

MIN_MEASURED_TOKENS = 64
REMEMBERED = 9
"""Prefills that the rate is the median of: one that something else on the machine slowed down decides nothing."""


@dataclass(slots=True)
class _Running:
    uncached_tokens: int
    accepted_at: float
    alone: bool
    prefilled: bool = False


class Progress:
    """Counts requests from acceptance to their end, and learns the prefill rate from those that ran alone.

    Args:
        max_requests: how many the engine runs at once.
        clock: monotonic seconds.
    """

    def __init__(self, max_requests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_requests = max_requests
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._rates: deque[float] = deque(maxlen=REMEMBERED)

    def accept(self, request_id: str, uncached_tokens: int) -> None:
        """Note a request with ``uncached_tokens`` to prefill."""
        for other in self._running.values():
            other.alone = False
        self._running[request_id] = _Running(uncached_tokens, self._clock(), alone=not self._running)

    def first_token(self, request_id: str, cached_tokens: int, prompt_tokens: int) -> None:
        """Note that a request's prefill is done, of which the engine had ``cached_tokens``."""
        running = self._running.get(request_id)
        if running is None or running.prefilled:
            return
        running.prefilled = True
        prefilled = prompt_tokens - cached_tokens
        if running.alone and prefilled >= MIN_MEASURED_TOKENS:
            self._rates.append(prefilled / max(self._clock() - running.accepted_at, 1e-6))

    def end(self, request_id: str) -> None:
        """Note that a request ended, however it did."""
        self._running.pop(request_id, None)

    def load(self, kv_usage: float) -> ReplicaLoad:
        """Return the load to publish; ``kv_usage`` is the engine's own share, 0 to 1."""
        waiting = [running for running in self._running.values() if not running.prefilled]
        running = len(self._running) - len(waiting)
        return ReplicaLoad(
            running=running,
            waiting=len(waiting),
            queued_prefill_tokens=sum(one.uncached_tokens for one in waiting),
            kv_usage=kv_usage,
            prefill_tokens_per_s=statistics.median(self._rates) if self._rates else 0.0,
            max_requests=self._max_requests,
        )
