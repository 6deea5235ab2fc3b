"""A large fleet as cells: a part of the replicas and a directory each, so that nothing has to know all of them.

What a directory, a decision and a gateway's view cost grows with the replicas that they cover. A cell bounds it, and
what fails with it (Brooker, Wheeler et al., "Workload isolation using shuffle-sharding", and "Reducing the scope of
impact with cell-based architecture", AWS, 2023).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache

from aloraserve.directory.base import Directory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.in_flight import InFlight
from aloraserve.routing.placement import Placement
from aloraserve.routing.rendezvous import conversation, weight
from aloraserve.routing.router import Proposal, Router

MAX_CELL_REPLICAS = 128
FOLLOW_S = 1.0


def cell_of(rank: int, cells: int) -> int:
    """Return the cell of the replica with that rank among the fleet's."""
    return rank % cells


def cell_namespace(namespace: str, cell: int, cells: int) -> str:
    """Return the namespace of a cell's directory; a fleet that is one cell has the fleet's.

    A setting's namespace has no point in it, so that no other fleet's is met.
    """
    return namespace if cells == 1 else f"{namespace}.{cell}"


class CellReplicas:
    """Which replicas belong to which cell, as the cells' directories last said. For one event loop.

    A replica that no directory named yet may belong to any cell; one that lost its lease stays where it was.

    Args:
        known_replicas: ids of the replicas that can be reached now.
        directories: of the cells, in order.
    """

    def __init__(self, known_replicas: Callable[[], Sequence[str]], directories: Sequence[Directory]) -> None:
        self._known_replicas = known_replicas
        self._directories = directories
        self._cells: dict[str, int] = {}
        self._noted: dict[int, Collection[str]] = {}

    def of(self, cell: int) -> list[str]:
        """Return the replicas that can be reached and may belong to ``cell``."""
        return [replica for replica in self._known_replicas() if self._cells.get(replica, cell) == cell]

    def note(self, cell: int, replicas: Collection[str]) -> None:
        """Take in which replicas a cell's directory names."""
        if not replicas or self._noted.get(cell) == replicas:
            return
        self._noted[cell] = set(replicas)
        known = {*self._known_replicas(), *replicas}
        self._cells = {replica: at for replica, at in self._cells.items() if replica in known}
        self._cells.update(dict.fromkeys(replicas, cell))

    async def follow(self) -> None:
        """Ask every cell's directory now and then, until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(FOLLOW_S)

    async def read(self) -> None:
        """Ask every cell's directory once; where one does not answer, what it last said goes on to count."""
        for cell, directory in enumerate(self._directories):
            with contextlib.suppress(DirectoryUnavailableError):
                self.note(cell, {state.replica for state in await directory.states()})


class CellRouter:
    """See :class:`~aloraserve.routing.router.CallRouter`: over one router a cell.

    An application's calls have a home: all that begin with the same block, which a tenant's salt is part of. So its
    system prompt and its documents lie in one cell. A call that would wait there longer than ``spill_s`` is offered to
    a second cell too, which the conversation names, and goes where its first token is expected sooner: a conversation
    that spilled is found where it is, by every gateway, and an application that is too large for its home spreads over
    all cells.

    Args:
        routers: of the cells, in order.
        replicas: which belong to which.
        names: of conversations, which the routers share.
        in_flight: the gateway's own calls, likewise.
        spill_s: expected TTFT at home up to which no other cell is asked.
    """

    def __init__(
        self,
        routers: Sequence[Router],
        replicas: CellReplicas,
        names: ConversationNames,
        in_flight: InFlight,
        *,
        spill_s: float,
    ) -> None:
        self._routers = routers
        self._names = names
        self._in_flight = in_flight
        self._replicas = replicas
        self._spill_s = spill_s
        self._turn = 0

    async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
        """See :meth:`~aloraserve.routing.router.Router.place`; the placement names its cell."""
        call = replace(call, conversation=self._names.name(call))
        home = self._home(call)
        chosen, proposal = home, await self._routers[home].propose(call, avoid)
        if self._may_spill(home, proposal):
            other = self._second(home, call)
            second = await self._routers[other].propose(call, avoid)
            if self._is_better(other, second, home, proposal):
                chosen, proposal = other, second
        placement = await self._routers[chosen].accept(call, proposal, claim_id, avoid=avoid)
        return replace(placement, cell=chosen, spilled=chosen != home)

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        """See :meth:`~aloraserve.routing.router.Router.move`."""
        return await self._routers[placement.cell].move(call, placement, replica, claim_id)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        """See :meth:`~aloraserve.routing.router.Router.withdraw`."""
        return await self._routers[placement.cell].withdraw(call, placement, claim_id)

    def answered(self, claim_id: str) -> None:
        """See :meth:`~aloraserve.routing.router.Router.answered`."""
        self._in_flight.first_token(claim_id)

    def ended(self, claim_id: str) -> None:
        """See :meth:`~aloraserve.routing.router.Router.ended`."""
        self._in_flight.end(claim_id)

    def _home(self, call: Call) -> int:
        if call.keys:
            return _by_weight(call.keys[0], len(self._routers), None)
        # Shorter than a block: there is nothing to find again.
        self._turn = (self._turn + 1) % len(self._routers)
        return self._turn

    def _second(self, home: int, call: Call) -> int:
        return _by_weight(conversation(call), len(self._routers), home)

    def _may_spill(self, home: int, proposal: Proposal) -> bool:
        placement = proposal.placement
        if not self._has_replica(home, proposal):
            return True
        # Without the directory no estimate says anything, and what the conversation left is at home.
        return placement.fallback is None and _expected_s(proposal) > self._spill_s

    def _has_replica(self, cell: int, proposal: Proposal) -> bool:
        return bool(proposal.placement.replica and self._replicas.of(cell))

    def _is_better(self, other: int, second: Proposal, home: int, first: Proposal) -> bool:
        has_replica = self._has_replica(other, second)
        if not has_replica or not self._has_replica(home, first):
            return has_replica
        return second.placement.fallback is None and _expected_s(second) < _expected_s(first)


def _expected_s(proposal: Proposal) -> float:
    placement = proposal.placement
    estimates = placement.decision.estimates
    return next(estimate.expected_ttft_s for estimate in estimates if estimate.replica == placement.replica)


@lru_cache(maxsize=16_384)
def _by_weight(name: bytes, cells: int, but: int | None) -> int:
    return min((cell for cell in range(cells) if cell != but), key=lambda cell: weight(name, str(cell)))
