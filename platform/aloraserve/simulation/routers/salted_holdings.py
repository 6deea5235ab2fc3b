"""Index of KV events that salts every key with the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.prefix_index import PrefixIndex, leading_blocks, tree_blocks

MAX_ANSWERS = 4096


class SaltedHoldings:
    """Leading blocks that each replica holds *for an adapter*, by its KV events.

    See :class:`~aloraserve.simulation.routers.holdings.Holdings`.

    A replica holds a block for an adapter (or for the base model) if a call of that very adapter was prefilled there,
    or a call's answer filled the block, and the engine has not evicted it since, by the exact keys of its events.

    This is kinder to the originals than the engines that share aLoRA prefixes are: there a call that finds its prefix
    in the base model's blocks stores only its tail, and nothing is announced under the adapter for the blocks before.
    Also, a block that was evicted and came back through another adapter's call counts for the first one again.

    Bounded: answers to ``MAX_ANSWERS`` a replica, keys to twice the replica's KV cache (more than it can hold, so that
    only events lost on the way fill it; the older half goes then), prompts as :class:`PrefixIndex` is.

    Args:
        fleet: as it starts.
    """

    def __init__(self, fleet: VisibleFleet) -> None:
        self._prompts = PrefixIndex(len(fleet.replicas), tree_blocks(fleet))
        self._held: list[dict[BlockKey, None]] = [{} for _ in fleet.replicas]
        self._answers: list[dict[BlockKey, int]] = [{} for _ in fleet.replicas]
        self._max_held = [2 * view.capacity_blocks for view in fleet.replicas]

    def keys(self, call: SimulatedCall) -> list[BlockKey]:
        return call.salted_keys

    def depths(self, call: SimulatedCall, replicas: Sequence[int]) -> list[int]:
        salted, exact = call.salted_keys, call.keys
        depths = self._prompts.depths(salted, replicas)
        for place, replica in enumerate(replicas):
            if depths[place]:
                answered = self._answers[replica].get(salted[depths[place] - 1], 0)
                depths[place] = self._kept(exact, replica, min(depths[place] + answered, len(exact)))
        return depths

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey]) -> None:
        held = self._held[replica]
        for key in removed:
            held.pop(key, None)
        held.update(dict.fromkeys(stored))
        if len(held) > self._max_held[replica]:
            self._held[replica] = dict.fromkeys(islice(held, len(held) // 2, None))

    def sent(self, call: SimulatedCall) -> None:
        """Nothing: what it stores counts once its prompt is computed."""

    def prefilled(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        self._prompts.add(replica, call.salted_keys, now_s)

    def answered(self, call: SimulatedCall, replica: int) -> None:
        whole = call.prompt_tokens // call.block_tokens
        blocks = (call.prompt_tokens + call.output_tokens) // call.block_tokens - whole
        if not blocks or not call.salted_keys:
            return
        answers = self._answers[replica]
        answers[call.salted_keys[-1]] = blocks
        if len(answers) > MAX_ANSWERS:
            del answers[next(iter(answers))]

    def _kept(self, exact: Sequence[BlockKey], replica: int, depth: int) -> int:
        held = self._held[replica]
        return depth if exact[depth - 1] in held else leading_blocks(exact[:depth], held)

    def ended(self, call: SimulatedCall) -> None:
        """Nothing."""

    def lost(self, replica: int) -> None:
        self._prompts.drop(replica)
        self._held[replica] = {}
        self._answers[replica] = {}
