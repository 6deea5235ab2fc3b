"""llm-d's endpoint picker with precise prefix scores: a weighted sum of scores, keys salted with the adapter.

Source: llm-d/llm-d, ``guides/precise-prefix-cache-routing/router/precise-prefix-cache-routing.values.yaml`` at commit
076e65dcd894 for scorers and weights; llm-d/llm-d-router, ``pkg/epp/framework/plugins/scheduling``:
``scorer/preciseprefixcache`` and ``scorer/nohitlru`` at 0b59e4edb532, ``scorer/queuedepth`` and
``scorer/kvcacheutilization`` at 2342697faf4e, ``scorer/loraaffinity`` at 533a218d927b, ``picker/maxscore`` at
0fa77a00202a, ``picker/common.go`` at 5155e4cbfb5c; llm-d/llm-d-kv-cache, ``pkg/kvcache/kvblock_scorer.go`` and
``kvblock/token_processor.go`` at 026424fd4806. A later version of the guide (8052f2209e29) replaces the scorers, see
:mod:`~aloraserve.simulation.routers.llm_d_sticky`.

Formula: the highest sum wins, equal ones take turns. Each score is 0 to 1, times its weight:

- ``kv-cache-utilization`` (2): ``1 - KV usage``, as last reported.
- ``queue`` (2): ``(longest - waiting) / (longest - shortest)``, as last reported; 1 if all are equal.
- ``precise-prefix-cache`` (3): leading blocks of the prompt held there, of all its blocks: by KV events, and
  speculatively for 2 s after the decision.
- ``no-hit-lru`` (2): 0.5 if any replica holds a block of the prompt; else 1 for the replica whose last such cold
  prompt is the longest ago (those that had none first), down to 0 for the most recent.
- ``lora-affinity`` (0; not in the guide): 1 if the adapter is active there, 0.8 if there is room for one more, else 0.

Adapters: a block's hash starts from the model's name, which for an adapter is its own; events are filed under their
LoRA's name: *salted*. ``llm-d-blind`` is a deployment whose keys all start from the base model's name.

Flow control in front of the fleet (queues by priority while the pool is saturated) is off, as in the guide, which sets
no feature gate.

Not reproduced: 64 tokens per block (the engine's here); speculative entries end after one to two of their lives of 2 s;
the middle score of ``lora-affinity`` (0.6: in the engine's queue of adapters to load, which no report here has); two
pickers with an index each.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import ReplicaView, SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.holdings import MakeHoldings
from aloraserve.simulation.routers.prefix_index import PrefixIndex, tree_blocks
from aloraserve.simulation.routers.salted_holdings import SaltedHoldings

SPECULATIVE_S = 2.0


class PreciseIndex:
    """Blocks held for a call's adapter, by KV events and, for a while, by decisions.

    Args:
        fleet: as it starts.
        make_holdings: makes the index of KV events.
    """

    def __init__(self, fleet: VisibleFleet, make_holdings: MakeHoldings) -> None:
        self.holdings = make_holdings(fleet)
        self._speculative = PrefixIndex(len(fleet.replicas), tree_blocks(fleet), max_age_s=SPECULATIVE_S)

    def depths(self, call: SimulatedCall, replicas: Sequence[int], now_s: float) -> list[int]:
        """Return for each of ``replicas`` how many leading blocks of the call it holds, or is about to."""
        held = self.holdings.depths(call, replicas)
        speculative = self._speculative.depths(self.holdings.keys(call), replicas, now_s)
        return [max(both) for both in zip(held, speculative, strict=True)]

    def decided(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Count the call's blocks as held from the decision on."""
        self._speculative.add(replica, self.holdings.keys(call), now_s)
        self.holdings.sent(call)

    def lost(self, replica: int) -> None:
        """Forget all that the replica held."""
        self.holdings.lost(replica)
        self._speculative.drop(replica)


