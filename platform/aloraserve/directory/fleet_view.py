"""One client's knowledge of the fleet's replicas: it asks the server only for what changed since it last asked.

A lease counts while the server's clock says so, and no longer than its length on this process's own clock after its
last renewal was first seen: a server's clock that jumps (a fail-over to a machine whose clock is behind) lets no dead
replica live on. What has lapsed is remembered, so that the same record read again does not start a new life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.errors import DirectoryUnavailableError

_EXPIRY, _TTL, _VERSION, _WIDTH = slice(0, 13), slice(13, 22), slice(22, 38), slice(38, 41)
_CLAIM_WIDTH = 3
MAX_LAPSED = 4096
LATE_MS = 1000
"""A reply that is older than another by less than this came late; by more, the server's clock was set back."""


@dataclass(slots=True)
class KnownReplica:
    """A replica's record as last seen.

    Args:
        version: of the record.
        expiry_ms: the lease's end, on the server's clock.
        ends_at: its latest end, on this process's clock.
        plain: the candidate that it is for a prompt of which it has nothing.
        holder: the bytes that stand for it in the index.
        doubtful: the server may have an older record of it now, which then counts.
    """

    version: int
    expiry_ms: int
    ends_at: float
    plain: Candidate
    holder: bytes
    doubtful: bool = False

    @property
    def published(self) -> tuple[int, int]:
        """The part by which publications of the replica differ."""
        return self.version, self.expiry_ms


class FleetView:
    """Merges the replies of the server's ``states`` script; any number may be under way at once.

    Args:
        holder_of: gives a replica's and an incarnation's bytes in the index.
        clock: seconds that never go back.
    """

    def __init__(self, holder_of: Callable[[str, str], bytes], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.version = 0
        self._holder_of = holder_of
        self._clock = clock
        self._known: dict[bytes, KnownReplica] = {}
        self._order: list[KnownReplica] = []
        self._places: dict[bytes, int] = {}
        self._lapsed: dict[bytes, tuple[int, int]] = {}
        self._latest_ms = 0

    def live(self, reply: Sequence[Any]) -> list[KnownReplica]:
        """Return the replicas that are alive as of a reply, sorted by id.

        Args:
            reply: the server's time and version, names, their records, and open claims.

        Raises:
            DirectoryUnavailableError: a record cannot be read.
        """
        now_ms, version, names, records, _ = reply
        is_late = self._latest_ms - LATE_MS < now_ms < self._latest_ms
        if not is_late:
            self._latest_ms = now_ms
            if version < self.version:
                self._start_over()
        noted = [self._note(name, record) for name, record in zip(names, records, strict=True)]
        if any(noted):
            self._sort()
        now = self._clock()
        found = [known for known in self._order if known.expiry_ms > now_ms and known.ends_at > now]
        if len(found) < len(self._order):
            self._forget(now_ms, now)
        return found

    def holders(self) -> bytes:
        """Return the joined bytes of the replicas that the last reply and this process's clock say are alive."""
        now = self._clock()
        return b"".join(
            known.holder for known in self._order if known.expiry_ms > self._latest_ms and known.ends_at > now
        )

    def claims(self, reply: Sequence[Any]) -> dict[str, tuple[int, int]]:
        """Return the claimed tokens, and of how many claims they are, of each replica that has any."""
        rows = reply[-1]
        return {
            rows[start].decode(): (int(rows[start + 1]), int(rows[start + 2]))
            for start in range(0, len(rows), _CLAIM_WIDTH)
        }

    def _start_over(self) -> None:
        """Ask for everything next time: the server lost its latest records."""
        self.version = 0
        for known in self._known.values():
            known.doubtful = True

    def _note(self, name: bytes, record: bytes | None) -> bool:
        """Take in a record; return whether it is of a replica that has no place in the order."""
        if record is None:
            return False
        try:
            version, expiry_ms = int(record[_VERSION]), int(record[_EXPIRY])
            self.version = max(self.version, version)
            if not self._is_news(name, version, expiry_ms):
                return False
            start = _WIDTH.stop + int(record[_WIDTH])
            state = _state(record[start:])
            ends_at = self._clock() + int(record[_TTL]) / 1000
        except ValueError as error:
            raise DirectoryUnavailableError("a replica's record in the directory cannot be read") from error
        holder = self._holder_of(state.replica, state.incarnation)
        noted = KnownReplica(version, expiry_ms, ends_at, Candidate(state), holder)
        self._known[name] = noted
        place = self._places.get(name)
        if place is not None:
            self._order[place] = noted
        return place is None

    def _is_news(self, name: bytes, version: int, expiry_ms: int) -> bool:
        last = self._known.get(name)
        if last is None:
            return self._lapsed.get(name) != (version, expiry_ms)
        if last.published == (version, expiry_ms):
            last.doubtful = False
            return False
        return last.doubtful or last.version < version

    def _forget(self, now_ms: int, now: float) -> None:
        """Drop what has lapsed; a renewed record has another version and comes again."""
        for name, known in list(self._known.items()):
            if known.expiry_ms <= now_ms or known.ends_at <= now:
                del self._known[name]
                self._lapsed.pop(name, None)
                self._lapsed[name] = known.published
        for name in list(self._lapsed)[: max(0, len(self._lapsed) - MAX_LAPSED)]:
            del self._lapsed[name]
        self._sort()

    def _sort(self) -> None:
        by_id = sorted(self._known.items(), key=lambda item: item[1].plain.state.replica)
        self._order = [known for _, known in by_id]
        self._places = {name: place for place, (name, _) in enumerate(by_id)}


_STATE = TypeAdapter(ReplicaState)


def _state(data: bytes) -> ReplicaState:
    """Read a published state; a newer version's fields are passed over, so versions can mix."""
    try:
        return _STATE.validate_json(data)
    except ValidationError:
        # Its text would quote the record.
        raise DirectoryUnavailableError("a replica's state in the directory cannot be read") from None
