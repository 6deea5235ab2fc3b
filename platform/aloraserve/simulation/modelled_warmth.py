"""What modelled replicas remember, compute before their first call and hand over: the live code, in simulated time.

What is hot, in which order, and on which replica it is computed come from :mod:`aloraserve.scaling.hot_prefixes` and
:mod:`aloraserve.scaling.handover`; around them is what engine replicas do with it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.fair_share import MAX_PRIORITY, TenantShare
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.scaling.handover import REST, HandOverPlan, parts
from aloraserve.scaling.hot_blocks import PrefixSource
from aloraserve.scaling.hot_prefixes import MAX_PEERS, MAX_SENT, MAX_SENT_TOKENS, HotPrefix, HotPrefixes, merged
from aloraserve.scaling.reuse_rates import ReuseRates
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.modelled_engine import ModelledRequest
from aloraserve.simulation.modelled_replica import ModelledReplica
from aloraserve.simulation.simulated_loop import SimulatedLoop

LEAVING = ReplicaState("leaving", "", is_leaving=True)
LAST = TenantShare(tenant_priority=MAX_PRIORITY)
"""Of a prefill that no client waits for."""


def is_copy(call: SimulatedCall) -> bool:
    """Return whether a call is there for its prefix alone."""
    return call.request < 0


class ReplicaMemory:
    """What one replica remembers of its calls.

    Args:
        loop: simulated time.
        block_tokens: tokens per block.

    Attributes:
        saved: what its cache has saved lately.
    """

    def __init__(self, loop: SimulatedLoop, block_tokens: int) -> None:
        self.saved = ReuseRates(clock=loop.time)
        self._block = block_tokens
        self._hot = HotPrefixes(block_tokens, clock=loop.time)

    def note(self, keys: Sequence[BlockKey], prefix: HotPrefix | None = None) -> None:
        """Remember a prompt, or what another replica had; its tokens do not matter here, and neither do tenants."""
        known = (None, 0.0) if prefix is None else (prefix.heat, prefix.age_s)
        deque(self._hot.note(range(len(keys) * self._block), keys, PrefixSource(), *known), maxlen=0)

    def hottest(self) -> list[HotPrefix]:
        """Return the hottest prefixes, as they would be sent to another replica."""
        return self._hot.hottest(MAX_SENT_TOKENS, MAX_SENT)

    def latest(self) -> Iterator[HotPrefix]:
        """Yield the prompts of the last calls, the latest first."""
        return self._hot.latest()

    def keys(self, prefix: HotPrefix) -> list[BlockKey]:
        """Return the block keys of one of them."""
        return self._hot.keys(prefix)


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a new replica has before its first call.

    Args:
        prefixes: their keys, and as another replica remembered them.
        seconds: that it took.
    """

    prefixes: Sequence[tuple[Sequence[BlockKey], HotPrefix]] = ()
    seconds: float = 0.0


def warm_start(
    peers: Sequence[tuple[int, ReplicaMemory]],
    prefill: PrefillModel,
    *,
    block_tokens: int,
    budget_s: float,
    max_tokens: int,
) -> WarmStart:
    """Return which of the fleet's prefixes a new replica computes, hottest first, until a bound is reached.

    Args:
        peers: how much each of the other replicas holds, and what it remembers.
        prefill: how long prefixes take.
        block_tokens: tokens per block.
        budget_s: for all of them.
        max_tokens: to be computed; the last prefix may go beyond.
    """
    asked = [memory for _, memory in sorted(peers, key=lambda peer: -peer[0])[:MAX_PEERS]]
    lists = [memory.hottest() for memory in asked]
    keys = {prefix.tip: memory.keys(prefix) for memory, found in zip(asked, lists, strict=True) for prefix in found}
    chosen: list[tuple[Sequence[BlockKey], HotPrefix]] = []
    taken: set[BlockKey] = set()
    spent_s, computed = 0.0, 0
    for prefix in merged(lists):
        chain = keys[prefix.tip]
        known = sum(1 for _ in itertools.takewhile(taken.__contains__, chain)) * block_tokens
        seconds = prefill.seconds(known, len(chain) * block_tokens)
        if computed >= max_tokens or spent_s + seconds > budget_s:
            break
        spent_s += seconds
        computed += len(chain) * block_tokens - known
        taken.update(chain)
        chosen.append((chain, prefix))
    return WarmStart(chosen, spent_s)


