"""Affinity without a directory: the same conversation hashes to the same replica."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel, is_published, requests

ANCHOR_BLOCKS = 4


def conversation(call: Call) -> bytes:
    """Return what names the call's conversation: the key of its fourth block, or of its last if it is shorter.

    Keys are chained, so that one stands for all before it. Without any key there is no affinity to keep and the
    prompt's length spreads calls.
    """
    if not call.keys:
        return str(call.prompt_tokens).encode()
    return call.keys[min(ANCHOR_BLOCKS, len(call.keys)) - 1]


def weight(name: bytes, replica: str) -> bytes:
    """Return the random weight of a pair; the least wins (Thaler and Ravishankar, "A name-based mapping scheme for
    rendezvous", 1996)."""
    return hashlib.blake2b(name + b"\0" + replica.encode(), digest_size=8).digest()


class Rendezvous:
    """See :class:`~aloraserve.routing.base.Policy`: by the weight of (conversation, replica).

    Replicas with at most ``slack`` times the mean number of requests, and one more, come first ("consistent
    hashing with bounded loads", Mirrokni et al. 2018), in hash order; the busier ones follow, in hash order
    too.

    Args:
        costs: for the estimates that go with the order.
        slack: at least 1.
    """

    name = "rendezvous"

    def __init__(self, costs: CostModel | None = None, *, slack: float = 1.25) -> None:
        self._costs = costs or CostModel()
        self._slack = slack

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by hash, busy ones last."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        name = conversation(call)
        busy = self._busy(candidates)
        ordered = sorted(
            candidates,
            key=lambda candidate: (
                candidate.state.replica in busy,
                weight(name, candidate.state.replica),
                candidate.state.replica,
            ),
        )
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        return Decision(self.name, "by hash of the conversation's first blocks", estimates)

    def _busy(self, candidates: Sequence[Candidate]) -> set[str]:
        loads = {candidate.state.replica: requests(candidate) for candidate in candidates if is_published(candidate)}
        limit = self._slack * sum(loads.values()) / len(loads) + 1 if loads else 0
        return {replica for replica, load in loads.items() if load > limit}
