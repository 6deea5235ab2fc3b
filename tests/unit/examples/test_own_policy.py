"""The example of a policy: warm replicas first, then the shortest queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.policies import make_policy

CALL = Call(prompt_tokens=64, block_tokens=16, keys=KeySpace("model", "tokenizer", 16).keys([7] * 64))


def test_warm_replicas_come_first_then_the_shortest_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    policy = make_policy("own_policy:WarmOrShortest")

    def candidate(name: str, held: int, queued: int) -> Candidate:
        return Candidate(ReplicaState(name, "1", load=ReplicaLoad(queued_prefill_tokens=queued)), held, held)

    fleet = [candidate("idle", 0, 0), candidate("warm", 2, 500), candidate("luke", 1, 90), candidate("queued", 3, 700)]
    decision = policy.decide(CALL, fleet)
    assert decision.rank == ["warm", "queued", "idle", "luke"]
    assert (decision.policy, decision.reason) == ("warm-or-shortest", "holds 32 tokens")
    assert policy.decide(CALL, fleet[:1]).reason == "has the shortest queue"
    assert policy.decide(CALL, []).rank == []
