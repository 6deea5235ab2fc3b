from __future__ import annotations

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.cost_model import unpublished
from aloraserve.routing.round_robin import RoundRobin

CALL = Call(64, 16, [])


def test_each_replica_has_its_turn_whatever_it_holds() -> None:
    policy = RoundRobin()
    fleet = [Candidate(ReplicaState("b", "1"), 4, 4), unpublished("c"), unpublished("a")]
    ranks = [policy.decide(CALL, fleet).rank for _ in range(4)]
    assert ranks == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_the_reason_says_that_holdings_do_not_matter() -> None:
    assert "whatever" in RoundRobin().decide(CALL, [unpublished("a")]).reason


def test_no_candidates_is_a_decision_without_estimates() -> None:
    assert RoundRobin().decide(CALL, []).rank == []
