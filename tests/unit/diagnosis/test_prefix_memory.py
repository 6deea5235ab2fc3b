from __future__ import annotations

import random

from aloraserve.blocks import KeySpace
from aloraserve.diagnosis.prefix_memory import PrefixMemory

SPACE = KeySpace("model", "tokenizer", 16)


def keys(blocks: int, *, parts_at: int | None = None, seed: int = 0) -> list[bytes]:
    """A prompt of whole blocks; with ``parts_at``, one that leaves it there."""
    source = random.Random(seed)
    tokens = [source.randrange(1000) for _ in range(blocks * 16)]
    if parts_at is not None:
        tokens[parts_at * 16 :] = [2000] * (len(tokens) - parts_at * 16)
    return SPACE.keys(tokens)


def test_a_prompt_is_found_to_its_own_end_and_longer_ones_as_far() -> None:
    for blocks in (1, 31, 32, 33, 64, 100):
        memory = PrefixMemory(10_000)
        assert memory.match(keys(blocks)) == 0
        memory.touch(keys(blocks), 1.0)
        assert memory.match(keys(blocks)) == memory.match(keys(200)[:blocks] + keys(5, seed=1)) == blocks
        assert memory.match(keys(200)) == blocks
        assert len(memory) == blocks


def test_where_prompts_part_within_a_run_the_run_s_beginning_is_found() -> None:
    memory = PrefixMemory(10_000)
    memory.touch(keys(100), 1.0)
    assert [memory.match(keys(100, parts_at=at)) for at in (10, 32, 40, 64, 99)] == [0, 32, 32, 64, 96]


def test_the_least_recently_used_go_first_ends_before_beginnings() -> None:
    memory = PrefixMemory(100)
    memory.touch(keys(64), 1.0)
    memory.touch(keys(64, seed=1), 2.0)
    assert memory.match(keys(64, seed=1)) == 64
    assert memory.match(keys(64)) == 32, "its end made room"
    assert len(memory) <= 100
    memory.touch(keys(64), 3.0)
    assert (memory.match(keys(64)), memory.match(keys(64, seed=1))) == (64, 32)
    memory.resize(32)
    assert (memory.match(keys(64)), memory.match(keys(64, seed=1))) == (32, 0)


def test_it_says_when_a_prefix_was_last_used() -> None:
    memory = PrefixMemory(1000)
    memory.touch(keys(40), 1.0)
    memory.touch(keys(64), 2.0)
    assert memory.touched_s(keys(64), 40) == 1.0
    assert memory.touched_s(keys(64), 32) == 2.0
    assert memory.touched_s(keys(64), 0) is None
