"""The policy that this platform is for: the smallest expected time to first token wins."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.cost_model import CostModel, is_published, queue_before_s, requests, with_fleet_rates
from aloraserve.routing.rendezvous import conversation, weight


@dataclass(frozen=True, slots=True)
class ExpectedTtftTuning:
    """When two candidates are equally good, and what a second prefill costs the fleet.

    Args:
        tie_tokens: the time to prefill so many tokens makes no difference; less than a block, or a held one would not
            count.
        tie_share: nor is this share of the best's score: the rates that equal machines measure differ that much, also
            with the lengths of the prompts that they happened to get.
        duplicate_share: leaving the longest overlap makes the fleet compute tokens that it has, and evict others for
            them: that share of their prefill is charged on top of what the call itself waits for, in an idle fleet.
        duplicate_most: the share grows by the pressure on the cache (see below), at most by that.
        eviction_share: a prompt takes its blocks from those that no running call uses. The fewer those are, the younger
            is what it evicts, and the sooner somebody computes that again: charged is that share of its prefill, times
            the pressure on the cache, which is the blocks in use by those that are not.
        eviction_reserve: share of the cache that counts as not in use however full it is.
        load_share: where a replica has the adapter, another one that would have to load it is charged that share of the
            load on top of it: a load evicts another adapter, which somebody will load again. So an adapter comes to be
            on another replica only when its calls wait longer than that.
        overlap_steps: overlaps count as different among the equally good if they differ by one of so many parts of the
            prompt.
        room_steps: so does the room in their KV caches while one of them is idle, if it differs by one of so many parts
            of the prompt; by the whole prompt otherwise: what loads busy replicas evenly makes an overload worse.
        spread_requests: so many more requests than the fewest make no difference among the equally good, so that
            gateways that see the same idle replica do not all choose it.
        shortlist: with more than twice as many candidates, only so many are estimated: those with the least work, by
            the main terms of the estimate.
    """

    tie_tokens: int = 4
    tie_share: float = 0.25
    duplicate_share: float = 0.25
    duplicate_most: float = 2.0
    eviction_share: float = 1.0
    eviction_reserve: float = 0.05
    load_share: float = 0.5
    overlap_steps: int = 8
    room_steps: int = 4
    spread_requests: int = 1
    shortlist: int = 16


class _Scored(NamedTuple):
    score_s: float
    requests: int
    estimate: Estimate
    candidate: Candidate


class ExpectedTtft:
    """See :class:`~aloraserve.routing.base.Policy`; the estimates are
    :class:`~aloraserve.routing.cost_model.CostModel`'s.

    The score is the expected TTFT and what the call costs others: the charge for slower answers (``tpot_s``), one for
    what its blocks evict, and a share (both :class:`ExpectedTtftTuning`) of what prefilling the longest overlap's
    tokens again takes. A call leaves its holder only for more than that, a fan-out of siblings with it. Of those whose
    score is within ``tie_tokens`` or ``tie_share`` of the best, the longest overlap comes first, then the fewest
    requests, then the most room in the KV cache, so that new conversations fill an idle fleet evenly, all three in
    coarse steps; then the overlap in blocks, then a hash of the conversation: gateways that decide on the same stale
    state send different conversations to different replicas, and each conversation to one.

    Args:
        costs: the cost model.
        tuning: see :class:`ExpectedTtftTuning`.
    """

    name = "expected-ttft"

    def __init__(self, costs: CostModel | None = None, tuning: ExpectedTtftTuning | None = None) -> None:
        self._costs = costs or CostModel()
        self._tuning = tuning or ExpectedTtftTuning()

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by score, the equally good by what else speaks for them."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        estimated = with_fleet_rates(self._shortlisted(call, candidates))
        scored = sorted(self._scored(call, estimated), key=_by_score)
        limit_s = self._tie_limit_s(scored[0])
        tied = [option for option in scored if option.score_s <= limit_s]
        if len(tied) > 1:
            scored[: len(tied)] = self._spread(call, tied)
        estimates = tuple(option.estimate for option in scored)
        return Decision(self.name, _reason(call, estimates), estimates)

    def _shortlisted(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return the candidates with the least work before the call's first token, all of them if they are few."""
        if len(candidates) <= 2 * self._tuning.shortlist:
            return candidates
        version, prompt_tokens, block_tokens = call.version, call.prompt_tokens, call.block_tokens
        default_s = 1 / self._costs.default_tokens_per_s

        def work_s(candidate: Candidate) -> tuple[float, int, int]:
            load = candidate.state.load
            token_s = load.prefill_s_per_token or default_s
            held_tokens = max(candidate.held_blocks, candidate.claimed_blocks) * block_tokens
            own_s = (prompt_tokens - held_tokens) * token_s
            seconds = queue_before_s(load, own_s, token_s) + candidate.claimed_tokens * token_s + own_s
            if version is not None and version not in candidate.state.resident:
                seconds += load.adapter_load_s
            if not is_published(candidate):
                seconds += self._costs.unpublished_s
            return seconds, load.running + load.waiting, candidate.state.held_blocks

        return heapq.nsmallest(self._tuning.shortlist, candidates, key=work_s)

    def _scored(self, call: Call, candidates: Sequence[Candidate]) -> list[_Scored]:
        estimates = [self._costs.estimate(call, candidate) for candidate in candidates]
        longest = max(estimate.overlap_tokens for estimate in estimates)
        # What nobody has has to be loaded somewhere.
        load_share = self._tuning.load_share if any(not estimate.adapter_s for estimate in estimates) else 0.0
        return [
            _Scored(self._score_s(estimate, candidate, longest, load_share), requests(candidate), estimate, candidate)
            for estimate, candidate in zip(estimates, candidates, strict=True)
        ]

    def _score_s(self, estimate: Estimate, candidate: Candidate, longest: int, load_share: float) -> float:
        tuning, pressure = self._tuning, self._pressure(candidate)
        score_s = estimate.expected_ttft_s + estimate.tpot_s + tuning.eviction_share * pressure * estimate.prefill_s
        score_s += load_share * estimate.adapter_s
        if estimate.overlap_tokens >= longest:
            return score_s
        model = self._costs.prefill_model(candidate.state.load)
        again_s = model.seconds(estimate.overlap_tokens, longest) - model.fixed_s
        return score_s + (tuning.duplicate_share + min(pressure, tuning.duplicate_most)) * again_s

    def _pressure(self, candidate: Candidate) -> float:
        used = min(max(candidate.state.load.kv_usage, 0.0), 1.0)
        return used / (1.0 + self._tuning.eviction_reserve - used)

    def _tie_limit_s(self, best: _Scored) -> float:
        tokens_s = self._tuning.tie_tokens * self._costs.prefill_model(best.candidate.state.load).s_per_token
        return best.score_s + max(tokens_s, self._tuning.tie_share * best.score_s)

    def _spread(self, call: Call, tied: Sequence[_Scored]) -> list[_Scored]:
        fewest = min(scored.requests for scored in tied)
        most = max(_room_tokens(call, scored) for scored in tied)
        room_steps = 1 if fewest else self._tuning.room_steps
        name = conversation(call)
        length = max(1, call.prompt_tokens)
        is_cold = call.version is not None and all(scored.estimate.adapter_s for scored in tied)
        version = (call.version or "").encode()

        def order(scored: _Scored) -> tuple[bool, bool, int, bytes, int, int, int, bytes, str]:
            overlap, replica = scored.estimate.overlap_tokens, scored.estimate.replica
            return (
                not is_published(scored.candidate),
                scored.estimate.adapter_s > 0,
                -(overlap * self._tuning.overlap_steps // length),
                # Gateways that do not know of each other's choice yet have it loaded on one replica.
                weight(version, replica) if is_cold else b"",
                (scored.requests - fewest) // (self._tuning.spread_requests + 1),
                (most - _room_tokens(call, scored)) * room_steps // length,
                -overlap,
                weight(name, replica),
                replica,
            )

        return sorted(tied, key=order)


def _by_score(option: _Scored) -> tuple[float, int, str]:
    return option[0], option[1], option[2][0]


def _room_tokens(call: Call, scored: _Scored) -> int:
    """Return how many tokens the replica's KV cache can take before it evicts; negative where its size is unknown.

    What it holds, what is queued and what is claimed but not reported yet leave no room.
    """
    state = scored.candidate.state
    return state.load.kv_tokens - state.held_blocks * call.block_tokens - scored.estimate.queued_tokens


def _reason(call: Call, estimates: Sequence[Estimate]) -> str:
    chosen = estimates[0]
    longest = max(estimates, key=lambda estimate: estimate.overlap_tokens)
    if longest.overlap_tokens == 0:
        return "least loaded, no prefix anywhere"
    if chosen.overlap_tokens == longest.overlap_tokens:
        return f"holds {chosen.overlap_tokens:,} of {call.prompt_tokens:,} tokens"
    holder = f"{longest.label} holds {longest.overlap_tokens:,} tokens"
    if longest.queued_tokens > chosen.queued_tokens:
        return f"{holder} but has {longest.queued_tokens:,} queued"
    if longest.adapter_s > chosen.adapter_s:
        return f"{holder} but would have to load the adapter"
    if longest.tpot_s > chosen.tpot_s:
        return f"{holder} but its answers are slow"
    if longest.memory_s > chosen.memory_s:
        return f"{holder} but its KV cache has no room"
    if longest.expected_ttft_s <= chosen.expected_ttft_s:
        return f"{holder} but has less of its KV cache to spare"
    return f"{holder} but would start later"
