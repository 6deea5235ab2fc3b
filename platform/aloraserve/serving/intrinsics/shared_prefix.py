"""One prefix of several calls: the first to need it computes it, the others begin once it is on a replica.

With a prefix that a replica holds already nobody waits. Where each call goes is the router's decision, call by call: a
holding or a claim draws the others, and a queue that costs more than the prefill sends them elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.routing.placement import Placement
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest


class SharedPrefix:
    """Blocks that several calls begin with. For one event loop.

    Args:
        first: keys of the call that it was made for.
    """

    def __init__(self, first: Sequence[BlockKey]) -> None:
        self._keys = first
        self._held = 0
        self._is_led = False
        self._changed = asyncio.Event()

    def common_with(self, keys: Sequence[BlockKey]) -> int:
        """Return how many blocks a call has in common with the first one.

        Keys are chained: where one is equal all before it are, so that a long prompt takes few comparisons.
        """
        least, most = 0, min(len(self._keys), len(keys))
        while least < most:
            middle = (least + most + 1) // 2
            if self._keys[middle - 1] == keys[middle - 1]:
                least = middle
            else:
                most = middle - 1
        return least

    def hold(self, blocks: int) -> None:
        """Note that a replica has the prefix's first ``blocks`` blocks."""
        if blocks > self._held:
            self._held = blocks
            self._wake()

    @contextlib.asynccontextmanager
    async def passed(self, blocks: int) -> AsyncIterator[None]:
        """Wait until a replica has so many blocks, or until this call is the one to compute them.

        A call that ends before they are there (refused, lost, out of time) leaves that to the next.
        """
        while blocks > self._held and self._is_led:
            await self._changed.wait()
        leads = blocks > self._held
        self._is_led = self._is_led or leads
        try:
            yield
        finally:
            if leads:
                self._is_led = False
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def grouped(requests: Sequence[GenerationRequest]) -> list[SharedPrefix]:
    """Return the prefix that each of several calls shares; one of its own if it shares none.

    A call belongs to those with whose first it has most blocks in common.
    """
    prefixes: list[SharedPrefix] = []
    found = []
    for request in requests:
        best = max(prefixes, key=lambda prefix: prefix.common_with(request.keys), default=None)
        if best is None or not best.common_with(request.keys):
            best = SharedPrefix(request.keys)
            prefixes.append(best)
        found.append(best)
    return found


class PrefixWatch(CallObserver):
    """Learns from the request path how much of a shared prefix a replica has; one of its observers."""

    def __init__(self) -> None:
        self._prefixes: dict[int, SharedPrefix] = {}

    @contextlib.contextmanager
    def watching(self, request: GenerationRequest, prefix: SharedPrefix) -> Iterator[None]:
        """Report what becomes of a request to its prefix."""
        self._prefixes[id(request)] = prefix
        try:
            yield
        finally:
            del self._prefixes[id(request)]

    def placed(self, request: GenerationRequest, placement: Placement) -> None:
        """Note what the chosen replica holds already; a claim of another call is not there yet."""
        prefix = self._prefixes.get(id(request))
        if prefix is not None:
            held = (one.held_blocks for one in placement.candidates if one.state.replica == placement.replica)
            prefix.hold(min(next(held, 0), prefix.common_with(request.keys)))

    def first_token(self, generation: Generation) -> None:
        """Note that a call's whole prompt is computed."""
        prefix = self._prefixes.get(id(generation.request))
        if prefix is not None:
            prefix.hold(prefix.common_with(generation.request.keys))
