"""Index of KV events that leaves the adapter out of every key."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.prefix_index import leading_blocks


class BlindHoldings:
    """Leading blocks that each replica holds of equal tokens, whoever computed them, by its KV events.

    See :class:`~aloraserve.simulation.routers.holdings.Holdings`. Real events carry tokens, from which such a router
    makes its keys; here they carry exact keys, so that calls under way say which of theirs stand for which tokens. All
    others are the base model's, whose exact keys are those of their tokens.

    Bounded: keys to twice the replica's KV cache (more than it can hold, so that only events lost on the way fill it;
    the older half goes then).

    Args:
        fleet: as it starts.
    """

    def __init__(self, fleet: VisibleFleet) -> None:
        self._replicas = [_Replica(2 * view.capacity_blocks) for view in fleet.replicas]
        self._calls: dict[int, list[BlockKey]] = {}
        self._contents: dict[BlockKey, tuple[BlockKey, int]] = {}

    def keys(self, call: SimulatedCall) -> list[BlockKey]:
        return call.content_keys

    def depths(self, call: SimulatedCall, replicas: Sequence[int]) -> list[int]:
        keys = call.content_keys
        return [leading_blocks(keys, self._replicas[replica].counts) for replica in replicas]

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey]) -> None:
        held, contents = self._replicas[replica], self._contents
        for key in removed:
            held.remove(key)
        for key in stored:
            held.add(key, contents[key][0] if key in contents else key)
        held.bound()

    def sent(self, call: SimulatedCall) -> None:
        self.ended(call)
        contents = self._contents
        marked = [(key, content) for key, content in zip(call.keys, call.content_keys, strict=True) if key != content]
        for key, content in marked:
            contents[key] = (content, contents[key][1] + 1 if key in contents else 1)
        self._calls[call.request] = [key for key, _ in marked]

    def prefilled(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing: events say so."""

    def answered(self, call: SimulatedCall, replica: int) -> None:
        """Nothing: events say so."""

    def ended(self, call: SimulatedCall) -> None:
        contents = self._contents
        for key in self._calls.pop(call.request, ()):
            content, calls = contents[key]
            if calls > 1:
                contents[key] = (content, calls - 1)
            else:
                del contents[key]

    def lost(self, replica: int) -> None:
        self._replicas[replica] = _Replica(self._replicas[replica].max_keys)


class _Replica:
    """What one replica holds: for each exact key that of its tokens, and how many exact keys share that."""

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self.counts: dict[BlockKey, int] = {}
        self._held: dict[BlockKey, BlockKey] = {}

    def add(self, key: BlockKey, content: BlockKey) -> None:
        if key not in self._held:
            self._held[key] = content
            self.counts[content] = self.counts.get(content, 0) + 1

    def remove(self, key: BlockKey) -> None:
        content = self._held.pop(key, None)
        if content is None:
            return
        self.counts[content] -= 1
        if not self.counts[content]:
            del self.counts[content]

    def bound(self) -> None:
        if len(self._held) > self.max_keys:
            for key in list(islice(self._held, len(self._held) // 2)):
                self.remove(key)
