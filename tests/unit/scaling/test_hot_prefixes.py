"""Which prefixes are hot, what is forgotten, and how they travel."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.blocks.keys import AdapterEffect
from aloraserve.scaling.hot_blocks import STEP_BLOCKS, PrefixSource
from aloraserve.scaling.hot_prefixes import MAX_SENT_TOKENS, RECENT_S, HotPrefixes, merged
from aloraserve.scaling.packed_prefixes import pack, unpack

BLOCK = 4
SPACE = KeySpace("model", "tokenizer", BLOCK)
BASE = PrefixSource()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def prompt(system: int, conversation: int, blocks: int = 2) -> list[int]:
    """Two blocks that all prompts of a system have, and a conversation's own."""
    return [system] * 2 * BLOCK + [1000 + conversation] * blocks * BLOCK


def note(hot: HotPrefixes, token_ids: list[int], salt: str | None = None, times: int = 1, weight: float = 1.0) -> None:
    for _ in range(times):
        take_in(hot, token_ids, SPACE.keys(token_ids, cache_salt=salt), PrefixSource(salt, weight=weight))


def take_in(
    hot: HotPrefixes, token_ids: list[int], keys: list[BlockKey], source: PrefixSource, heat: float | None = None
) -> None:
    for _ in hot.note(token_ids, keys, source, heat):
        pass


def test_what_many_prompts_share_is_a_prefix_of_its_own_and_comes_first() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    for conversation in range(5):
        note(hot, prompt(7, conversation), times=2 if conversation == 3 else 1)
    found = hot.hottest(1000, 100)
    assert list(found[0].token_ids) == [7] * 2 * BLOCK
    assert found[0].heat == pytest.approx(6)
    assert list(found[1].token_ids) == prompt(7, 3)
    assert len(found) == 6


def test_a_conversation_that_grows_is_one_prefix() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    for blocks in (1, 2, 3):
        note(hot, prompt(7, 1, blocks))
    assert [list(prefix.token_ids) for prefix in hot.hottest(1000, 100)][-1] == prompt(7, 1, 3)


def test_hits_are_halved_with_time() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, half_life_s=10, clock=clock)
    note(hot, prompt(1, 1), times=4)
    clock.now = 10
    note(hot, prompt(2, 2), times=3)
    assert [(prefix.token_ids[0], prefix.heat) for prefix in hot.hottest(1000, 100)] == [
        (2, pytest.approx(3)),
        (1, pytest.approx(2)),
    ]


def test_the_coldest_is_forgotten_first_and_the_bound_holds() -> None:
    hot = HotPrefixes(BLOCK, max_tokens=40 * BLOCK, clock=Clock())
    note(hot, prompt(1, 0), times=3)
    for conversation in range(100):
        note(hot, prompt(2, conversation))
        assert len(hot) <= 40
    assert list(prompt(1, 0)) in [list(prefix.token_ids) for prefix in hot.hottest(1000, 100)]


def test_a_prompt_longer_than_the_bound_is_remembered_from_its_begin() -> None:
    hot = HotPrefixes(BLOCK, max_tokens=40 * BLOCK, clock=Clock())
    note(hot, list(range(400)))
    (found,) = hot.hottest(1000, 100)
    assert list(found.token_ids) == list(range(len(found.token_ids)))
    assert 0 < len(found.token_ids) < 40 * BLOCK


def test_answers_are_bounded_in_tokens_and_in_prefixes() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    for conversation in range(20):
        note(hot, prompt(conversation, conversation))
    assert len(hot.hottest(10_000, 7)) == 7
    assert sum(len(prefix.token_ids) for prefix in hot.hottest(50, 100)) <= 50


def test_tenants_never_share_and_each_keeps_its_salt() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    note(hot, prompt(7, 1), "tenant:a", times=2)
    note(hot, prompt(7, 1), "tenant:b")
    found = hot.hottest(1000, 100)
    assert [(prefix.cache_salt, prefix.heat) for prefix in found] == [
        ("tenant:a", pytest.approx(2)),
        ("tenant:b", pytest.approx(1)),
    ]


def test_what_lies_before_the_activation_is_the_base_models_and_what_follows_the_adapters() -> None:
    adapter = AdapterRef("safety", "alora", "ab" * 32)
    hot = HotPrefixes(BLOCK, clock=Clock())
    token_ids = list(range(5 * BLOCK))
    effect = AdapterEffect(adapter.name, adapter.digest, 3 * BLOCK + 1)
    keys = SPACE.keys(token_ids, adapter=effect)
    take_in(hot, token_ids, keys, PrefixSource(None, 0, adapter, base_blocks=3))
    for _ in range(2):
        take_in(hot, token_ids[: 3 * BLOCK], SPACE.keys(token_ids[: 3 * BLOCK]), BASE)
    base, own = hot.hottest(1000, 100)
    assert (base.adapter, base.tip) == (None, keys[2])
    assert (own.adapter, own.tip) == (adapter, keys[4])
    assert unpack(pack([base, own])) == [base, own]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), max_size=30))
