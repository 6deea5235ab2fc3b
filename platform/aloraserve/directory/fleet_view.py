"""One client's knowledge of the fleet's replicas: it asks the server only for what changed since it last asked.

A lease counts while the server's clock says so, and no longer than its length on this process's own clock after its
last renewal was first seen: a server's clock that jumps (a fail-over to a machine whose clock is behind) lets no dead
replica live on. What has lapsed is remembered, so that the same record read again does not start a new life.

A record that cannot be read is passed over and counted: it takes its replica out, nobody else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter

from aloraserve.directory.base import ReplicaState

_EXPIRY, _TTL, _VERSION, _WIDTH = slice(0, 13), slice(13, 22), slice(22, 38), slice(38, 41)
MAX_LAPSED = 4096
LOG_EVERY_S = 60.0
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class KnownReplica:
    """A replica's record as last seen.

    Args:
        version: of the record.
        expiry_ms: the lease's end, on the server's clock.
        ends_at: its latest end, on this process's clock.
        state: what the replica published.
        holder: the bytes that stand for it in the index.
        doubtful: the server may have an older record of it now, which then counts.
    """

    version: int
    expiry_ms: int
    ends_at: float
    state: ReplicaState
    holder: bytes
    doubtful: bool = False

    @property
    def published(self) -> tuple[int, int]:
        """The part by which publications of the replica differ."""
        return self.version, self.expiry_ms


class FleetView:
    """Takes in pages of the server's records, one after the other.

    Args:
        holder_of: gives a replica's and an incarnation's bytes in the index.
        on_unreadable: called for each record that cannot be read.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        holder_of: Callable[[str, str], bytes],
        *,
        on_unreadable: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = 0
        self._on_unreadable = on_unreadable
        self._holder_of = holder_of
        self._clock = clock
        self._known: dict[bytes, KnownReplica] = {}
        self._order: list[KnownReplica] = []
        self._places: dict[bytes, int] = {}
        self._is_sorted = True
        self._lapsed: dict[bytes, tuple[int, int]] = {}
        self._server_ms = 0
        self._server_at = 0.0
        self._next_lapse = math.inf
        self._logged_at = -math.inf

    def take(
        self, now_ms: int, latest: int, through: int, names: Sequence[bytes], records: Sequence[bytes | None]
    ) -> list[KnownReplica]:
        """Take in a page; return the replicas whose records are new.

        Args:
            now_ms: the server's clock.
            latest: the version of its latest record.
            through: the version up to which the page goes.
            names: of replicas that published since :attr:`version`.
            records: theirs.
        """
        self._server_ms, self._server_at = now_ms, self._clock()
        if latest < self.version:
            # The server lost its latest records, so it gave those from the first on.
            for known in self._known.values():
                known.doubtful = True
        self.version = through
        found = [self._note(name, record) for name, record in zip(names, records, strict=True)]
        # To be worked out when it is asked for: a view of thousands comes in many pages.
        self._next_lapse = -math.inf
        return [noted for noted in found if noted is not None]

    def live(self) -> list[KnownReplica]:
        """Return the replicas that are alive now, sorted by id: the same list until one joins or leaves."""
        now = self._clock()
        if now >= self._next_lapse:
            self._next_lapse = min(map(self._end_of, self._known.values()), default=math.inf)
            if self._next_lapse <= now:
                self._forget(now)
            if not self._is_sorted:
                self._sort()
        return self._order

    def _end_of(self, known: KnownReplica) -> float:
        return min(known.ends_at, self._server_at + (known.expiry_ms - self._server_ms) / 1000)

    def _note(self, name: bytes, record: bytes | None) -> KnownReplica | None:
        """Take in a record; return what is new of it."""
        if record is None:
            return None
        try:
            version, expiry_ms = int(record[_VERSION]), int(record[_EXPIRY])
            if not self._is_news(name, version, expiry_ms):
                return None
            start = _WIDTH.stop + int(record[_WIDTH])
            state = _STATE.validate_json(record[start:])
            ends_at = self._clock() + int(record[_TTL]) / 1000
        except ValueError:
            self._pass_over(name)
            return None
        noted = KnownReplica(version, expiry_ms, ends_at, state, self._holder_of(state.replica, state.incarnation))
        self._known[name] = noted
        place = self._places.get(name)
        if place is None:
            self._is_sorted = False
        else:
            self._order[place] = noted
        return noted

    def _pass_over(self, name: bytes) -> None:
        """Count a record that cannot be read. Its content, and what the reader says of it, are not for logs."""
        self._on_unreadable()
        if self._clock() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = self._clock()
            log.warning("directory_record_unreadable", replica=name.decode(errors="replace")[:80])

    def _is_news(self, name: bytes, version: int, expiry_ms: int) -> bool:
        last = self._known.get(name)
        if last is None:
            return self._lapsed.get(name) != (version, expiry_ms)
        if last.published == (version, expiry_ms):
            last.doubtful = False
            return False
        return last.doubtful or last.version < version

    def _forget(self, now: float) -> None:
        """Drop what has lapsed; a renewed record has another version and comes again."""
        for name, known in [item for item in self._known.items() if self._end_of(item[1]) <= now]:
            del self._known[name]
            self._lapsed.pop(name, None)
            self._lapsed[name] = known.published
        for name in list(self._lapsed)[: max(0, len(self._lapsed) - MAX_LAPSED)]:
            del self._lapsed[name]
        self._is_sorted = False
        self._next_lapse = min(map(self._end_of, self._known.values()), default=math.inf)

    def _sort(self) -> None:
        by_id = sorted(self._known.items(), key=lambda item: item[1].state.replica)
        self._order = [known for _, known in by_id]
        self._places = {name: place for place, (name, _) in enumerate(by_id)}
        self._is_sorted = True


_STATE = TypeAdapter(ReplicaState)
