"""Blocks of answers, counted together, are what counting each one gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.engine_model.answer_blocks import AnswerBlocks

WIDTH = 5
LENGTHS = st.lists(st.integers(1, 60), max_size=12)


def blocks(tokens: int) -> int:
    return -(-tokens // WIDTH)


@given(LENGTHS, LENGTHS, st.integers(0, 40), st.integers(0, 30))
def test_the_next_steps_need_what_each_answer_needs(stay: list[int], leave: list[int], passed: int, steps: int) -> None:
    counted = AnswerBlocks(WIDTH)
    for tokens in (*stay, *leave):
        counted.add(tokens, 7)
    step = 7 + passed
    for tokens in leave:
        counted.remove(tokens + passed, step)
    expected = sum(blocks(tokens + passed + steps) - blocks(tokens + passed) for tokens in stay)
    assert counted.needed(step, steps) == expected


@given(LENGTHS, st.integers(0, 100), st.integers(1, 60))
def test_as_many_steps_run_as_there_are_blocks_for(lengths: list[int], free: int, limit: int) -> None:
    counted = AnswerBlocks(WIDTH)
    for tokens in lengths:
        counted.add(tokens, 0)
    steps = counted.most_steps(0, free, limit)
    assert counted.needed(0, steps) <= free
    assert steps == limit or counted.needed(0, steps + 1) > free
