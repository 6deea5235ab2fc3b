"""What a call would cost on a replica, from what the replica published of itself."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call, Estimate


def unpublished(replica: str) -> Candidate:
    """Return a candidate for a replica of which nothing is known but its id."""
    return Candidate(ReplicaState(replica, incarnation=""))


def is_published(candidate: Candidate) -> bool:
    """Return whether the candidate's load is its own word, rather than :func:`unpublished`."""
    return candidate.state.incarnation != ""


def requests(load: ReplicaLoad) -> int:
    """Return how many requests a replica has, running or waiting."""
    return load.running + load.waiting


def overlap_tokens(call: Call, candidate: Candidate) -> int:
    """Return how many prompt tokens need no prefill; an engine computes at least the last one."""
    blocks = max(candidate.held_blocks, candidate.claimed_blocks)
    return max(0, min(blocks * call.block_tokens, call.prompt_tokens - 1))


@dataclass(frozen=True, slots=True)
class CostModel:
    """Expected TTFT, in seconds::

        (queued prefill tokens + claimed tokens + prompt - overlap) / rate + wait for a slot

    A replica with ``max_requests`` slots, all taken, frees one every ``service_s / max_requests``; a call
    waits for as many as it takes to be next. A replica that published nothing is charged ``unpublished_s``: a
    new one is reached when the others are busy, and one that hangs (its lease lapsed) does not look idle and
    draw all calls.

    Args:
        default_tokens_per_s: the prefill rate of a replica that has not measured its own.
        service_s: how long a request typically keeps its slot.
        unpublished_s: see above.
    """

    default_tokens_per_s: float = 2000.0
    service_s: float = 2.0
    unpublished_s: float = 1.0

    def tokens_per_s(self, load: ReplicaLoad) -> float:
        """Return the replica's prefill rate, its own if it has measured one."""
        return load.prefill_tokens_per_s if load.prefill_tokens_per_s > 0 else self.default_tokens_per_s

    def slot_wait_s(self, load: ReplicaLoad) -> float:
        """Return how long a call waits for a slot; 0 where there is a free one or their number is unknown."""
        if load.max_requests <= 0:
            return 0.0
        ahead = requests(load) - load.max_requests + 1
        return max(0, ahead) * self.service_s / load.max_requests

    def estimate(self, call: Call, candidate: Candidate) -> Estimate:
        """Return the call's expected TTFT on the candidate and what it is made of."""
        load = candidate.state.load
        overlap = overlap_tokens(call, candidate)
        queued = max(0, load.queued_prefill_tokens) + candidate.claimed_tokens
        prefill_s = (queued + max(0, call.prompt_tokens - overlap)) / self.tokens_per_s(load)
        unknown_s = 0.0 if is_published(candidate) else self.unpublished_s
        return Estimate(
            replica=candidate.state.replica,
            label=candidate.state.label or candidate.state.replica,
            expected_ttft_s=prefill_s + self.slot_wait_s(load) + unknown_s,
            overlap_tokens=overlap,
            queued_tokens=queued,
        )
