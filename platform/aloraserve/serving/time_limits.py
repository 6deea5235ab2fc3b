"""How long calls may take, and what ends one that takes longer: one timer per answer, none per chunk."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from aloraserve.errors import DeadlineError, InvalidRequestError
from aloraserve.serving.request import Origin

TIMEOUT_HEADER = "x-request-timeout-s"
MAX_ASKED_S = 86_400.0
NO_REPLICA_S = 5.0
"""How long a call waits for a replica where none is known, and none is expected."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


def asked_seconds(header: str | None) -> float | None:
    """Return the seconds within which a request asks to have its answer, None without the header.

    Args:
        header: the request's ``x-request-timeout-s``.

    Raises:
        InvalidRequestError: it is not a number of seconds that is accepted.
    """
    if header is None:
        return None
    seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
    if not 0 < seconds <= MAX_ASKED_S:
        raise InvalidRequestError(
            f"the header {TIMEOUT_HEADER!r} is {header[:40]!r}; seconds above 0 and up to {MAX_ASKED_S:g} are accepted"
        )
    return seconds


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits that hold for every call.

    Args:
        call_s: from a request's arrival to its answer's end; a request may ask for less.
        chunk_s: between two chunks of an answer.
        hold_s: for a first replica while there is none.
    """

    call_s: float = math.inf
    chunk_s: float = math.inf
    hold_s: float = NO_REPLICA_S

    def deadline(self, origin: Origin) -> float:
        """Return when a request's answers have to have ended, on ``time.perf_counter``'s clock."""
        asked = math.inf if origin.deadline is None else origin.deadline
        return min(asked, origin.arrived_at + self.call_s)


def deadline_error(origin: Origin, deadline: float) -> DeadlineError:
    """Return the error of a request whose answer had not ended by its deadline."""
    return DeadlineError(f"the answer was not complete within {deadline - origin.arrived_at:.3g} s of the request")


class AnswerTimer:
    """Ends an answer whose time is over, whoever reads it and whether somebody reads it at all.

    While its reader waits for a chunk the silence is counted; a client that is slow to read is not the replica's fault.

    Args:
        deadline: see :meth:`TimeLimits.deadline`.
        chunk_s: how long the replica may be silent.
        on_end: called with whether the deadline has passed, else it was silent; returns the reader's error.
    """

    def __init__(self, deadline: float, chunk_s: float, on_end: Callable[[bool], Exception]) -> None:
        self._deadline = deadline
        self._chunk_s = chunk_s
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Task[object] | None = None
        self._waits_since = math.inf
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._arm(time.perf_counter())

    def wait(self) -> None:
        """Note that the current task waits for a chunk from now on; raise if the time is over."""
        if self._error is not None:
            raise self._error
        self._waits_since = time.perf_counter()
        self._reader = asyncio.current_task()

    def arrived(self) -> None:
        """Note that the chunk is there."""
        self._reader = None

    def meaning(self, error: asyncio.CancelledError) -> BaseException:
        """Return what a reader's cancellation means: that the time was over, or that somebody else cancelled it."""
        reader, self._reader = self._reader, None
        if self._error is None or reader is None or reader.uncancel() > 0:
            return error
        return self._error

    def stop(self) -> None:
        """End nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, now: float) -> None:
        """Look again at the first moment at which the time may be over."""
        silent_since = now if self._reader is None else self._waits_since
        due = min(self._deadline, silent_since + self._chunk_s)
        if due < math.inf:
            self._timer = self._loop.call_later(max(0.0, due - now), self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        if now >= self._deadline:
            self._end(is_late=True)
        elif self._reader is not None and now - self._waits_since >= self._chunk_s:
            self._end(is_late=False)
        else:
            self._arm(now)

    def _end(self, *, is_late: bool) -> None:
        self._error = self._on_end(is_late)
        if self._reader is not None:
            self._reader.cancel()
