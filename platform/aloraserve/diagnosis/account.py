"""What became of each token of a prompt that might have been reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.diagnosis.prefix_memory import MAX_RUNS, PrefixMemory
from aloraserve.directory.base import RUN_BLOCKS
from aloraserve.routing.base import Call, Estimate
from aloraserve.routing.placement import Placement

FRESH_S = 5.0
"""A block that was computed less than that ago and is in no record may be on its way there."""


class MissCause(StrEnum):
    """Why a token that somebody held, or had held, was prefilled; the values are labels of metrics."""

    QUEUE = "queue"
    """A replica held it, but a call would have waited longer there."""
    ADAPTER = "adapter"
    """A replica held it, but would have had to load the adapter, or has no slot for it."""
    MEMORY = "memory"
    """A replica held it, but its KV cache has no room for the call, or it would have had to be copied."""
    FULL = "full"
    """The replica that was chosen took no more calls, or was lost."""
    IN_FLIGHT = "in_flight"
    """A call was about to compute it, and had not when this one began."""
    EVICTED = "evicted"
    """It had been computed, and nobody held it any more."""
    UNPUBLISHED = "unpublished"
    """It had been computed within the last seconds, and no record said so yet."""
    FALLBACK = "fallback"
    """The directory did not say who held what."""
    SALTED = "salted"
    """The base model's blocks of the same text exist, which a plain LoRA cannot use."""


class Ladder(NamedTuple):
    """Prompt tokens that would need no prefill, from the best that could be to what was; each at most the one before.

    Args:
        prompt: the whole prompt.
        endless: in one cache for the fleet that forgets nothing.
        capacity: in one cache of the fleet's size.
        routing: on the replica that has most of it, or is about to.
        predicted: on the replica that answered, as the decision expected.
        delivered: as the engine counted.
    """

    prompt: int = 0
    endless: int = 0
    capacity: int = 0
    routing: int = 0
    predicted: int = 0
    delivered: int = 0


@dataclass(frozen=True, slots=True)
class ReuseAccount:
    """One call's account.

    Args:
        ladder: in tokens.
        missed: tokens by why they were prefilled; together with what was delivered they are ``ladder.endless``, but for
            ``SALTED``, which no cache of this fleet could have given.
    """

    ladder: Ladder
    missed: Mapping[MissCause, int] = field(default_factory=dict)


