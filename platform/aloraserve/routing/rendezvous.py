"""Affinity without a directory: the same conversation hashes to the same replica."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.conversation_names import plain_name
from aloraserve.routing.cost_model import CostModel, queued_tokens, requests

SLACK = 1.25
"""How many times the mean a replica's load may be, where nothing is known of its cache."""
SPARE_CALLS = 4


def conversation(call: Call) -> bytes:
    """Return what names the call's conversation, also of a call that no gateway has named."""
    return call.conversation or plain_name(call)


def weight(name: bytes, replica: str) -> bytes:
    """Return the random weight of a pair; the least wins (Thaler and Ravishankar, "A name-based mapping scheme for
    rendezvous", 1996)."""
    return hashlib.blake2b(name + b"\0" + replica.encode(), digest_size=8).digest()


class Rendezvous:
    """See :class:`~aloraserve.routing.base.Policy`: by the weight of (conversation, replica).

    Replicas with room for the call come first, in hash order; the busy ones follow, in hash order too. Room is what
    "consistent hashing with bounded loads" (Mirrokni et al. 2018) leaves: ``slack`` times the mean load, this call
    included, in tokens to prefill and in calls. Small loads are no reason to leave a prefix: there is always room for
    the prefill of as many tokens as this call's own, which is the most that going elsewhere costs, and for
    ``SPARE_CALLS`` calls. Gateways that each count only their own calls keep the bound together, but for those.

    Args:
        costs: for the estimates that go with the order.
        slack: the ``c`` of the paper, at least 1.
    """

    name = "rendezvous"

    def __init__(self, costs: CostModel | None = None, *, slack: float = SLACK) -> None:
        self._costs = costs or CostModel()
        self._slack = slack

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by hash, busy ones last."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        name = conversation(call)
        busy = self._busy(call, candidates)
        ordered = sorted(
            candidates,
            key=lambda candidate: (
                candidate.state.replica in busy,
                weight(name, candidate.state.replica),
                candidate.state.replica,
            ),
        )
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        return Decision(self.name, "by hash of the conversation", estimates)

    def _busy(self, call: Call, candidates: Sequence[Candidate]) -> set[str]:
        share = self._slack / len(candidates)
        most_calls = share * (sum(map(requests, candidates)) + 1) + SPARE_CALLS
        most_tokens = max(share * (sum(map(queued_tokens, candidates)) + call.prompt_tokens), call.prompt_tokens)
        return {
            candidate.state.replica
            for candidate in candidates
            if requests(candidate) + 1 > most_calls or queued_tokens(candidate) > most_tokens
        }
