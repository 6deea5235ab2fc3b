from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, KeySpace
from aloraserve.blocks.keys import AdapterEffect, adapter_salt
from aloraserve.directory.mirror import Delta, Mirror

SPACE = KeySpace("model", "tokenizer", 2)
SALTS = {"x": adapter_salt("x", "digest")}
# A chain of engine hashes 0 <- 1 <- ... on one prompt, and a second chain of other hashes on the same prompt.
PROMPT = list(range(20))
KEYS = SPACE.keys(PROMPT)


def mirror() -> Mirror:
    return Mirror(SPACE, SALTS.get)


def stored(first: int, count: int = 1, *, chain: int = 0, **parts: str) -> BlocksStored:
    hashes = tuple(chain + n for n in range(first, first + count))
    parent = chain + first - 1 if first else None
    return BlocksStored(hashes, parent, tuple(PROMPT[2 * first : 2 * (first + count)]), **parts)


def removed(*hashes: int) -> BlocksRemoved:
    return BlocksRemoved(hashes)


def test_stored_blocks_get_the_keys_of_their_prompt() -> None:
    held = mirror()
    assert held.apply(stored(0, 3)) == Delta(stored=tuple(KEYS[:3]))
    assert held.apply(stored(3, 2)) == Delta(stored=tuple(KEYS[3:5]))
    assert held.snapshot() == KEYS[:5]


def test_a_second_copy_is_not_news_and_its_removal_neither() -> None:
    held = mirror()
    held.apply(stored(0))
    assert held.apply(stored(0)) == Delta()
    assert held.apply(removed(0)) == Delta()
    assert held.apply(removed(0)) == Delta(removed=(KEYS[0],))
    assert held.apply(removed(0)) == Delta()


def test_two_hashes_of_one_key_hold_it_until_both_are_gone() -> None:
    held = mirror()
    held.apply(stored(0))
    assert held.apply(stored(0, chain=100)) == Delta()
    assert held.apply(removed(0)) == Delta()
    assert held.apply(removed(100)) == Delta(removed=(KEYS[0],))


def test_the_salt_of_the_first_block_stays_with_its_chain() -> None:
    held = mirror()
    held.apply(stored(0, cache_salt="tenant"))
    held.apply(stored(1))
    assert held.snapshot() == SPACE.keys(PROMPT[:4], cache_salt="tenant")


def test_an_adapters_blocks_go_on_from_the_base_models() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(stored(2, 2, adapter="x"))
    assert held.snapshot() == SPACE.keys(PROMPT[:8], adapter=AdapterEffect("x", "digest", 4))


@pytest.mark.parametrize(
    ("event", "counter"),
    [
        (stored(1), "unknown_parent"),
        (stored(0, adapter="y"), "unknown_adapter"),
        (BlocksStored((0,), None, (1, 2, 3)), "wrong_token_count"),
    ],
)
def test_an_event_that_cannot_be_placed_is_dropped_and_counted(event: BlocksStored, counter: str) -> None:
    held = mirror()
    assert held.apply(event) == Delta()
    assert len(held) == 0
    assert getattr(held.drops, counter) == 1
    assert held.apply(removed(*event.hashes)) == Delta()


def test_cleared_removes_everything_once() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(stored(0))
    assert set(held.apply(BlocksCleared()).removed) == set(KEYS[:2])
    assert held.snapshot() == []
    assert held.apply(stored(1)) == Delta()


def test_a_snapshot_lists_parents_first_even_if_they_came_back_later() -> None:
    held = mirror()
    held.apply(stored(0, 3))
    held.apply(removed(0))
    held.apply(stored(0))
    assert held.snapshot() == KEYS[:3]


def test_bytes_hashes_work_too() -> None:
    held = mirror()
    held.apply(BlocksStored((b"h",), None, tuple(PROMPT[:2])))
    assert held.apply(BlocksRemoved((b"h",))).removed == (KEYS[0],)


def test_the_overlap_is_the_leading_keys_that_are_held() -> None:
    held = mirror()
    assert held.overlap(KEYS) == held.overlap([]) == 0
    held.apply(stored(0, 3))
    assert [held.overlap(KEYS[:count]) for count in range(6)] == [0, 1, 2, 3, 3, 3]


def test_a_hole_ends_the_overlap_whatever_is_held_after_it() -> None:
    held = mirror()
    held.apply(stored(0, 5))
    held.apply(removed(2))
    assert held.overlap(KEYS) == 2
    held.apply(removed(0))
    assert held.overlap(KEYS) == 0


def test_an_overlap_stays_within_a_tenant_and_an_adapter() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(stored(2, 2, adapter="x"))
    assert held.overlap(SPACE.keys(PROMPT, adapter=AdapterEffect("x", "digest", 4))) == 4
    assert held.overlap(SPACE.keys(PROMPT)) == 2
    assert held.overlap(SPACE.keys(PROMPT, adapter=AdapterEffect("x", "other", 4))) == 2
    assert held.overlap(SPACE.keys(PROMPT, cache_salt="tenant")) == 0


events = st.lists(
    st.builds(stored, st.integers(0, 4), st.integers(1, 3), chain=st.sampled_from([0, 100]))
    | st.builds(
        BlocksRemoved,
        st.lists(st.sampled_from([*range(7), *range(100, 107)]), max_size=4).map(tuple),
    )
    | st.just(BlocksCleared()),
    max_size=40,
)


def step(copies: Counter[int], event: EngineEvent) -> None:
    if isinstance(event, BlocksCleared):
        copies.clear()
    elif isinstance(event, BlocksRemoved):
        for one in event.hashes:
            copies[one] = max(0, copies[one] - 1)
    elif event.parent is None or copies[event.parent]:
        copies.update(event.hashes)


@given(events)
def test_it_holds_what_a_naive_count_of_copies_holds(sequence: list[EngineEvent]) -> None:
    held, copies, told = mirror(), Counter[int](), set[bytes]()
    for event in sequence:
        delta = held.apply(event)
        assert not told & set(delta.stored)
        assert set(delta.removed) <= told
        told = (told | set(delta.stored)) - set(delta.removed)
        step(copies, event)
        expected = {KEYS[one % 100] for one, count in copies.items() if count}
        assert told == expected == set(held.snapshot())
        listed = [KEYS.index(key) for key in held.snapshot()]
        assert all(block - 1 not in listed[at:] for at, block in enumerate(listed))
        assert len(held) == len(expected)
        assert held.overlap(KEYS) == next(index for index, key in enumerate(KEYS) if key not in expected)


def test_a_block_that_the_adapter_starts_within_has_the_prompt_s_key() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(replace(stored(2, 2, adapter="x"), base_tokens=1))
    at = 2 * SPACE.block_tokens + 1
    assert held.snapshot() == SPACE.keys(PROMPT[: 4 * SPACE.block_tokens], adapter=AdapterEffect("x", "digest", at))
