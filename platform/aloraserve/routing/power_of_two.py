"""Two replicas at random, the less loaded of them: what Ray Serve does by default."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel, requests
from aloraserve.routing.least_loaded import by_load


class PowerOfTwo:
    """See :class:`~aloraserve.routing.base.Policy`; Mitzenmacher, "The power of two choices in randomized load
    balancing", 2001. The others follow, the less loaded first.

    Args:
        costs: for the estimates that go with the order.
        seed: the same seed and the same calls give the same decisions.
    """

    name = "power-of-two"

    def __init__(self, costs: CostModel | None = None, *, seed: int = 0) -> None:
        self._costs = costs or CostModel()
        self._random = random.Random(seed)  # noqa: S311

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates``: the two drawn first."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        sample = self._random.sample(range(len(candidates)), min(2, len(candidates)))
        known = sorted(candidates, key=lambda candidate: candidate.state.replica)
        drawn = {known[index].state.replica for index in sample}
        ordered = sorted(known, key=lambda candidate: (candidate.state.replica not in drawn, by_load(candidate)))
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        return Decision(self.name, f"has {requests(ordered[0]):,} requests, fewer than another drawn", estimates)
