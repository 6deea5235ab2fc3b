from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.cost_model import unpublished
from aloraserve.routing.rendezvous import Rendezvous

SPACE = KeySpace("model", "tokenizer", 4)
FLEET = [unpublished(f"r{number}") for number in range(5)]


SYSTEM = list(range(1000, 1200))


class Gateway:
    """What names calls and places them, as a gateway without a directory does."""

    def __init__(self) -> None:
        self._names = ConversationNames()

    def first(self, call: Call, fleet: Sequence[Candidate] = FLEET) -> str:
        named = replace(call, conversation=self._names.name(call))
        return Rendezvous().decide(named, fleet).rank[0]


def call(conversation: int, tokens: int = 64, system: Sequence[int] = SYSTEM) -> Call:
    """Return a call whose conversation shares its system prompt with all others."""
    prompt = [*system, *[conversation] * tokens]
    return Call(len(prompt), 4, SPACE.keys(prompt))


@pytest.fixture
def gateway() -> Gateway:
    """One that has seen some conversations."""
    made = Gateway()
    for conversation in range(1000, 1040):
        made.first(call(conversation))
    return made


def test_a_conversation_stays_where_it_is_as_it_grows(gateway: Gateway) -> None:
    for conversation in range(20):
        assert gateway.first(call(conversation, 16)) == gateway.first(call(conversation, 400))


def test_conversations_with_one_system_prompt_spread_over_the_fleet(gateway: Gateway) -> None:
    counts = Counter(gateway.first(call(conversation)) for conversation in range(500))
    assert len(counts) == 5
    assert max(counts.values()) < 160


def test_a_lost_replica_moves_only_its_own_conversations(gateway: Gateway) -> None:
    moved = 0
    for conversation in range(50):
        before = gateway.first(call(conversation))
        after = gateway.first(call(conversation), FLEET[1:])
        assert (after == before) == (before != "r0")
        moved += after != before
    assert moved


def test_two_gateways_agree_on_conversations_that_both_have_seen_others_of(gateway: Gateway) -> None:
    other = Gateway()
    for conversation in range(5000, 5040):
        other.first(call(conversation))
    for conversation in range(50):
        assert gateway.first(call(conversation)) == other.first(call(conversation, 300))


def test_a_busy_replica_comes_last() -> None:
    """With room for 1.25 times the mean of 3.25 calls, this one included, and 4 more."""
    for conversation in range(20):
        fleet = [
            Candidate(ReplicaState(f"r{number}", "1", load=ReplicaLoad(running=9 if number == 2 else 1)))
            for number in range(4)
        ]
        assert Rendezvous().decide(call(conversation), fleet).rank[-1] == "r2"


def with_tokens(busy: int, idle: int) -> list[Candidate]:
    return [replace(one, claimed_tokens=busy if number == 2 else idle, claims=1) for number, one in enumerate(FLEET)]


def test_a_replica_with_more_to_prefill_than_its_share_and_the_call_comes_last() -> None:
    for conversation in range(20):
        length = call(conversation).prompt_tokens
        assert Rendezvous().decide(call(conversation), with_tokens(length + 1, 0)).rank[-1] == "r2"
        assert Rendezvous().decide(call(conversation), with_tokens(14_000, 10_000)).rank[-1] == "r2"


def test_a_prefix_is_not_left_for_less_than_it_takes_to_prefill() -> None:
    for conversation in range(20):
        here, idle = call(conversation), Rendezvous().decide(call(conversation), FLEET).rank
        assert Rendezvous().decide(here, with_tokens(here.prompt_tokens, 0)).rank == idle
        assert Rendezvous().decide(here, with_tokens(12_000, 10_000)).rank == idle


def test_calls_without_a_whole_block_spread_by_length(gateway: Gateway) -> None:
    assert len({gateway.first(Call(tokens, 4, [])) for tokens in range(40)}) > 1


def test_the_clients_own_id_names_a_conversation(gateway: Gateway) -> None:
    calls = [replace(call(1), session=f"s{number}") for number in range(40)]
    assert len({gateway.first(one) for one in calls}) == len(FLEET)
    assert gateway.first(calls[0]) == gateway.first(replace(call(2, 900), session="s0"))


def test_no_candidates_is_a_decision_without_estimates() -> None:
    assert Rendezvous().decide(call(1), []).rank == []
