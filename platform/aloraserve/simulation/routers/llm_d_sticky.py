"""llm-d's later default, "sticky until saturated": replicas that hold most of the prompt, of those the least loaded.

Source: llm-d/llm-d, ``guides/precise-prefix-cache-routing/router/precise-prefix-cache-routing.values.yaml`` at commit
8052f2209e29; llm-d/llm-d-router, ``pkg/epp/framework/plugins``:
``scheduling/filter/prefixcacheaffinity/plugin.go`` at 066c20ea107e, ``scheduling/scorer/tokenload/token_load.go`` at
1b30d10f8006, ``requestcontrol/dataproducer/inflightload`` (its README at 2f1de8c05071).

Formula, with the prompt tokens that calls sent to a replica still had to prefill when they were chosen, until their
first token, as its load:

1. Sticky replicas hold at least 0.8 of the prompt's blocks, by KV events and speculatively. If there are some, and the
   least loaded of them is not behind the least loaded other one by more than 18 s at the peak prefill throughput, only
   they are candidates. Else all are.
2. The highest ``1 - (load + tokens of this call that it does not hold) / 4,194,304`` wins, equal ones take turns.

Adapters: as :mod:`~aloraserve.simulation.routers.llm_d`: *salted*, or blind as ``llm-d-sticky-blind``.

Defaults: as above; peak throughput 15,928 tokens/s (its guide's 15,926 is measured on a 32B model on two H100).

Not reproduced: as in :mod:`~aloraserve.simulation.routers.llm_d`; a peak throughput measured on the fleet at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.holdings import MakeHoldings
from aloraserve.simulation.routers.llm_d import PreciseIndex, Turns
from aloraserve.simulation.routers.salted_holdings import SaltedHoldings

MAX_LOAD_TOKENS = 4_194_304


class LlmDSticky:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: unused; equal scores take turns.
        fleet: as it starts.
        affinity_threshold: share of the prompt's blocks, 0 to 1.
        max_penalty_s: how far behind a sticky replica may be.
        peak_prefill_tokens_per_s: of one replica, above 0.
        make_holdings: makes the index of KV events.
        name: what ``--policy`` takes.
    """

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        affinity_threshold: float = 0.8,
        max_penalty_s: float = 18.0,
        peak_prefill_tokens_per_s: float = 15_928.0,
        make_holdings: MakeHoldings = SaltedHoldings,
        name: str = "llm-d-sticky",
    ) -> None:
        self.name = name
        self._affinity_threshold = affinity_threshold
        self._max_penalty_tokens = max_penalty_s * peak_prefill_tokens_per_s
        self._index = PreciseIndex(fleet, make_holdings)
        self._turns = Turns()
        self._load_tokens = [0] * len(fleet.replicas)
        self._calls: dict[int, _Sent] = {}

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and count the call's prefill as its load."""
        self._release(call.request)
        alive = fleet.alive
        depths = self._index.depths(call, alive, now_s)
        uncached = {
            replica: max(0, call.prompt_tokens - depth * fleet.block_tokens)
            for replica, depth in zip(alive, depths, strict=True)
        }
        candidates = self._candidates(alive, depths, max(1, len(call.content_keys)))
        scores = [
            1 - min(1.0, (self._load_tokens[replica] + uncached[replica]) / MAX_LOAD_TOKENS) for replica in candidates
        ]
        chosen = self._turns.best(candidates, scores)
        self._load_tokens[chosen] += uncached[chosen]
        self._calls[call.request] = _Sent(chosen, uncached[chosen])
        self._index.decided(call, chosen, now_s)
        return chosen

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Take in KV events."""
        self._index.holdings.observe(replica, stored, removed)

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Take the call's prefill off the replica's load; what it computed is held now."""
        self._release(call.request, replica)
        self._index.holdings.prefilled(call, replica, now_s)

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Note that the answer's blocks are held now."""
        self._release(call.request, replica)
        self._index.holdings.answered(call, replica)
        self._index.holdings.ended(call)

    def lost(self, replica: int, now_s: float) -> None:
        """Forget the replica's blocks and load."""
        self._index.lost(replica)
        for request in [request for request, sent in self._calls.items() if sent.replica == replica]:
            self._release(request)

    def _candidates(self, alive: Sequence[int], depths: Sequence[int], blocks: int) -> Sequence[int]:
        sticky: list[int] = []
        others: list[int] = []
        for replica, depth in zip(alive, depths, strict=True):
            (sticky if depth / blocks >= self._affinity_threshold else others).append(replica)
        if not sticky:
            return alive
        load = self._load_tokens
        if (
            others
            and min(load[replica] for replica in sticky) - min(load[replica] for replica in others)
            > self._max_penalty_tokens
        ):
            return alive
        return sticky

    def _release(self, request: int, replica: int | None = None) -> None:
        sent = self._calls.get(request)
        if sent is not None and replica in (None, sent.replica):
            del self._calls[request]
            self._load_tokens[sent.replica] -= sent.tokens


class _Sent(NamedTuple):
    replica: int
    tokens: int
