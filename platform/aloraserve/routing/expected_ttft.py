"""The policy that this platform is for: the smallest expected time to first token wins."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.load import CostModel, is_published, requests

_Scored = tuple[Estimate, Candidate]


class ExpectedTtft:
    """See :class:`~aloraserve.routing.base.Policy`; the estimate is
    :class:`~aloraserve.routing.load.CostModel`'s.

    Candidates within ``tie_tokens`` of prefill or ``tie_share`` of the best are equally good: the rates that equal
    machines measure differ that much, also with the lengths of the prompts that they happened to get. Among them the
    fewest requests win, then the shortest queue, then the longest overlap, then the fewest blocks held, so that new
    conversations spread over an idle fleet, then the lower id.

    Args:
        costs: the cost model.
        tie_tokens: fewer than a block, or a held block would not count.
        tie_share: of the best's expected TTFT.
    """

    name = "expected-ttft"

    def __init__(self, costs: CostModel | None = None, *, tie_tokens: int = 4, tie_share: float = 0.25) -> None:
        self._costs = costs or CostModel()
        self._tie_tokens = tie_tokens
        self._tie_share = tie_share

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by expected TTFT."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        scored = sorted(((self._costs.estimate(call, one), one) for one in candidates), key=_by_ttft)
        limit_s = self._tie_limit_s(*scored[0])
        tied = sorted((one for one in scored if one[0].expected_ttft_s <= limit_s), key=_by_load)
        estimates = tuple(estimate for estimate, _ in tied + scored[len(tied) :])
        return Decision(self.name, _reason(call, estimates), estimates)

    def _tie_limit_s(self, best: Estimate, candidate: Candidate) -> float:
        tokens_s = self._tie_tokens / self._costs.tokens_per_s(candidate.state.load)
        return best.expected_ttft_s + max(tokens_s, self._tie_share * best.expected_ttft_s)


def _by_load(scored: _Scored) -> tuple[bool, int, int, int, int, str]:
    estimate, candidate = scored
    state = candidate.state
    return (
        not is_published(candidate),
        requests(state.load),
        estimate.queued_tokens,
        -estimate.overlap_tokens,
        state.held_blocks,
        state.replica,
    )


def _by_ttft(scored: _Scored) -> tuple[float, int, str]:
    estimate, candidate = scored
    return estimate.expected_ttft_s, requests(candidate.state.load), estimate.replica


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
    return f"{holder} but would start later"
