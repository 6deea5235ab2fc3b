"""A gateway's own calls that have not ended, by replica: exact and current, whatever the directory says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_CALLS = 1 << 16


class OwnLoad(NamedTuple):
    """Calls of one gateway on one replica.

    Args:
        calls: that have not ended.
        tokens: to prefill, of those without a first token.
    """

    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Call:
    replica: str
    tokens: int
    begun_at: float


class InFlight:
    """Counts calls from the decision to their end. For one event loop.

    Every call has to end; of more than ``MAX_CALLS`` the oldest is forgotten. An event of a call that is not known
    (any more) does nothing.
    """

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._loads: dict[str, OwnLoad] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def load(self, replica: str) -> OwnLoad:
        """Return what a replica has of this gateway."""
        return self._loads.get(replica, OwnLoad())

    def begun_since(self, at: float) -> Mapping[str, OwnLoad]:
        """Return what replicas have of the calls that began after ``at``, on the clock of :meth:`begin`."""
        loads: dict[str, OwnLoad] = {}
        for call in reversed(self._calls.values()):
            if call.begun_at <= at:
                break
            load = loads.get(call.replica, OwnLoad())
            loads[call.replica] = OwnLoad(load.calls + 1, load.tokens + call.tokens)
        return loads

    def begin(self, call_id: str, replica: str, tokens: int, now: float) -> None:
        """Count a call.

        Args:
            call_id: of one attempt.
            replica: who is to get it.
            tokens: to prefill for it, as far as is known.
            now: on a clock that never goes back.
        """
        self.end(call_id)
        if len(self._calls) >= MAX_CALLS:
            self.end(next(iter(self._calls)))
        self._calls[call_id] = _Call(replica, tokens, now)
        self._add(replica, 1, tokens)

    def move(self, call_id: str, replica: str) -> None:
        """Count a call for another replica, which took it."""
        call = self._calls.get(call_id)
        if call is not None:
            self._add(call.replica, -1, -call.tokens)
            call.replica = replica
            self._add(replica, 1, call.tokens)

    def first_token(self, call_id: str) -> None:
        """Note that a call's prefill is over."""
        call = self._calls.get(call_id)
        if call is not None:
            self._add(call.replica, 0, -call.tokens)
            call.tokens = 0

    def end(self, call_id: str) -> None:
        """Count a call no more."""
        call = self._calls.pop(call_id, None)
        if call is not None:
            self._add(call.replica, -1, -call.tokens)

    def _add(self, replica: str, calls: int, tokens: int) -> None:
        load = self._loads.pop(replica, OwnLoad())
        if load.calls + calls:
            self._loads[replica] = OwnLoad(load.calls + calls, load.tokens + tokens)
