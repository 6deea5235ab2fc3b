"""AIBrix's ``prefix-cache`` routing: a table of the blocks that it sent, one for each model name, so one per adapter.

Source: vllm-project/aibrix, ``pkg/plugins/gateway/algorithms/prefix_cache.go`` at commit 01de8a514d00, its
``prefix_cache_readme.md``, and ``pkg/utils/prefixcacheindexer/hash.go`` at 0871c212af9b. Other versions seen differ in
the load gate: earlier ones fire when ``max - min`` exceeds a count (8), later ones compare with the mean of the *other*
replicas and apply the gate before any strategy (``load_balance.go``). The one taken is between the two, and with many
replicas nearly the later.

Formula, with a replica's requests in flight as its load:

1. Gate: if ``max > 2 * (mean + 1)`` and ``max - min >= 8``, only the least loaded replicas may match.
2. Of those that match at least one block, in order of the matched percentage (a whole number), highest first, and of
   load, lowest first (the rest by lot), the first with a load of at most ``mean + 1 * standard deviation``.
3. If there is none, a replica with the lowest load, by lot.

The prompt's blocks then count as held by the chosen one.

Adapters: a block's entry is kept under the request's model name, and an adapter is served under its own: *salted*. In
its KV event mode the model name salts as well (the LoRA id there is always -1), so the default mode stands for both.
``aibrix-blind`` has one table for the base model and all its adapters.

Defaults: factor 2, gap 8, deviation factor 1, 200,000 blocks in all, forgotten after 20 minutes.

Not reproduced: blocks of characters (the default tokenizer; the project's advice is 128 characters or 16 tokens a
block, which a KV block stands for; its code's own default of 4 would span 800,000 characters of the whole fleet's
prompts); the exact order of eviction, see :class:`~aloraserve.simulation.routers.prefix_index.PrefixIndex`.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.prefix_index import PrefixIndex

MAX_BLOCKS = 200_000
MAX_AGE_S = 20 * 60.0


class AIBrix:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: of the lots.
        fleet: as it starts.
        imbalance_factor: of the gate, see the module's docstring.
        imbalance_min_gap: of the gate, in requests.
        deviation_factor: standard deviations above the mean that a matching replica may have.
        is_blind: whether all adapters share the base model's table.
    """

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        imbalance_factor: float = 2.0,
        imbalance_min_gap: int = 8,
        deviation_factor: float = 1.0,
        is_blind: bool = False,
    ) -> None:
        self.name = "aibrix-blind" if is_blind else "aibrix"
        self._is_blind = is_blind
        self._random = random.Random(seed)  # noqa: S311 -- lots, no secrets
        self._imbalance_factor = imbalance_factor
        self._imbalance_min_gap = imbalance_min_gap
        self._deviation_factor = deviation_factor
        self._table = PrefixIndex(len(fleet.replicas), MAX_BLOCKS, max_age_s=MAX_AGE_S)

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and remember the prompt as sent to it."""
        keys = call.content_keys if self._is_blind else call.salted_keys
        loads = [fleet.replicas[replica].in_flight for replica in fleet.alive]
        chosen = self._matching(keys, self._gated(fleet.alive, loads), fleet, loads, now_s)
        if chosen is None:
            least = min(loads)
            idle = [replica for replica, load in zip(fleet.alive, loads, strict=True) if load == least]
            chosen = self._random.choice(idle)
        self._table.add(chosen, keys, now_s)
        return chosen

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Nothing: the default mode takes no KV events."""

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing."""

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing."""

    def lost(self, replica: int, now_s: float) -> None:
        """Forget the replica's blocks."""
        self._table.drop(replica)

    def _gated(self, alive: Sequence[int], loads: Sequence[int]) -> Sequence[int]:
        most, least = max(loads), min(loads)
        mean = sum(loads) / len(loads)
        if most <= self._imbalance_factor * (mean + 1) or most - least < self._imbalance_min_gap:
            return alive
        return [replica for replica, load in zip(alive, loads, strict=True) if load == least]

    def _matching(
        self,
        keys: Sequence[BlockKey],
        allowed: Sequence[int],
        fleet: VisibleFleet,
        loads: Sequence[int],
        now_s: float,
    ) -> int | None:
        if not keys:
            return None
        depths = self._table.depths(keys, allowed, now_s)
        deviation = statistics.stdev(loads) if len(loads) > 1 else 0.0
        limit = sum(loads) / len(loads) + self._deviation_factor * deviation
        ranked = [
            (-(depth * 100 // len(keys)), load, self._random.random(), replica)
            for depth, replica in zip(depths, allowed, strict=True)
            if depth and (load := fleet.replicas[replica].in_flight) <= limit
        ]
        return min(ranked)[-1] if ranked else None