class Turns:
    """Picks among equal candidates in turn, as ``RotateScoredEndpoints`` does: one counter for all calls."""

    def __init__(self) -> None:
        self._counter = 0

    def best(self, replicas: Sequence[int], scores: Sequence[float]) -> int:
        """Return the replica with the highest score."""
        highest = max(scores)
        best = [replica for replica, score in zip(replicas, scores, strict=True) if score == highest]
        if len(best) == 1:
            return best[0]
        chosen = best[self._counter % len(best)]
        self._counter = 0 if self._counter + 1 >= len(best) else self._counter + 1
        return chosen


class LlmD:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: unused; equal scores take turns.
        fleet: as it starts.
        kv_usage_weight: of ``kv-cache-utilization``.
        queue_weight: of ``queue``.
        prefix_weight: of ``precise-prefix-cache``.
        cold_weight: of ``no-hit-lru``.
        adapter_weight: of ``lora-affinity``.
        make_holdings: makes the index of KV events.
        name: what ``--policy`` takes.
    """

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        kv_usage_weight: float = 2.0,
        queue_weight: float = 2.0,
        prefix_weight: float = 3.0,
        cold_weight: float = 2.0,
        adapter_weight: float = 0.0,
        make_holdings: MakeHoldings = SaltedHoldings,
        name: str = "llm-d",
    ) -> None:
        self.name = name
        self._kv_usage_weight = kv_usage_weight
        self._queue_weight = queue_weight
        self._prefix_weight = prefix_weight
        self._cold_weight = cold_weight
        self._adapter_weight = adapter_weight
        self._index = PreciseIndex(fleet, make_holdings)
        self._turns = Turns()
        self._cold: dict[int, None] = {}

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and count its blocks as held speculatively."""
        alive = fleet.alive
        views = [fleet.replicas[replica] for replica in alive]
        depths = self._index.depths(call, alive, now_s)
        cold = not any(depths)
        waiting = [view.waiting for view in views]
        longest, span = max(waiting), max(waiting) - min(waiting)
        spread = self._cold_scores(alive) if cold else [0.5] * len(alive)
        blocks = max(1, len(call.content_keys))
        scores = [
            self._kv_usage_weight * (1 - view.kv_usage)
            + self._queue_weight * ((longest - view.waiting) / span if span else 1.0)
            + self._prefix_weight * min(1.0, depth / blocks)
            + self._cold_weight * share
            for view, depth, share in zip(views, depths, spread, strict=True)
        ]
        if self._adapter_weight:
            scores = [
                score + self._adapter_weight * _adapter_score(call.adapter, view)
                for score, view in zip(scores, views, strict=True)
            ]
        chosen = self._turns.best(alive, scores)
        if cold:
            self._cold.pop(chosen, None)
            self._cold[chosen] = None
        self._index.decided(call, chosen, now_s)
        return chosen

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Take in KV events."""
        self._index.holdings.observe(replica, stored, removed)

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Note that the prompt's blocks are held now."""
        self._index.holdings.prefilled(call, replica, now_s)

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Note that the answer's blocks are held now."""
        self._index.holdings.answered(call, replica)
        self._index.holdings.ended(call)

    def lost(self, replica: int, now_s: float) -> None:
        """Forget the replica's blocks; it counts as one that never had a cold prompt."""
        self._index.lost(replica)
        self._cold.pop(replica, None)

    def _cold_scores(self, alive: Sequence[int]) -> list[float]:
        if len(alive) == 1:
            return [1.0]
        order = {replica: place for place, replica in enumerate(self._cold)}
        fresh = [replica for replica in alive if replica not in order]
        rank = {replica: place for place, replica in enumerate(fresh)}
        rank.update({replica: len(fresh) + place for replica, place in order.items()})
        return [max(0.0, 1.0 - rank[replica] / (len(alive) - 1)) for replica in alive]


def _adapter_score(adapter: str | None, view: ReplicaView) -> float:
    if adapter in view.active_adapters:
        return 1.0
    return 0.8 if len(view.active_adapters) < view.adapter_slots else 0.0
