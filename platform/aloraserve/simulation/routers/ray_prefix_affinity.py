"""Ray's ``PrefixCacheAffinityRouter``: a tree of the prompts that it sent, blind to adapters.

Source: Ray 2.60.0, ``ray/llm/_internal/serve/routing_policies/prefix_aware/{prefix_aware_router,prefix_tree}.py`` and
``ray/serve/_private/request_router/request_router.py`` (``MultiplexMixin``), as installed.

Formula: if the longest queue exceeds the shortest by more than ``imbalanced_threshold`` (infinite by default, so
never), power of two choices. Else the replicas that were sent the longest prefix of the prompt; if that prefix is
shorter than ``match_rate_threshold`` (0.1) of it, the replicas with the smallest trees. Of those, the one with the
fewest requests in flight. The prompt, not the answer, goes into the tree once it is sent.

Adapters: the tree holds the messages' text alone, so equal text matches whatever adapter computed it: *blind*. A call
with an adapter is also multiplexed. The router asks for its candidates twice, once for its power-of-two fallback; the
first asking marks the call as having tried the replicas with the adapter, so that the second, whose answer is used,
names those with the fewest adapters loaded (seen by running the installed ``apply_multiplex_routing`` twice on one
request). The smallest trees are sought among all replicas, not among those candidates. Both are kept here.

Not reproduced: characters (blocks of content stand for them, so a match is a whole number of blocks, and a prompt
shorter than a block matches nothing); an endless tree (``do_eviction`` is off by default; here it is bounded by a
multiple of the fleet's KV cache, least recently sent first); replicas that refuse a call because
``max_ongoing_requests`` are in flight, and the backoff that follows; preference for the router's own node.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.prefix_index import PrefixIndex, tree_blocks


class RayPrefixAffinity:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: of the power of two choices.
        fleet: as it starts.
        imbalanced_threshold: difference of queues, in requests.
        match_rate_threshold: share of the prompt, 0 to 1.
    """

    name = "ray-prefix-affinity"

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        imbalanced_threshold: float = math.inf,
        match_rate_threshold: float = 0.1,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 -- lots, no secrets
        self._imbalanced_threshold = imbalanced_threshold
        self._match_rate_threshold = match_rate_threshold
        self._tree = PrefixIndex(len(fleet.replicas), tree_blocks(fleet))

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and remember the prompt as sent to it."""
        candidates = _multiplexed(call, fleet)
        queues = [fleet.replicas[replica].in_flight for replica in candidates]
        if max(queues) - min(queues) > self._imbalanced_threshold:
            named = self._random.sample(candidates, min(2, len(candidates)))
        else:
            named = self._matching(call.content_keys, candidates, fleet)
        chosen = min(named, key=lambda replica: fleet.replicas[replica].in_flight)
        self._tree.add(chosen, call.content_keys, now_s)
        return chosen

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Nothing: the original takes no KV events."""

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing."""

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing: answers do not go into the tree."""

    def lost(self, replica: int, now_s: float) -> None:
        """Drop the replica from the tree."""
        self._tree.drop(replica)

    def _matching(self, keys: Sequence[BlockKey], candidates: Sequence[int], fleet: VisibleFleet) -> list[int]:
        depths = self._tree.depths(keys, candidates)
        longest = max(depths)
        if keys and longest / len(keys) >= self._match_rate_threshold:
            return [replica for replica, depth in zip(candidates, depths, strict=True) if depth == longest]
        sizes = self._tree.sizes
        smallest = min(sizes[replica] for replica in fleet.alive)
        return [replica for replica in fleet.alive if sizes[replica] == smallest]


def _multiplexed(call: SimulatedCall, fleet: VisibleFleet) -> list[int]:
    if call.adapter is None:
        return fleet.alive
    loaded = {replica: len(fleet.replicas[replica].adapters) for replica in fleet.alive}
    fewest = min(loaded.values())
    return [replica for replica in fleet.alive if loaded[replica] == fewest]