class ReuseAccountant:
    """Keeps the account of a gateway's calls. For one event loop.

    What had been computed is known from this gateway's own calls, to a run of blocks, and from what the directory said
    of others'; so with several gateways the upper rungs are lower bounds. Answers' own tokens count only where the
    directory has them: a gateway has no keys of them.
    """

    def __init__(self) -> None:
        self._endless = PrefixMemory(MAX_RUNS * RUN_BLOCKS)
        self._capacity = PrefixMemory(MAX_RUNS * RUN_BLOCKS)

    def account(
        self,
        call: Call,
        placement: Placement,
        replica: str,
        cached_tokens: int,
        now_s: float,
        *,
        base_keys: Sequence[BlockKey] | None = None,
    ) -> ReuseAccount:
        """Return the account of a call that ``replica`` has begun to answer, and remember its prompt.

        Args:
            call: what the router knew of it.
            placement: its last one.
            replica: who answers.
            cached_tokens: as its engine counts them.
            now_s: seconds that never go back.
            base_keys: a plain LoRA's prompt in the base model's keys.
        """
        limit = max(0, call.prompt_tokens - 1) // call.block_tokens
        endless, capacity = min(self._endless.match(call.keys), limit), min(self._capacity.match(call.keys), limit)
        since_s = self._endless.touched_s(call.keys, endless)
        salted = 0 if base_keys is None else max(0, min(self._endless.match(base_keys), limit) - endless)
        holders = _Holders(call, placement, replica, limit)
        ladder = _ladder(call, endless, capacity, holders, cached_tokens)
        is_fresh = since_s is not None and now_s - since_s < FRESH_S
        missed = _by_fallback(ladder) if placement.fallback else _by_cause(ladder, holders, is_fresh)
        missed[MissCause.SALTED] = salted * call.block_tokens
        self._remember(call, placement, now_s)
        return ReuseAccount(ladder, {cause: tokens for cause, tokens in missed.items() if tokens})

    def _remember(self, call: Call, placement: Placement, now_s: float) -> None:
        fleet_tokens = sum(candidate.state.load.kv_tokens for candidate in placement.candidates)
        if fleet_tokens and not placement.fallback:
            self._capacity.resize(fleet_tokens // call.block_tokens)
        self._endless.touch(call.keys, now_s)
        self._capacity.touch(call.keys, now_s)


class _Holders:
    """Who held how much of a call's prompt when it was decided.

    Attributes:
        about: tokens on the replica that had most, or was about to.
        held: tokens on the replica that had most already.
        chosen_held: tokens that the one that answers had already.
        predicted: tokens that the decision expected of it.
        spilled: why another one was chosen.
    """

    def __init__(self, call: Call, placement: Placement, replica: str, limit: int) -> None:
        def tokens(blocks: int) -> int:
            return min(blocks, limit) * call.block_tokens

        found = [candidate for candidate in placement.candidates if candidate.claimed_blocks]
        self.about = tokens(max((candidate.claimed_blocks for candidate in found), default=0))
        self.held = tokens(max((candidate.held_blocks for candidate in found), default=0))
        self.chosen_held = tokens(
            next((candidate.held_blocks for candidate in found if candidate.state.replica == replica), 0)
        )
        estimates = placement.decision.estimates
        chosen = next((estimate for estimate in estimates if estimate.replica == replica), None)
        self.predicted = min(chosen.overlap_tokens, limit * call.block_tokens) if chosen else 0
        self.spilled = _spill_cause(estimates, chosen)


def _spill_cause(estimates: Sequence[Estimate], chosen: Estimate | None) -> MissCause:
    """Return what kept a call from the replica that had most of its prompt: what would have cost most there."""
    if chosen is None or estimates[0] is not chosen:
        return MissCause.FULL
    holder = max(estimates, key=lambda estimate: estimate.overlap_tokens)
    parts = {
        MissCause.ADAPTER: holder.adapter_s - chosen.adapter_s,
        MissCause.MEMORY: holder.memory_s - chosen.memory_s,
        MissCause.QUEUE: holder.queue_s + holder.slot_s - chosen.queue_s - chosen.slot_s,
    }
    largest = max(parts, key=lambda cause: parts[cause])
    # A policy may leave candidates out of many, for their queues.
    return largest if parts[largest] > 0 else MissCause.QUEUE


def _ladder(call: Call, endless: int, capacity: int, holders: _Holders, cached_tokens: int) -> Ladder:
    predicted = max(holders.predicted, cached_tokens)
    routing = max(holders.about, predicted)
    capacity = max(capacity * call.block_tokens, routing)
    return Ladder(
        prompt=call.prompt_tokens,
        endless=max(endless * call.block_tokens, capacity),
        capacity=capacity,
        routing=routing,
        predicted=predicted,
        delivered=cached_tokens,
    )


def _by_fallback(ladder: Ladder) -> dict[MissCause, int]:
    return {MissCause.FALLBACK: ladder.endless - ladder.delivered}


def _by_cause(ladder: Ladder, holders: _Holders, is_fresh: bool) -> dict[MissCause, int]:
    missed = dict.fromkeys(MissCause, 0)
    missed[MissCause.EVICTED] += ladder.endless - ladder.capacity
    missed[MissCause.UNPUBLISHED if is_fresh else MissCause.EVICTED] += ladder.capacity - ladder.routing
    spilled = ladder.routing - ladder.predicted
    in_flight = min(spilled, max(0, ladder.routing - max(holders.held, ladder.predicted)))
    missed[holders.spilled] += spilled - in_flight
    gone = ladder.predicted - ladder.delivered
    not_ready = min(gone, max(0, ladder.predicted - max(holders.chosen_held, ladder.delivered)))
    missed[MissCause.EVICTED] += gone - not_ready
    missed[MissCause.IN_FLIGHT] += in_flight + not_ready
    return missed
