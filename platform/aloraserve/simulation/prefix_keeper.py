"""Live prefixes of a replica that leaves, computed again on those that stay, before they are missed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.hot_prefixes import RecentPrompt
from aloraserve.simulation.modelled_replica import ModelledReplica
from aloraserve.simulation.simulated_loop import SimulatedLoop

PART_BLOCKS = 32
"""Of a prefix, that are computed at once: calls wait no longer than for those."""
REST = 1.0
"""Times what a part takes: so long a replica computes its own calls alone before the next one."""


def is_copy(call: SimulatedCall) -> bool:
    """Return whether a call is there for its prefix alone."""
    return call.request < 0


class PrefixKeeper:
    """Has each replica that stays compute a part of a prefix at a time: its own calls wait for no more than that.

    Args:
        loop: simulated time.
        prefill: how long prefixes take.
        block_tokens: tokens per block.
    """

    def __init__(self, loop: SimulatedLoop, prefill: PrefillModel, block_tokens: int) -> None:
        self._loop = loop
        self._prefill = prefill
        self._block = block_tokens
        self._numbers = itertools.count(1)
        self._waiting: dict[int, deque[tuple[Sequence[BlockKey], float]]] = {}
        self._computing: set[int] = set()
        self._seconds: dict[int, float] = {}

    def leave(
        self,
        replica: ModelledReplica,
        prompts: Iterable[RecentPrompt],
        others: Sequence[ModelledReplica],
        *,
        budget_s: float,
    ) -> None:
        """Have others compute what only a leaving replica has of its last prompts, the latest first.

        Args:
            replica: who leaves.
            prompts: that it had lately.
            others: who stay.
            budget_s: seconds of prefill at most.
        """
        self._waiting.pop(replica.view.index, None)
        self._computing.discard(replica.view.index)
        for prompt in sorted(prompts, key=lambda prompt: -prompt.time_s) if others else ():
            held = replica.engine.cache.match(prompt.keys)
            matches = [(other.engine.cache.match(prompt.keys), -other.view.in_flight, other) for other in others]
            match, _, taker = max(matches, key=lambda found: found[:2])
            seconds = self._prefill.seconds(match * self._block, held * self._block)
            if 0 < seconds <= budget_s:
                budget_s -= seconds
                self._waiting.setdefault(taker.view.index, deque()).extend(self._parts(prompt.keys[:held], match))
        for taker in others:
            self._next(taker)

    def ended(self, replica: ModelledReplica) -> None:
        """Have a replica that has computed a prefix rest, then go on."""
        life, rest_s = replica.life, REST * self._seconds.pop(replica.view.index, 0.0)
        self._loop.at(self._loop.now_s + rest_s, lambda: self._go_on(replica, life))

    def _go_on(self, replica: ModelledReplica, life: int) -> None:
        if replica.life == life:
            self._computing.discard(replica.view.index)
            self._next(replica)

    def _next(self, replica: ModelledReplica) -> None:
        place = replica.view.index
        waiting = self._waiting.get(place)
        if waiting and place not in self._computing and not replica.is_leaving:
            self._computing.add(place)
            chain, self._seconds[place] = waiting.popleft()
            replica.engine.submit(self._copy(chain))

    def _parts(self, chain: Sequence[BlockKey], known: int) -> Iterator[tuple[Sequence[BlockKey], float]]:
        """Yield prefixes, each a part longer than the one before, and how long each part takes."""
        for start in range(known, len(chain), PART_BLOCKS):
            end = min(start + PART_BLOCKS, len(chain))
            yield chain[:end], self._prefill.seconds(start * self._block, end * self._block)

    def _copy(self, chain: Sequence[BlockKey]) -> SimulatedCall:
        def keys() -> list[BlockKey]:
            return list(chain)

        return SimulatedCall(
            request=-next(self._numbers),
            arrival_s=self._loop.now_s,
            session="",
            adapter=None,
            kind="base",
            prompt_tokens=len(chain) * self._block,
            output_tokens=1,
            block_tokens=self._block,
            key_source=keys,
            content_source=keys,
            salted_source=keys,
        )
