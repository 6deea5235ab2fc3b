"""Where conversations part: for any system prompt, several applications, shared documents, siblings and turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from aloraserve.blocks import AdapterEffect, KeySpace
from aloraserve.routing.base import Call
from aloraserve.routing.conversation_names import (
    DEEP_BLOCKS,
    EXPLORED_BLOCKS,
    MANY,
    MAX_BRANCHINGS,
    ConversationNames,
    plain_name,
)

SPACE = KeySpace("model", "tokenizer", 4)
ENOUGH = 3 * MANY
"""So many conversations are always enough to know where they part."""


def shared(number: int, blocks: int) -> list[int]:
    return [10_000_000 + number * 100_000 + index for index in range(blocks * 4)]


def own(conversation: int, tokens: int) -> list[int]:
    return [100_000_000 + 10_000 * conversation + index for index in range(tokens)]


def call(tokens: Sequence[int], adapter: str | None = None, activation: int = 0) -> Call:
    if adapter is None:
        return Call(len(tokens), 4, SPACE.keys(tokens))
    keys = SPACE.keys(tokens, adapter=AdapterEffect(adapter, "digest", activation))
    return Call(len(tokens), 4, keys, adapter, base_blocks=activation // 4)


def learned(*prefixes: Sequence[int], conversations: int = ENOUGH) -> ConversationNames:
    names = ConversationNames()
    for conversation in range(1000, 1000 + conversations):
        for prefix in prefixes:
            names.name(call([*prefix, *own(conversation, 100)]))
    return names


@pytest.mark.parametrize("blocks", [0, 1, 3, 31, 32, 33, 200, 1000])
def test_behind_a_shared_prompt_of_any_length_each_conversation_has_a_name_that_its_turns_keep(blocks: int) -> None:
    system = shared(0, blocks)
    # A long prompt is explored by so many calls before it is known where it ends.
    names = learned(system, conversations=ENOUGH + blocks // EXPLORED_BLOCKS)
    turns = [[names.name(call([*system, *own(number, length)])) for number in range(50)] for length in (8, 200, 4000)]
    assert turns[0] == turns[1] == turns[2]
    assert len(set(turns[0])) == 50


def test_applications_with_system_prompts_of_their_own() -> None:
    prefixes = [shared(number, blocks) for number, blocks in enumerate((5, 40, 300))]
    names = learned(*prefixes)
    for prefix in prefixes:
        assert len({names.name(call([*prefix, *own(number, 50)])) for number in range(20)}) == 20


def test_documents_that_many_ask_about_are_no_conversation_and_those_of_few_are() -> None:
    system = shared(0, 10)
    popular, rare = [*system, *shared(1, 100)], [*system, *shared(2, 100)]
    names = learned(system, popular)
    questions = [names.name(call([*rare, *own(number, 40)])) for number in range(MANY // 2)]
    assert len(set(questions)) == 1, "the document is prefilled once"
    assert len({names.name(call([*popular, *own(number, 40)])) for number in range(20)}) == 20


def test_siblings_of_many_adapters_have_their_conversations_name() -> None:
    system = shared(0, 10)
    names = learned(system)
    history = [*system, *own(1, 200)]
    name = names.name(call(history))
    for number in range(ENOUGH):
        assert names.name(call([*history, *shared(5, 20)], f"adapter-{number}", len(history))) == name
    assert names.name(call([*history, *own(2, 300)])) == name


def test_an_adapter_that_is_active_from_the_system_prompt_on_has_conversations_too() -> None:
    system = shared(0, 10)
    names = ConversationNames()
    found = [names.name(call([*system, *own(number, 60)], "judge", len(system))) for number in range(2 * ENOUGH)]
    assert len(set(found[ENOUGH:])) == ENOUGH


def test_before_conversations_were_seen_to_part_a_deep_block_names_them() -> None:
    names = ConversationNames()
    one = call(own(1, 4 * DEEP_BLOCKS))
    assert names.name(one) == names.name(call(own(1, 4000))) == one.keys[-1]
    assert names.name(call(own(2, 8))) == call(own(2, 8)).keys[-1]


def test_gateways_that_saw_other_conversations_give_the_same_names() -> None:
    system = shared(0, 50)
    one, other = learned(system), ConversationNames()
    for conversation in range(ENOUGH):
        other.name(call([*system, *own(conversation + 5000, 90)]))
    for conversation in range(50):
        prompt = [*system, *own(conversation, 80)]
        assert one.name(call(prompt)) == other.name(call([*prompt, *own(77, 99)]))


def test_prompts_whose_own_part_is_less_than_a_block_spread_by_length() -> None:
    system = shared(0, 10)
    names = learned(system)
    assert len({names.name(call([*system, *own(1, length)])) for length in range(4)}) == 4


def test_the_session_comes_first() -> None:
    names = learned(shared(0, 10))
    one = replace(call(own(1, 50)), session="mine")
    assert names.name(one) == plain_name(one) == names.name(replace(call(own(2, 70)), session="mine"))
    assert names.name(replace(one, session="\ud800 not text")) != names.name(one)


def test_what_is_learned_stays_bounded_and_what_is_in_use_is_kept() -> None:
    system, names = shared(0, 10), ConversationNames(max_keys=2000)
    for conversation in range(3000):
        names.name(call([*system, *own(conversation, 400)]))
    kept = len(names._young.seen) + len(names._old.seen)
    assert kept < 2 * (2000 + EXPLORED_BLOCKS + 110)
    assert len(names._young.children) + len(names._old.children) < kept
    assert len({names.name(call([*system, *own(number, 50)])) for number in range(20)}) == 20
    for application in range(MAX_BRANCHINGS + 20):
        for conversation in range(ENOUGH):
            names.name(call([*shared(application + 1, 2), *own(conversation, 4)]))
    assert len(names._branchings) == MAX_BRANCHINGS
    assert set(names._depths) == set(names._branchings.values())


def test_forgotten_keys_are_no_new_conversations() -> None:
    """One conversation amid a flood of others: its keys are forgotten and learned again, its name stays."""
    system, names = shared(0, 10), ConversationNames(max_keys=500)
    found = set()
    for turn in range(3 * ENOUGH):
        found.add(names.name(call([*system, *own(1, 40 + 4 * turn)])))
        for conversation in range(20):
            names.name(call([*system, *own(100 + turn * 20 + conversation, 200)]))
    assert len(found) <= 2, "the first turns came before anything was known"
