"""A gateway's own view of the fleet: its replicas, the tokens claimed for them, the blocks that they are about to have.

The server's ``changes`` and ``claim`` scripts feed it; lookups join it with what they find in the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate
from aloraserve.directory.claimed_blocks import ClaimedBlocks
from aloraserve.directory.fleet_view import FleetView, KnownReplica
from aloraserve.directory.redis_encoding import read_claim, read_totals

_NO_OVERLAP = (0, 0)
MAX_FORMER_TOTALS = 1024


class Totals(NamedTuple):
    """Tokens of a replica's open claims, and how many claims they are, as of a version."""

    version: int = 0
    tokens: int = 0
    claims: int = 0


class Cursors(NamedTuple):
    """How far a view has read: records and totals by version, claims by stream entry."""

    records: int
    totals: int
    claims: str


@dataclass(slots=True)
class _UnderWay:
    replica: str
    tokens: int
    is_shown: bool = False


class DirectoryView:
    """Takes in replies as they come; see the module's docstring.

    A claim counts from the first reply that shows it. Totals carry versions and claims names, so replies may overlap
    and nothing counts twice. A claim of this process that is under way is its caller's to count until :meth:`end`.

    Args:
        holder_of: gives a replica's and an incarnation's bytes in the index.
        on_unreadable: called for each record or claim that cannot be read.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        holder_of: Callable[[str, str], bytes],
        *,
        on_unreadable: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = FleetView(holder_of, on_unreadable=on_unreadable, clock=clock)
        self._on_unreadable = on_unreadable
        self._clock = clock
        self._blocks: ClaimedBlocks[bytes] = ClaimedBlocks()
        self._under_way: dict[bytes, _UnderWay] = {}
        self._totals: dict[str, Totals] = {}
        self._leaving: frozenset[str] = frozenset()
        self._totals_version = 0
        self._cursor = (0, 0)
        self._order: list[KnownReplica] = []
        self._plain: list[Candidate] = []
        self._places: dict[str, int] = {}
        self._holders: list[bytes] = []
        self._by_holder: dict[bytes, int] = {}

    @property
    def cursors(self) -> Cursors:
        """Where the next replies are to go on; no entry where claims are to be read from the first that may live on."""
        claims = f"{self._cursor[0]}-{self._cursor[1]}" if any(self._cursor) else ""
        return Cursors(self._fleet.version, self._totals_version, claims)

    @property
    def holders(self) -> KeysView[bytes]:
        """What stands for the live replicas in the index."""
        return self._by_holder.keys()

    def take(self, reply: Sequence[Any], page: int) -> bool:
        """Take in a reply of ``changes``; return whether there is more to ask for.

        Args:
            reply: of the script.
            page: the most records, totals and entries in it, each.
        """
        now_ms, latest, records, totals, entries, leaving = reply
        if latest < max(self._fleet.version, self._totals_version):
            self._start_over()
        for known in self._fleet.take(now_ms, latest, *records):
            self._refresh(known.state.replica)
        self._note_leaving(frozenset(name.decode(errors="replace") for name in leaving))
        self._totals_version = totals[0]
        for name, content in zip(totals[1], totals[2], strict=True):
            try:
                self._note_totals(name.decode(), *read_totals(content))
            except ValueError:
                self._on_unreadable()
        self._take_entries(now_ms, entries)
        self._move_on(entries)
        return max(len(records[1]), len(totals[1]), len(entries)) >= page

    def begin(self, name: bytes, replica: str, tokens: int) -> None:
        """Note that a claim of this process is on its way."""
        self._under_way[name] = _UnderWay(replica, tokens)

    def end(self, name: bytes, reply: Sequence[Any] | None) -> bool:
        """Take in what became of that claim; return whether it is recorded.

        Args:
            name: of the claim.
            reply: of the ``claim`` script, None if there is none.
        """
        under_way = self._under_way.pop(name, None)
        if under_way is not None and under_way.is_shown:
            self._refresh(under_way.replica)
        if reply is None:
            return False
        is_recorded, now_ms, entries, decisive = reply
        self._take_entries(now_ms, [*entries, *decisive])
        self._move_on(entries)
        return bool(is_recorded)

    def withdraw(self, name: bytes) -> None:
        """Forget the blocks of a claim of this process; what its tokens come to is for a reply to say."""
        self._blocks.remove(name)

    def live(self) -> list[Candidate]:
        """Return the live replicas, sorted by id, as candidates for a prompt of which they have nothing."""
        order = self._fleet.live()
        if order is not self._order:
            self._order = order
            self._places = {known.state.replica: place for place, known in enumerate(order)}
            self._holders = [known.holder for known in order]
            self._by_holder = {holder: place for place, holder in enumerate(self._holders)}
            self._plain = [self._candidate(known) for known in order]
            if len(self._totals) > len(order) + MAX_FORMER_TOTALS:
                self._totals = {name: totals for name, totals in self._totals.items() if name in self._places}
        return self._plain

    def candidates(self, keys: Sequence[BlockKey], held: Mapping[bytes, tuple[int, int]]) -> list[Candidate]:
        """Return the live replicas as candidates for a prompt.

        Args:
            keys: of the prompt.
            held: how many of its leading blocks each holder has in the fast tier, and in any.
        """
        found = self.live().copy()
        self._blocks.expire(self._clock())
        claimed = self._blocks.overlaps(keys)
        for holder in held.keys() | claimed.keys():
            place = self._by_holder.get(holder)
            if place is not None:
                plain = found[place]
                fast, blocks = held.get(holder, _NO_OVERLAP)
                about = max(blocks, claimed.get(holder, 0))
                found[place] = Candidate(plain.state, blocks, about, plain.claimed_tokens, fast, plain.claims)
        return found

    def _start_over(self) -> None:
        """Believe whatever the server says now: it lost its latest versions."""
        self._totals = {name: totals._replace(version=0) for name, totals in self._totals.items()}
        self._cursor = (0, 0)

    def _note_leaving(self, leaving: frozenset[str]) -> None:
        changed = leaving ^ self._leaving
        self._leaving = leaving
        for replica in changed:
            self._refresh(replica)

    def _candidate(self, known: KnownReplica) -> Candidate:
        state, totals = known.state, self._totals.get(known.state.replica)
        is_leaving = state.replica in self._leaving
        if state.is_leaving != is_leaving:
            state = replace(state, is_leaving=is_leaving)
        if totals is None:
            return Candidate(state)
        shown = [
            claim.tokens
            for claim in self._under_way.values()
            if claim.is_shown and claim.replica == known.state.replica
        ]
        return Candidate(
            state, claimed_tokens=max(0, totals.tokens - sum(shown)), claims=max(0, totals.claims - len(shown))
        )

    def _refresh(self, replica: str) -> None:
        """Make a replica's candidate again; a replica without a place gets one when it is next asked who is alive."""
        place = self._places.get(replica)
        if place is None or self._fleet.live() is not self._order:
            return
        known = self._order[place]
        if self._holders[place] != known.holder:
            del self._by_holder[self._holders[place]]
            self._holders[place] = known.holder
            self._by_holder[known.holder] = place
        self._plain[place] = self._candidate(known)

    def _note_totals(self, replica: str, version: int, tokens: int, claims: int) -> None:
        known = self._totals.get(replica)
        if known is None or version > known.version:
            self._totals[replica] = Totals(version, tokens, claims)
            self._refresh(replica)

    def _take_entries(self, now_ms: int, entries: Sequence[Any]) -> None:
        for _, fields in entries:
            try:
                claim = read_claim(fields)
            except (ValueError, KeyError):
                self._on_unreadable()
                continue
            under_way = self._under_way.get(claim.name)
            if under_way is not None:
                under_way.is_shown = True
            left_s = (claim.ends_ms - now_ms) / 1000
            if claim.is_withdrawn:
                self._blocks.remove(claim.name)
            elif left_s > 0:
                self._blocks.add(claim.name, claim.holder, claim.marks, self._clock() + left_s)
            self._note_totals(claim.replica, *claim.totals)

    def _move_on(self, entries: Sequence[Any]) -> None:
        if entries:
            milliseconds, _, number = entries[-1][0].partition(b"-")
            self._cursor = max(self._cursor, (int(milliseconds), int(number)))
