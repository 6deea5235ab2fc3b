"""The replicas that are to be stopped, as a gateway's lookups last showed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from aloraserve.directory.base import LEASE_TTL_S, Candidate

OfReplicaT = TypeVar("OfReplicaT")


class LeavingReplicas:
    """Keeps new calls away from replicas that are marked in the directory; what runs there goes on.

    The routers of a gateway note what they look up, and its pool asks. A mark that no lookup has shown for as long as a
    lease lives is forgotten: without the directory Serve's list of replicas is all that counts.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def note(self, found: Sequence[Candidate]) -> None:
        """Take in what a lookup found."""
        marked = [candidate.state.replica for candidate in found if candidate.state.is_leaving]
        if not marked and not self._until:
            return
        now = self._clock()
        shown = {candidate.state.replica for candidate in found}
        kept = {replica: until for replica, until in self._until.items() if replica not in shown and until > now}
        self._until = kept | dict.fromkeys(marked, now + LEASE_TTL_S)

    def without(self, replicas: Mapping[str, OfReplicaT]) -> Mapping[str, OfReplicaT]:
        """Return what is there of the replicas that stay; of all where none does, since no call is to fail for that."""
        if not self._until:
            return replicas
        now = self._clock()
        staying = {name: item for name, item in replicas.items() if self._until.get(name, now) <= now}
        return staying or replicas
