"""Cost of a call on a replica, from what the replica published of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call, Estimate
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.routing.queue_profile import seconds_before

TPOT_OBJECTIVE_S = 0.1
FEW_SAMPLES = 8
"""A model that rests on fewer prefills says more of the moment they were measured in than of the engine."""


def unpublished(replica: str) -> Candidate:
    """Return a candidate for a replica of which nothing is known but its id."""
    return Candidate(ReplicaState(replica, incarnation=""))


def is_published(candidate: Candidate) -> bool:
    """Return whether the candidate's load is its own word, rather than :func:`unpublished`."""
    return candidate.state.incarnation != ""


def with_fleet_rates(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidates; one that rests its prefill rate on few samples has the fleet's best if that is better.

    One without any rate has it too: by a default for all machines it might look slow, and get no call to learn from.
    Engines that start side by side on one machine measure their warm-up while the other one computes. One that looks
    slow for that reason alone would get no call in an idle fleet, and never measure again.
    """
    if not any(map(_is_unmeasured, candidates)):
        return candidates
    rated = [candidate for candidate in candidates if candidate.state.load.prefill_s_per_token > 0]
    if not rated:
        return candidates
    known = [candidate for candidate in rated if not _is_unmeasured(candidate)]
    best = min((candidate.state.load for candidate in known or rated), key=lambda load: load.prefill_s_per_token)
    return [_with_rates(candidate, best) if _is_unmeasured(candidate) else candidate for candidate in candidates]


def _is_unmeasured(candidate: Candidate) -> bool:
    load = candidate.state.load
    if load.prefill_samples:
        return load.prefill_samples < FEW_SAMPLES
    return load.prefill_s_per_token <= 0 and load.prefill_tokens_per_s < 1


def _with_rates(candidate: Candidate, best: ReplicaLoad) -> Candidate:
    load = candidate.state.load
    if 0 < load.prefill_s_per_token <= best.prefill_s_per_token:
        return candidate
    load = replace(
        load,
        prefill_fixed_s=best.prefill_fixed_s,
        prefill_s_per_token=best.prefill_s_per_token,
        prefill_s_per_square_token=best.prefill_s_per_square_token,
        queued_prefill_s=0.0,
        queue_profile=(),
    )
    return replace(candidate, state=replace(candidate.state, load=load))


def requests(candidate: Candidate) -> int:
    """Return how many requests a replica has: running, waiting, or claimed and not in its load yet."""
    load = candidate.state.load
    return load.running + load.waiting + candidate.claims


def queued_tokens(candidate: Candidate) -> int:
    """Return how many tokens a replica has to prefill, claimed ones included."""
    return max(0, candidate.state.load.queued_prefill_tokens) + candidate.claimed_tokens


def overlap_tokens(call: Call, candidate: Candidate) -> int:
    """Return how many prompt tokens need no prefill; an engine computes at least the last one."""
    held, claimed, most = candidate.held_blocks, candidate.claimed_blocks, call.prompt_tokens - 1
    tokens = (held if held > claimed else claimed) * call.block_tokens
    if tokens > most:
        return most if most > 0 else 0
    return tokens


def queue_before_s(load: ReplicaLoad, prefill_s: float, s_per_token: float) -> float:
    """Return how long a replica's queue, as published, keeps its engine from a call.

    Args:
        load: as published.
        prefill_s: how long the call takes there.
        s_per_token: the replica's rate, for one that says no time.
    """
    if load.queued_prefill_s <= 0:
        return max(0, load.queued_prefill_tokens) * s_per_token
    if not load.queue_profile:
        return load.queued_prefill_s
    return seconds_before(load.queue_profile, prefill_s)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Expected TTFT in seconds: the sum of an :class:`~aloraserve.routing.base.Estimate`'s parts.

    - ``queue_s``: what the replica says of its queue (its tokens at its rate, if it says no time), and the claimed
      tokens at its linear rate, with a fixed part for each claim. Of an engine that begins waiting calls by their
      numbers, only what it computes before this call (:mod:`~aloraserve.routing.queue_profile`). Of claimed calls just
      the sum is known: those that take no longer than this one take at most as long as it, each.
    - ``prefill_s``: the call's own tokens, by the replica's :class:`~aloraserve.routing.prefill_model.PrefillModel`.
    - ``decode_s``: chunked prefill shares each step with the answers being decoded (Sarathi-Serve, arXiv
      2403.02310). The queue and the call take ``tokens / step_tokens`` steps, each longer by ``decode_share`` of a
      decoding step; before them, half of the running step is still to come.
    - ``slot_s``: the longer of two waits. With all ``max_requests`` slots taken, one is free every ``service_s /
      max_requests``, and a call waits for as many as it takes to be next. So it is for an adapter that is not among
      the active ones, where those are ``adapter_slots`` or more: loaded or not, it cannot run before one of them ends.
    - ``adapter_s``: loading the adapter where it is not resident. Nothing is known of a replica that shows neither
      residents nor slots nor a load time: it is charged ``unknown_resident_share`` of that.
    - ``memory_s``: blocks in a slower tier cost ``slow_tier_share`` of their prefill; and a call for whose new tokens
      the KV cache has no room waits until answers end. Those give ``used`` tokens back within ``service_s``, so that
      the tokens that are too many take ``service_s * overflow / used``. That is where reuse stops paying (Li et al.,
      arXiv 2512.17910, figure 9).
    - ``unknown_s``: a replica that published nothing is charged ``unpublished_s``: a new one is reached when the
      others are busy, and one that hangs (its lease lapsed) does not look idle and draw all calls.

    Beside the sum stands ``tpot_s``. The call's prefill delays each running answer by as long as it takes itself. Where
    the replica's answers are slower than ``tpot_objective_s`` a token, ``tpot_share`` of that is charged, times by how
    much they are; at most all of it. So the slowest replicas recover first.

    Args:
        default_tokens_per_s: the prefill rate of a replica that has not measured its own.
        service_s: how long a request keeps its slot, where the replica has not said.
        unpublished_s: see above.
        slow_tier_share: see above.
        step_tokens: tokens that an engine prefills in one step at most (vLLM's ``max_num_batched_tokens``), if it does
            not say.
        decode_share: how much of a decoding step the prefill beside it does not hide, 0 to 1.
        adapter_load_s: how long a load takes, where the replica has not said.
        unknown_resident_share: see above.
        kv_reserve: share of the KV cache that running answers will grow into.
        tpot_objective_s: time between two tokens of an answer that is as good as a shorter one; 0: any is.
        tpot_share: see above.
    """

    default_tokens_per_s: float = 2000.0
    service_s: float = 2.0
    unpublished_s: float = 1.0
    slow_tier_share: float = 0.2
    step_tokens: int = 2048
    decode_share: float = 1.0
    adapter_load_s: float = 0.1
    unknown_resident_share: float = 0.5
    kv_reserve: float = 0.05
    tpot_objective_s: float = TPOT_OBJECTIVE_S
    tpot_share: float = 0.1

    def prefill_model(self, load: ReplicaLoad) -> PrefillModel:
        """Return the replica's own model, else its rate, else the default rate."""
        if load.prefill_s_per_token > 0:
            return _learned(load.prefill_fixed_s, load.prefill_s_per_token, load.prefill_s_per_square_token)
        # An engine computes more than a token per second.
        rate = load.prefill_tokens_per_s if load.prefill_tokens_per_s >= 1 else self.default_tokens_per_s
        return _linear(rate)

    def estimate(self, call: Call, candidate: Candidate) -> Estimate:
        """Return the call's expected TTFT on the candidate and what it is made of."""
        state = candidate.state
        load = state.load
        model = self.prefill_model(load)
        overlap = overlap_tokens(call, candidate)
        queued = queued_tokens(candidate)
        prefill_s = model.seconds(overlap, call.prompt_tokens)
        # One call costs thousands of these, so that parts without a cause are not worked out.
        queue_s = 0.0
        if queued or load.queued_prefill_s or candidate.claims:
            queue_s, queued = self._queue(model, candidate, prefill_s)
        decode_s = 0.0
        if load.running > 0 and load.decode_step_s > 0:
            decode_s = self._decode_s(load, queued + call.prompt_tokens - overlap)
        slot_s = self.slot_wait_s(call, candidate)
        adapter_s = 0.0
        if call.version is not None and state.incarnation and call.version not in state.resident:
            adapter_s = self._adapter_s(state)
            if call.version in state.active_adapters:
                # It is being loaded: half of that is over, on average.
                adapter_s *= 0.5
        memory_s = self._copy_s(model, call, candidate) if candidate.held_blocks > candidate.fast_blocks else 0.0
        if load.kv_tokens > 0:
            memory_s += self._room_s(candidate, queued, call.prompt_tokens - overlap)
        unknown_s = 0.0 if state.incarnation else self.unpublished_s
        return Estimate(
            state.replica,
            state.label or state.replica,
            queue_s + prefill_s + decode_s + slot_s + adapter_s + memory_s + unknown_s,
            overlap,
            queued,
            queue_s,
            prefill_s,
            decode_s,
            slot_s,
            adapter_s,
            memory_s,
            unknown_s,
            self._tpot_s(load, prefill_s) if load.running > 0 else 0.0,
        )

    def slot_wait_s(self, call: Call, candidate: Candidate) -> float:
        """Return how long a call waits for a request slot and an adapter slot; 0 where their number is unknown."""
        load = candidate.state.load
        wait_s = 0.0
        if load.max_requests > 0:
            ahead = requests(candidate) - load.max_requests + 1
            if ahead > 0:
                wait_s = ahead * self._service_s(load) / load.max_requests
        active = candidate.state.active_adapters
        if call.version is not None and 0 < load.adapter_slots <= len(active) and call.version not in active:
            ahead = len(active) - load.adapter_slots + 1
            wait_s = max(wait_s, ahead * self._service_s(load) / load.adapter_slots)
        return wait_s

    def _service_s(self, load: ReplicaLoad) -> float:
        return load.service_s if load.service_s > 0 else self.service_s

    @staticmethod
    def _queue(model: PrefillModel, candidate: Candidate, prefill_s: float) -> tuple[float, int]:
        """Return how long the engine computes before a call that takes ``prefill_s``, and how many tokens."""
        load, claims, queued = candidate.state.load, candidate.claims, queued_tokens(candidate)
        claimed_s = candidate.claimed_tokens * model.s_per_token + claims * model.fixed_s
        whole_s = queue_before_s(load, math.inf, model.s_per_token) + claimed_s
        if not load.ageing or whole_s <= 0:
            return whole_s, queued
        before_s = queue_before_s(load, prefill_s, model.s_per_token) + min(claimed_s, claims * prefill_s)
        return before_s, round(queued * min(before_s / whole_s, 1.0))

    def _decode_s(self, load: ReplicaLoad, tokens: int) -> float:
        return load.decode_step_s * self.decode_share * (0.5 + max(0, tokens) / (load.step_tokens or self.step_tokens))

    def _tpot_s(self, load: ReplicaLoad, prefill_s: float) -> float:
        """Return the charge for the delay of the answers that run."""
        objective_s = self.tpot_objective_s
        if objective_s <= 0 or load.inter_token_s <= objective_s:
            return 0.0
        share = self.tpot_share * (load.inter_token_s / objective_s - 1)
        return min(share, 1.0) * load.running * prefill_s

    def _adapter_s(self, state: ReplicaState) -> float:
        load = state.load
        reports_adapters = bool(state.resident) or load.adapter_slots > 0 or load.adapter_load_s > 0
        share = 1.0 if reports_adapters else self.unknown_resident_share
        return share * (load.adapter_load_s if load.adapter_load_s > 0 else self.adapter_load_s)

    def _copy_s(self, model: PrefillModel, call: Call, candidate: Candidate) -> float:
        start = candidate.fast_blocks * call.block_tokens
        end = min(candidate.held_blocks * call.block_tokens, call.prompt_tokens)
        return self.slow_tier_share * max(0.0, model.seconds(start, end) - model.fixed_s)

    def _room_s(self, candidate: Candidate, queued: int, tokens: int) -> float:
        """Return how long ``tokens`` wait for room in the KV cache.

        Used are the share that the replica says, which counts a block once however many requests share it, and what
        is queued and claimed; where it says none, all tokens of its requests. A call that is longer than the cache
        waits for no more than all that is used.
        """
        load = candidate.state.load
        if load.kv_usage > 0:
            used = load.kv_usage * load.kv_tokens + queued
        else:
            used = float(min(load.running_tokens, load.kv_tokens) + candidate.claimed_tokens)
        overflow = used + tokens - (1 - self.kv_reserve) * load.kv_tokens
        if overflow <= 0 or used <= 0:
            return 0.0
        return self._service_s(load) * min(1.0, overflow / used)


@lru_cache(maxsize=1024)
def _learned(fixed_s: float, s_per_token: float, s_per_square_token: float) -> PrefillModel:
    return PrefillModel(fixed_s, s_per_token, s_per_square_token)


@lru_cache(maxsize=1024)
def _linear(tokens_per_s: float) -> PrefillModel:
    return PrefillModel(s_per_token=1 / tokens_per_s)