@dataclass(slots=True, eq=False)
class _Order:
    """Prefixes that one replica computes for one that leaves, one after the other."""

    home: ModelledReplica
    memory: ReplicaMemory
    life: int
    waiting: deque[tuple[Sequence[BlockKey], HotPrefix]] = field(default_factory=deque)
    running: ModelledRequest | None = None
    prefix: HotPrefix | None = None
    begun_s: float = 0.0
    on_end: Callable[[], None] = lambda: None


class HandOver:
    """Has others compute what a leaving replica alone holds, where that is worth it.

    Args:
        loop: simulated time.
        block_tokens: tokens per block.
    """

    def __init__(self, loop: SimulatedLoop, block_tokens: int) -> None:
        self._loop = loop
        self._block = block_tokens
        self._numbers = itertools.count(1)
        self._orders: dict[int, _Order] = {}

    def leave(
        self,
        leaving: ModelledReplica,
        memory: ReplicaMemory,
        others: Mapping[str, tuple[ModelledReplica, ReplicaMemory, ReplicaState]],
        *,
        budget_s: float,
        on_end: Callable[[], None],
    ) -> bool:
        """Give the others what they are to compute; return whether there is anything, which the replica waits for.

        Args:
            leaving: replica that goes.
            memory: of it.
            others: those that stay, by their ids.
            budget_s: what they have not computed then is given up.
            on_end: called once, when all is computed or given up.
        """
        plan, open_orders = HandOverPlan(LEAVING.replica, self._block), set[_Order]()
        fleet = [(leaving, LEAVING), *((replica, state) for replica, _, state in others.values())]
        for prefix in memory.latest():
            keys = memory.keys(prefix)
            plan.offer(prefix, keys, [self._candidate(replica, state, keys) for replica, state in fleet])
            if plan.is_full:
                break
        for home, prefixes in plan.homes.items():
            replica, to, _ = others[home]
            order = _Order(replica, to, replica.life)
            for prefix in prefixes:
                keys = memory.keys(prefix)
                ends = parts(len(keys), self._block, prefix.known_blocks)
                order.waiting.extend((keys[:end], prefix) for end in ends)
            open_orders.add(order)
        for order in list(open_orders):
            order.on_end = partial(self._ended, order, open_orders, on_end)
            self._next(order)
            self._loop.at(self._loop.now_s + budget_s, partial(self._give_up, order))
        return bool(open_orders)

    @staticmethod
    def _ended(order: _Order, open_orders: set[_Order], on_end: Callable[[], None]) -> None:
        if order in open_orders:
            open_orders.discard(order)
            if not open_orders:
                on_end()

    def ended(self, call: SimulatedCall) -> None:
        """Note that a part is there, and have its replica rest, then go on."""
        order = self._orders.pop(call.request)
        order.memory.note(call.keys, order.prefix)
        order.running = None
        now_s = self._loop.now_s
        self._loop.at(now_s + REST * (now_s - order.begun_s), partial(self._next, order))

    @staticmethod
    def _candidate(replica: ModelledReplica, state: ReplicaState, keys: Sequence[BlockKey]) -> Candidate:
        held = replica.engine.cache.match(keys)
        return Candidate(state, held, held)

    def _next(self, order: _Order) -> None:
        if order.waiting and self._is_there(order):
            keys, order.prefix = order.waiting.popleft()
            call = self._copy(keys)
            self._orders[call.request] = order
            order.begun_s = self._loop.now_s
            order.running = order.home.engine.submit(call)
        else:
            order.on_end()

    def _give_up(self, order: _Order) -> None:
        order.waiting.clear()
        if order.running is not None and self._is_there(order):
            order.home.engine.cancel(order.running)
        order.running = None
        order.on_end()

    @staticmethod
    def _is_there(order: _Order) -> bool:
        return order.home.life == order.life and not order.home.is_leaving

    def _copy(self, keys: Iterable[BlockKey]) -> SimulatedCall:
        chain = list(keys)

        def source() -> list[BlockKey]:
            return chain

        return SimulatedCall(
            request=-next(self._numbers),
            arrival_s=self._loop.now_s,
            session="",
            adapter=None,
            kind="base",
            prompt_tokens=len(chain) * self._block,
            output_tokens=1,
            block_tokens=self._block,
            key_source=source,
            content_source=source,
            salted_source=source,
            share=LAST,
        )