def test_the_keys_of_a_prefix_follow_from_what_it_carries(calls: list[tuple[int, int, int]]) -> None:
    hot = HotPrefixes(BLOCK, max_tokens=30 * BLOCK, clock=Clock())
    for system, conversation, blocks in calls:
        salt = None if system == 0 else f"tenant:{system}"
        public = min(system, 2)
        token_ids = prompt(system, conversation, blocks)
        keys = SPACE.keys(token_ids, cache_salt=salt, public_blocks=public)
        take_in(hot, token_ids, keys, PrefixSource(salt, public))
    for prefix in unpack(pack(hot.hottest(1000, 100))):
        keys = SPACE.keys(prefix.token_ids, cache_salt=prefix.cache_salt, public_blocks=prefix.public_blocks)
        assert keys[-1] == prefix.tip


def test_hits_of_several_replicas_add_up() -> None:
    first, second = HotPrefixes(BLOCK, clock=Clock()), HotPrefixes(BLOCK, clock=Clock())
    note(first, prompt(1, 1), times=3)
    for hot in (first, second):
        note(hot, prompt(2, 2), times=2)
    found = merged([first.hottest(1000, 100), second.hottest(1000, 100)])
    assert [prefix.token_ids[0] for prefix in found] == [2, 1]


def loud_and_quiet(hot: HotPrefixes, clock: Clock, weight: float = 1.0) -> None:
    """Have a tenant that sends each of 30 prompts nine times, and one that sends three of them once."""
    for conversation in range(30):
        clock.now += 1
        note(hot, prompt(100 + conversation, conversation), "tenant:loud", times=9)
    for conversation in range(3):
        clock.now += 1
        note(hot, prompt(conversation, conversation), "tenant:quiet", weight=weight)


def test_a_loud_tenant_has_its_part_of_a_list_and_no_more() -> None:
    clock = Clock()
    hot, other = (HotPrefixes(BLOCK, clock=clock) for _ in range(2))
    loud_and_quiet(hot, clock)
    for conversation in range(30):
        clock.now += 1
        note(other, prompt(200 + conversation, conversation), "tenant:loud", times=9)
    room = 6 * len(prompt(0, 0))
    for found in (hot.hottest(room, 100), merged([hot.hottest(10_000, 100), other.hottest(10_000, 100)])[:6]):
        assert [prefix.cache_salt for prefix in found] == ["tenant:loud", "tenant:quiet"] * 3


def test_a_tenants_part_is_as_large_as_its_weight() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, clock=clock)
    loud_and_quiet(hot, clock, weight=2.0)
    assert [prefix.cache_salt for prefix in hot.hottest(10_000, 3)].count("tenant:quiet") == 2
    assert [prefix.cache_salt for prefix in merged([hot.hottest(10_000, 100)])[:3]].count("tenant:quiet") == 2


def test_a_loud_tenant_does_not_make_others_prompts_forgotten() -> None:
    hot = HotPrefixes(BLOCK, max_tokens=40 * BLOCK, clock=Clock())
    note(hot, prompt(1, 1), "tenant:quiet")
    for conversation in range(100):
        note(hot, prompt(100 + conversation, conversation), "tenant:loud", times=3)
        assert len(hot) <= 40
    assert "tenant:quiet" in [prefix.cache_salt for prefix in hot.hottest(10_000, 100)]


def test_what_has_too_few_hits_is_neither_given_to_others_nor_kept() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, half_life_s=10, clock=clock)
    for conversation in range(200):
        note(hot, prompt(1, conversation))
    note(hot, prompt(2, 2), "tenant:other", times=4)
    clock.now = 34
    assert [len(prefix.token_ids) for prefix in hot.hottest(10_000, 1000)] == [2 * BLOCK, 4 * BLOCK]
    blocks = len(hot)
    assert hot.forget()
    assert len(hot) == blocks - STEP_BLOCKS, "some at a time"
    while hot.forget():
        pass
    assert len(hot) == 2 + 4
    clock.now = 200
    assert hot.hottest(10_000, 1000) == []
    while hot.forget():
        pass
    assert len(hot) == 0


def test_a_prompt_that_was_hit_since_is_not_the_coldest() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, max_tokens=40 * BLOCK, clock=clock)
    note(hot, prompt(1, 1))
    for conversation in range(100):
        clock.now += 1
        note(hot, prompt(1, 1))
        note(hot, prompt(100 + conversation, conversation))
    assert list(prompt(1, 1)) in [list(prefix.token_ids) for prefix in hot.hottest(1000, 100)]


def test_a_prompt_is_taken_in_by_few_blocks_at_a_time_and_given_up_where_its_begin_is_forgotten() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, max_tokens=200 * BLOCK, clock=clock)
    token_ids = list(range(150 * BLOCK))
    steps = hot.note(token_ids, SPACE.keys(token_ids), BASE)
    next(steps)
    assert len(hot) == STEP_BLOCKS
    next(steps)
    for conversation in range(30):
        note(hot, [1000 + conversation] * 6 * BLOCK, times=2)
    assert list(steps) == []
    assert all(len(hot.keys(prefix)) * BLOCK == len(prefix.token_ids) for prefix in hot.hottest(10_000, 100))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 9), st.integers(0, 20)), max_size=60))
