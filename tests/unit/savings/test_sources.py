"""Whose blocks a call found cached."""

from __future__ import annotations

from aloraserve.savings.base import CachedBySource
from aloraserve.savings.sources import FirstStored

KEYS = [bytes([number]) for number in range(8)]


def test_cached_tokens_are_distinguished_by_who_computed_their_block() -> None:
    stored = FirstStored(8)
    stored.computed(KEYS[:2], None)
    stored.computed(KEYS[2:3], "safety")
    stored.computed(KEYS[3:4], "other")
    assert stored.of(KEYS, "safety", 32, 5 * 32) == CachedBySource(own=32, base=64, sibling=32, unknown=32)


def test_of_a_base_models_call_the_base_models_blocks_are_its_own() -> None:
    stored = FirstStored(8)
    stored.computed(KEYS[:2], None)
    stored.computed(KEYS[2:4], "safety")
    assert stored.of(KEYS, None, 32, 4 * 32) == CachedBySource(own=64, sibling=64)


def test_a_part_of_a_block_and_what_is_beyond_the_keys_count_too() -> None:
    stored = FirstStored(8)
    stored.computed(KEYS[:2], None)
    assert stored.of(KEYS[:2], None, 32, 40) == CachedBySource(own=40)
    assert stored.of(KEYS[:2], None, 32, 70) == CachedBySource(own=64, unknown=6)
    assert stored.of(KEYS[:2], None, 32, 0) == CachedBySource()


def test_who_computed_a_block_last_counts() -> None:
    stored = FirstStored(8)
    stored.computed(KEYS[:1], None)
    stored.computed(KEYS[:1], "safety")
    assert stored.of(KEYS, "safety", 32, 32) == CachedBySource(own=32)


def test_what_was_computed_longest_ago_is_forgotten_first() -> None:
    stored = FirstStored(3)
    stored.computed(KEYS[:3], None)
    stored.computed(KEYS[:1], None)
    stored.computed(KEYS[3:4], None)
    assert len(stored) == 3
    assert stored.of([KEYS[1]], None, 32, 32) == CachedBySource(unknown=32)
    assert stored.of([KEYS[0]], None, 32, 32) == CachedBySource(own=32)
