"""Warmth that goes from replica to replica: to a new one before its first call, and from one that leaves.

All of it is advisory. What fails, or takes too long, makes a cold start, or a few misses.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from aloraserve.directory.base import Directory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.scaling.due_adapters import due_adapters
from aloraserve.scaling.handover import ANSWER_S, HAND_OVER_S, HandOverPlan
from aloraserve.scaling.hot_prefixes import MAX_PEERS, merged
from aloraserve.scaling.packed_prefixes import pack, unpack
from aloraserve_services.engine.warmth import Warmth

LOOKED_UP_AT_ONCE = 32
"""Prefixes that are made on a thread at a time."""
ASK_S = 3.0
"""How long they may take to answer."""

log = structlog.get_logger(__name__)


async def adapters_in_use(directory: Directory) -> list[str]:
    """Return the keys of the adapter versions that most of a fleet's replicas use now, these first."""
    try:
        return due_adapters(await directory.states())
    except DirectoryUnavailableError:
        return []


class Peers(Protocol):
    """The fleet's other replicas, as one of them reaches them. Errors are the transport's own."""

    async def hottest(self, replica: str) -> bytes:
        """Return a replica's hottest prefixes, packed."""
        ...

    async def prefill(self, replica: str, prefixes: bytes, budget_s: float) -> int:
        """Have a replica compute packed prefixes, as many as it can within so many seconds; return how many it has."""
        ...

    async def stay(self) -> bool:
        """Return whether replicas other than this one stay: not where the whole application ends."""
        ...


class FleetWarmth:
    """One replica's part in it.

    Args:
        replica: its id.
        directory: of its cell.
        warmth: what it has.
        peers: the others.
        max_tokens: to be computed here for one of them, or before the first call.
    """

    def __init__(self, replica: str, directory: Directory, warmth: Warmth, peers: Peers, max_tokens: int) -> None:
        self._replica = replica
        self._directory = directory
        self._warmth = warmth
        self._peers = peers
        self._max_tokens = max_tokens

    async def arrive(self, budget_s: float) -> None:
        """Compute the fleet's hottest prefixes here.

        Args:
            budget_s: for all of it.
        """
        begun_at = time.monotonic()
        await self._tried("not_warmed", self._arrive(begun_at + budget_s))

    async def leave(self, within_s: float = HAND_OVER_S) -> None:
        """Have others compute the latest prompts that this replica alone holds, where that is worth it.

        Args:
            within_s: seconds that it may take, at most ``HAND_OVER_S``.
        """
        await self._tried("not_handed_over", self._leave(min(within_s, HAND_OVER_S)))

    async def hottest(self) -> bytes:
        """Return this replica's hottest prefixes, packed, for another one that asks."""
        return await asyncio.to_thread(pack, await self._warmth.hottest())

    async def prefill(self, prefixes: bytes, budget_s: float) -> int:
        """Compute prefixes that a replica which leaves had; return how many of them are there.

        Args:
            prefixes: packed.
            budget_s: for all of them.

        Raises:
            ValueError: they are not what was packed.
        """
        done = await self._warmth.prefill(unpack(prefixes), min(budget_s, HAND_OVER_S), self._max_tokens, in_parts=True)
        return done.prefixes

    async def _arrive(self, until: float) -> None:
        asked = await self._others()
        if not asked:
            return
        ask_s = min(ASK_S, until - time.monotonic())
        answers = await self._within(ask_s, self._peers.hottest, [(peer,) for peer in asked])
        prefixes = merged(unpack(answer) for answer in answers)
        done = await self._warmth.prefill(prefixes, until - time.monotonic(), self._max_tokens)
        log.info("warmed", peers=len(answers), known=len(prefixes), **done._asdict())

    async def _others(self) -> list[str]:
        states = [state for state in await self._directory.states() if state.replica != self._replica]
        states.sort(key=lambda state: -state.held_blocks)
        return [state.replica for state in states[:MAX_PEERS]]

    async def _leave(self, within_s: float) -> None:
        if not await self._others():
            return
        begun_at = time.monotonic()
        async with asyncio.timeout(within_s):
            if await self._peers.stay():
                await self._hand_over(begun_at + within_s / 2, begun_at + within_s - ANSWER_S)

    async def _hand_over(self, planned_by: float, until: float) -> None:
        plan = await self._plan(planned_by)
        budget_s = until - time.monotonic()
        orders = [(home, await asyncio.to_thread(pack, handed), budget_s) for home, handed in plan.homes.items()]
        done = await self._within(HAND_OVER_S, self._peers.prefill, orders)
        log.info("handed_over", prefixes=sum(map(len, plan.homes.values())), replicas=len(orders), done=sum(done))

    async def _plan(self, until: float) -> HandOverPlan:
        """Return what others are to compute, as far as it is looked up by a time."""
        plan = HandOverPlan(self._replica, self._warmth.block_tokens)
        prefixes = await asyncio.to_thread(self._warmth.latest)
        while some := await asyncio.to_thread(list, itertools.islice(prefixes, LOOKED_UP_AT_ONCE)):
            for prefix in some:
                keys = self._warmth.keys(prefix)
                plan.offer(prefix, keys, await self._directory.lookup(keys) if keys else ())
                if plan.is_full or time.monotonic() > until:
                    return plan
        return plan

    async def _within(
        self, seconds: float, ask: Callable[..., Awaitable[Any]], calls: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Return the answers of those that answer in time."""

        async def one(arguments: tuple[Any, ...]) -> Any:
            async with asyncio.timeout(seconds):
                return await ask(*arguments)

        answers = await asyncio.gather(*map(one, calls), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, Exception):
                log.info("peer_not_reached", cause=type(answer).__name__)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _tried(self, failure: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever it is, the replica serves without
            log.warning(failure, replica=self._replica, cause=type(error).__name__)