def test_whatever_comes_the_bound_holds_and_each_block_has_those_before_it(
    calls: list[tuple[int, int, int, int]],
) -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, half_life_s=10, max_tokens=30 * BLOCK, clock=clock)
    for tenant, conversation, blocks, wait_s in calls:
        clock.now += wait_s
        token_ids = prompt(0, conversation, blocks)
        keys = SPACE.keys(token_ids, cache_salt=f"tenant:{tenant}", public_blocks=2)
        take_in(hot, token_ids, keys, PrefixSource(f"tenant:{tenant}", 2, weight=1.0 + tenant))
        hot.forget()
        assert len(hot) <= 30
        for prefix in hot.hottest(10_000, 100):
            salt, public = prefix.cache_salt, prefix.public_blocks
            assert hot.keys(prefix) == SPACE.keys(prefix.token_ids, cache_salt=salt, public_blocks=public)


def test_what_another_replica_found_hot_is_as_hot_here_and_no_hotter() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    note(hot, prompt(1, 1), times=5)
    for token_ids in (prompt(1, 1), prompt(1, 2), prompt(1, 3)):
        take_in(hot, token_ids, SPACE.keys(token_ids), BASE, 3.0)
    found = hot.hottest(1000, 100)
    assert [prefix.heat for prefix in found] == [pytest.approx(5), pytest.approx(3), pytest.approx(3)]
    assert [hot.keys(prefix) for prefix in found] == [SPACE.keys(prefix.token_ids) for prefix in found]


def test_packed_prefixes_are_as_many_as_may_be_sent() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    numbers = iter(range(10**9))
    for conversation in range(40):
        note(hot, [(next(numbers) * 2_654_435_761) % 128_000 for _ in range(4000)], times=40 - conversation)
    prefixes = hot.hottest(10**6, 100)
    data = pack(prefixes, max_bytes=96 << 10)
    assert len(data) <= 96 << 10
    found = unpack(data)
    assert found == prefixes[: len(found)]
    assert 1 < len(found) < len(prefixes)
    hottest = hot.hottest(MAX_SENT_TOKENS, 100)
    assert unpack(pack(hottest)) == hottest, "all that is ever sent"


@pytest.mark.parametrize("data", [b"", b"x" * 100, pack([])[:-1], zlib.compress(msgspec.msgpack.encode([1]))])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="packed prefixes"):
        unpack(data)


def test_more_than_a_list_may_have_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="cut off"):
        unpack(zlib.compress(bytes(5 << 20)))


def test_the_last_calls_prompts_come_latest_first_however_hot_others_are() -> None:
    clock = Clock()
    hot = HotPrefixes(BLOCK, clock=clock)
    note(hot, prompt(7, 1), times=9)
    clock.now = RECENT_S
    for conversation in (2, 3):
        note(hot, prompt(8, conversation))
    clock.now = RECENT_S + 1
    note(hot, prompt(8, 2, 3))
    assert [(list(prefix.token_ids), prefix.age_s) for prefix in hot.latest()] == [
        (prompt(8, 2, 3), 0),
        (prompt(8, 3), pytest.approx(1)),
    ]


def test_before_an_adapters_prompt_comes_what_the_base_model_has_of_it() -> None:
    """It can be computed in parts, and the next turn goes on from it."""
    for adapter, base_blocks, expected in (
        (AdapterRef("safety", "alora", "ab" * 32), 3, [3, 5]),
        (AdapterRef("style", "lora", "cd" * 32), 0, [5]),
    ):
        hot = HotPrefixes(BLOCK, clock=Clock())
        token_ids = list(range(5 * BLOCK))
        take_in(hot, token_ids, SPACE.keys(token_ids), PrefixSource(adapter=adapter, base_blocks=base_blocks))
        assert [prefix.tokens // BLOCK for prefix in hot.latest()] == expected


def test_tenants_take_turns_among_the_last_prompts_too() -> None:
    hot = HotPrefixes(BLOCK, clock=Clock())
    for conversation in range(20):
        note(hot, prompt(7, conversation), "tenant:quiet" if conversation == 0 else "tenant:busy")
    assert [prefix.cache_salt for prefix in hot.latest()][:2].count("tenant:quiet") == 1


def test_what_another_replica_had_is_as_old_here_as_it_was_there() -> None:
    clock = Clock()
    old, new = HotPrefixes(BLOCK, clock=clock), HotPrefixes(BLOCK, clock=clock)
    note(old, prompt(7, 1))
    clock.now = RECENT_S - 1
    (prefix,) = unpack(pack(list(old.latest())))
    for _ in new.note(prefix.token_ids, SPACE.keys(prefix.token_ids), BASE, prefix.heat, prefix.age_s):
        pass
    assert [found.age_s for found in new.latest()] == [pytest.approx(RECENT_S - 1)]
    clock.now = RECENT_S + 1
    assert list(new.latest()) == []
