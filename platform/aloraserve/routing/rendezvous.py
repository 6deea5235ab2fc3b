"""Affinity without a directory: the same conversation hashes to the same replica."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.load import CostModel, is_published, requests

ANCHOR_BLOCKS = 4


class Rendezvous:
    """See :class:`~aloraserve.routing.base.Policy`: highest random weight of (conversation, replica).

    A conversation is known by the key of its fourth block, or of its last if it is shorter: keys are chained,
    so that one stands for all before it. Without any key there is no affinity to keep and the prompt's length
    spreads calls.

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
        anchor = _anchor(call)
        busy = self._busy(candidates)
        ordered = sorted(
            candidates,
            key=lambda one: (
                one.state.replica in busy,
                _weight(anchor, one.state.replica),
                one.state.replica,
            ),
        )
        estimates = tuple(self._costs.estimate(call, one) for one in ordered)
        return Decision(self.name, "by hash of the conversation's first blocks", estimates)

    def _busy(self, candidates: Sequence[Candidate]) -> set[str]:
        loads = {one.state.replica: requests(one.state.load) for one in candidates if is_published(one)}
        limit = self._slack * sum(loads.values()) / len(loads) + 1 if loads else 0
        return {replica for replica, load in loads.items() if load > limit}


def _anchor(call: Call) -> bytes:
    if not call.keys:
        return str(call.prompt_tokens).encode()
    return call.keys[min(ANCHOR_BLOCKS, len(call.keys)) - 1]


def _weight(anchor: bytes, replica: str) -> bytes:
    return hashlib.blake2b(anchor + replica.encode(), digest_size=8).digest()
