"""Dynamo's KV router: blocks still to prefill plus blocks in use, each adapter with blocks of its own.

Source: ai-dynamo/dynamo, ``lib/kv-router/src/scheduling/selector/{default,mod}.rs`` at commit 07a6c9ce3bb0,
defaults in ``scheduling/config.rs`` at 0243c51bb6e8, block accounting in ``sequences/single.rs`` at 04df1c42f2fe and
``sequences/prompt_registry.rs``, keys in ``protocols.rs`` at 038eab23a6b6. Earlier versions (``kv_router/scheduler.rs``
of 2025: ``overlap_score_weight * prefill_blocks + decode_blocks``, weight 1) have the same cost; the weight became the
scale below, and credits for slower tiers were added.

Formula, in blocks, the lowest cost wins and equal ones draw lots::

    cost = prefill_load_scale * max(0, (queued + prompt) / block - overlap_score_credit * overlap) + active

``queued`` are the tokens that calls sent there still had to prefill when they were chosen, until their first token;
``overlap`` is the leading blocks held by KV events, for the request's adapter; ``active`` is the distinct prompt blocks
of all calls sent there and not ended, this call's included. With a temperature above 0 a replica is drawn with
probability proportional to ``exp(-(cost - lowest) / (range of costs * temperature))``.

A call waits in front of the fleet while every replica has more than ``router_queue_threshold`` full steps of tokens to
prefill (``all_workers_prefill_busy`` in ``scheduling/queue.rs`` at 00067c31af57), and is placed when one has less, by
what is known then. ``fcfs`` takes the waiting in their order, ``wspt`` those with the fewest uncached tokens first.

Adapters: the LoRA name is mixed into the seed of every block's hash, in events and in lookups: *salted*, and so are the
active blocks. ``dynamo-blind`` is a deployment that leaves the name out.

Defaults: scale 1, credit 1 without decay, temperature 0, KV events on, prediction of blocks at the decision off
(``router_predicted_ttl_secs`` is None), answers' blocks not counted (``router_track_output_blocks`` is false), a queue
threshold of 16 with ``fcfs`` (later versions queue only if told to).

Not reproduced: priorities that clients give; weights of slower tiers (the modelled engine has none); the narrowing to
workers that an adapter was allocated to (every replica serves every adapter here); expiry of calls after an hour.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.holdings import MakeHoldings
from aloraserve.simulation.routers.prefix_index import leading_blocks
from aloraserve.simulation.routers.salted_holdings import SaltedHoldings

QueuePolicy = Literal["fcfs", "wspt"]
QUEUE_BATCHES = 16.0


class Dynamo:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: of the lots.
        fleet: as it starts.
        prefill_load_scale: weight of the prefill part, at least 0.
        overlap_score_credit: share of a held block that counts as prefilled, 0 to 1.
        temperature: 0 for the lowest cost always.
        queue_batches: a call waits in front of the fleet while every replica has more than so many full steps to
            prefill; infinite to send each call at once.
        queue_policy: "fcfs", or "wspt" for the least uncached tokens first.
        make_holdings: makes the index of KV events.
        name: what ``--policy`` takes.
    """

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        prefill_load_scale: float = 1.0,
        overlap_score_credit: float = 1.0,
        temperature: float = 0.0,
        queue_batches: float = QUEUE_BATCHES,
        queue_policy: QueuePolicy = "fcfs",
        make_holdings: MakeHoldings = SaltedHoldings,
        name: str = "dynamo",
    ) -> None:
        self.name = name
        self._queue_batches = queue_batches
        self._queue_policy = queue_policy
        self._random = random.Random(seed)  # noqa: S311 -- lots, no secrets
        self._scale = prefill_load_scale
        self._credit = overlap_score_credit
        self._temperature = temperature
        self._holdings = make_holdings(fleet)
        self._active = [_Active() for _ in fleet.replicas]
        self._calls: dict[int, _Sent] = {}

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and count the call as active there."""
        self._free(call.request)
        keys, block_tokens = self._holdings.keys(call), fleet.block_tokens
        overlaps = self._holdings.depths(call, fleet.alive)
        costs = []
        for replica, overlap in zip(fleet.alive, overlaps, strict=True):
            active = self._active[replica]
            prefill = (active.prefill_tokens + call.prompt_tokens) / block_tokens - self._credit * overlap
            new = len(keys) - leading_blocks(keys, active.blocks)
            costs.append(self._scale * max(0.0, prefill) + len(active.blocks) + new)
        place = self._draw(costs)
        chosen = fleet.alive[place]
        tokens = max(0, call.prompt_tokens - overlaps[place] * block_tokens)
        self._active[chosen].add(keys, tokens)
        self._calls[call.request] = _Sent(chosen, keys, tokens)
        self._holdings.sent(call)
        return chosen

    def is_busy(self, fleet: VisibleFleet) -> bool:
        """Return whether every replica has so much to prefill that calls wait in front of the fleet."""
        return all(
            self._active[replica].prefill_tokens > self._queue_batches * fleet.replicas[replica].step_tokens
            for replica in fleet.alive
        )

    def rank(self, call: SimulatedCall, fleet: VisibleFleet) -> float:
        """Return a waiting call's place among others, the lowest first; equal ones in the order in which they came."""
        if self._queue_policy == "fcfs":
            return 0.0
        overlap = max(self._holdings.depths(call, fleet.alive), default=0)
        return max(call.prompt_tokens - overlap * fleet.block_tokens, 1)

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Take in KV events."""
        self._holdings.observe(replica, stored, removed)

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Take the call's prefill off the replica's queue; what it computed is held now."""
        sent = self._calls.get(call.request)
        if sent is not None and sent.replica == replica:
            self._active[replica].prefill_tokens -= sent.tokens
            self._calls[call.request] = sent._replace(tokens=0)
        self._holdings.prefilled(call, replica, now_s)

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Free the call's blocks."""
        sent = self._calls.get(call.request)
        if sent is not None and sent.replica == replica:
            self._free(call.request)
            self._holdings.answered(call, replica)
        self._holdings.ended(call)

    def lost(self, replica: int, now_s: float) -> None:
        """Forget the replica's blocks and calls."""
        self._holdings.lost(replica)
        self._active[replica] = _Active()
        self._calls = {request: sent for request, sent in self._calls.items() if sent.replica != replica}

    def _draw(self, costs: Sequence[float]) -> int:
        lowest, highest = min(costs), max(costs)
        if self._temperature <= 0 or lowest == highest:
            return self._random.choice([place for place, cost in enumerate(costs) if cost == lowest])
        spread = (highest - lowest) * self._temperature
        weights = [math.exp((lowest - cost) / spread) for cost in costs]
        return self._random.choices(range(len(costs)), weights)[0]

    def _free(self, request: int) -> None:
        sent = self._calls.pop(request, None)
        if sent is not None:
            self._active[sent.replica].remove(sent.keys, sent.tokens)


class _Sent(NamedTuple):
    replica: int
    keys: Sequence[BlockKey]
    tokens: int


class _Active:
    """The calls sent to one replica that have not ended: how many of them have each block, and tokens to prefill.

    Counts never grow along a chain: whoever has a block has those before it.
    """

    def __init__(self) -> None:
        self.blocks: dict[BlockKey, int] = {}
        self.prefill_tokens = 0

    def add(self, keys: Sequence[BlockKey], prefill_tokens: int) -> None:
        blocks = self.blocks
        shared = leading_blocks(keys, blocks)
        for key in keys[:shared]:
            blocks[key] += 1
        blocks.update(dict.fromkeys(keys[shared:], 1))
        self.prefill_tokens += prefill_tokens

    def remove(self, keys: Sequence[BlockKey], prefill_tokens: int) -> None:
        blocks = self.blocks
        shared = bisect_left(keys, True, key=lambda key: blocks[key] == 1)
        for key in keys[:shared]:
            blocks[key] -= 1
        for key in keys[shared:]:
            del blocks[key]
        self.prefill_tokens -= prefill_tokens
