from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, KeySpace
from aloraserve.blocks.keys import AdapterEffect
from aloraserve.directory.base import RUN_BLOCKS, Holding, place
from aloraserve.directory.mirror import Delta, Mirror

SPACE = KeySpace("model", "tokenizer", 2)
SALTS = {"x": AdapterEffect("x", "digest", 0).salt}
# A chain of engine hashes 0 <- 1 <- ... on one prompt, and a second chain of other hashes on the same prompt.
PROMPT = list(range(20))
KEYS = SPACE.keys(PROMPT)
PLACED = place(KEYS)


def keys_of(holdings: Iterable[Holding]) -> list[bytes]:
    return [holding.key for holding in holdings]


def mirror() -> Mirror:
    return Mirror(SPACE, SALTS.get)


def stored(first: int, count: int = 1, *, chain: int = 0, **parts: str) -> BlocksStored:
    hashes = tuple(chain + n for n in range(first, first + count))
    parent = chain + first - 1 if first else None
    return BlocksStored(hashes, parent, tuple(PROMPT[2 * first : 2 * (first + count)]), **parts)


def removed(*hashes: int, tier: str = "GPU") -> BlocksRemoved:
    return BlocksRemoved(hashes, tier)


def test_stored_blocks_get_the_keys_of_their_prompt() -> None:
    held = mirror()
    assert held.apply(stored(0, 3)) == Delta(stored=tuple(PLACED[:3]))
    assert held.apply(stored(3, 2)) == Delta(stored=tuple(PLACED[3:5]))
    assert held.snapshot() == PLACED[:5]


def test_a_second_copy_is_not_news_and_its_removal_neither() -> None:
    held = mirror()
    held.apply(stored(0))
    assert held.apply(stored(0)) == Delta()
    assert held.apply(removed(0)) == Delta()
    assert held.apply(removed(0)) == Delta(removed=(PLACED[0],))
    assert held.apply(removed(0)) == Delta()


def test_two_hashes_of_one_key_hold_it_until_both_are_gone() -> None:
    held = mirror()
    held.apply(stored(0))
    assert held.apply(stored(0, chain=100)) == Delta()
    assert held.apply(removed(0)) == Delta()
    assert held.apply(removed(100)) == Delta(removed=(PLACED[0],))


def test_the_salt_of_the_first_block_stays_with_its_chain() -> None:
    held = mirror()
    held.apply(stored(0, cache_salt="tenant"))
    held.apply(stored(1))
    assert keys_of(held.snapshot()) == SPACE.keys(PROMPT[:4], cache_salt="tenant")


def test_an_adapters_blocks_go_on_from_the_base_models() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(stored(2, 2, adapter="x"))
    assert keys_of(held.snapshot()) == SPACE.keys(PROMPT[:8], adapter=AdapterEffect("x", "digest", 4))


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
    assert set(held.apply(BlocksCleared()).removed) == set(PLACED[:2])
    assert held.snapshot() == []
    assert held.apply(stored(1)) == Delta()


def test_a_snapshot_lists_parents_first_even_if_they_came_back_later() -> None:
    held = mirror()
    held.apply(stored(0, 3))
    held.apply(removed(0))
    held.apply(stored(0))
    assert held.snapshot() == PLACED[:3]


def test_bytes_hashes_work_too() -> None:
    held = mirror()
    held.apply(BlocksStored((b"h",), None, tuple(PROMPT[:2])))
    assert held.apply(BlocksRemoved((b"h",))).removed == (PLACED[0],)


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
def test_it_reports_the_whole_chains_of_what_a_naive_count_of_copies_holds(sequence: list[EngineEvent]) -> None:
    held, copies, told = mirror(), Counter[int](), set[bytes]()
    for event in sequence:
        delta = held.apply(event)
        stored, removed = keys_of(delta.stored), keys_of(delta.removed)
        assert not told & set(stored)
        assert set(removed) <= told
        told = (told | set(stored)) - set(removed)
        step(copies, event)
        expected = {KEYS[one % 100] for one, count in copies.items() if count}
        whole = next(index for index, key in enumerate(KEYS) if key not in expected)
        assert told == set(KEYS[:whole])
        assert held.snapshot() == PLACED[:whole]
        assert len(held) == len(expected)
        assert held.overlap(KEYS) == whole


def test_blocks_behind_a_gap_are_reported_once_it_is_filled() -> None:
    held = mirror()
    held.apply(stored(0, 4))
    assert held.apply(removed(1)) == Delta(removed=tuple(PLACED[1:4]))
    assert held.apply(stored(3)) == Delta(), "a second copy of a block behind the gap"
    assert held.apply(removed(3)) == held.apply(removed(3)) == Delta()
    assert held.apply(stored(1)) == Delta(stored=tuple(PLACED[1:3]))


def test_long_chains_are_placed_in_their_runs() -> None:
    prompt = list(range(3 * RUN_BLOCKS * SPACE.block_tokens))
    held = mirror()
    hashes = tuple(range(3 * RUN_BLOCKS))
    held.apply(BlocksStored(hashes, None, tuple(prompt)))
    assert held.snapshot() == place(SPACE.keys(prompt))
    assert held.apply(removed(0)) == Delta(removed=tuple(place(SPACE.keys(prompt))))


def test_a_block_counts_in_the_fastest_tier_that_has_it() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    assert held.apply(stored(0, 2, tier="CPU")) == Delta()
    slower = tuple(place(KEYS[:2], tier=1))
    assert held.apply(removed(1)) == Delta(stored=slower[1:])
    assert held.apply(removed(0)) == Delta(stored=slower[:1])
    assert held.apply(stored(0)) == Delta(stored=(PLACED[0],))
    assert held.apply(removed(0, 1, tier="CPU")) == Delta(removed=(slower[1],))
    assert held.snapshot() == PLACED[:1]
    assert held.apply(removed(0, tier="disk")) == Delta()


def test_a_block_that_the_adapter_starts_within_has_the_prompt_s_key() -> None:
    held = mirror()
    held.apply(stored(0, 2))
    held.apply(replace(stored(2, 2, adapter="x"), base_tokens=1))
    at = 2 * SPACE.block_tokens + 1
    prompt = PROMPT[: 4 * SPACE.block_tokens]
    assert keys_of(held.snapshot()) == SPACE.keys(prompt, adapter=AdapterEffect("x", "digest", at))
