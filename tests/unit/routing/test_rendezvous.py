from __future__ import annotations

from collections import Counter

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.cost_model import unpublished
from aloraserve.routing.rendezvous import Rendezvous

SPACE = KeySpace("model", "tokenizer", 4)
FLEET = [unpublished(f"r{number}") for number in range(5)]


def call(conversation: int, tokens: int = 64) -> Call:
    return Call(tokens, 4, SPACE.keys([conversation] * tokens))


def first(one: Call, fleet: list[Candidate]) -> str:
    return Rendezvous().decide(one, fleet).rank[0]


def test_a_conversation_stays_where_it_is_as_it_grows() -> None:
    for conversation in range(20):
        assert first(call(conversation, 16), FLEET) == first(call(conversation, 400), FLEET)


def test_conversations_spread_over_the_fleet() -> None:
    counts = Counter(first(call(conversation), FLEET) for conversation in range(500))
    assert len(counts) == 5
    assert max(counts.values()) < 160


def test_a_lost_replica_moves_only_its_own_conversations() -> None:
    for conversation in range(50):
        before = first(call(conversation), FLEET)
        if before != "r0":
            assert first(call(conversation), FLEET[1:]) == before


def test_a_busy_replica_comes_last() -> None:
    for conversation in range(20):
        fleet = [
            Candidate(ReplicaState(f"r{number}", "1", load=ReplicaLoad(running=9 if number == 2 else 1)))
            for number in range(4)
        ]
        assert Rendezvous().decide(call(conversation), fleet).rank[-1] == "r2"


def test_calls_without_a_whole_block_spread_by_length() -> None:
    assert len({first(Call(tokens, 4, []), FLEET) for tokens in range(40)}) > 1


def test_no_candidates_is_a_decision_without_estimates() -> None:
    assert Rendezvous().decide(call(1), []).rank == []
