"""The bucket's algebra, over any history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.limits.base import MAX_COST, MINUTE_US
from aloraserve.limits.bucket import Bucket

LIMITS = st.one_of(st.integers(1, 1000), st.integers(1, 10**12))
HISTORY = st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 1000)), max_size=60)
START_US = 1_800_000_000_000_000


@given(limit=st.integers(1, 5000), history=HISTORY)
def test_no_window_lets_through_more_than_its_time_and_one_minute_more(
    limit: int, history: list[tuple[int, int]]
) -> None:
    now_us, bucket = START_US, Bucket(limit)
    admitted: list[tuple[int, int]] = []
    for pause_us, tokens in history:
        now_us += pause_us
        after = bucket.at(now_us, limit).moved(tokens)
        if after.wait_us(now_us) == 0:
            bucket = after
            admitted.append((now_us, tokens))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window_us = admitted[last][0] - admitted[first][0]
            tokens = sum(amount for _, amount in admitted[first : last + 1])
            assert tokens * MINUTE_US <= limit * (window_us + MINUTE_US)


@given(limit=LIMITS, tokens=st.integers(1, MAX_COST))
def test_what_is_taken_and_given_back_leaves_no_trace(limit: int, tokens: int) -> None:
    bucket = Bucket(limit, START_US + 123, limit - 1)
    assert bucket.moved(tokens).moved(-tokens) == bucket


@given(limit=LIMITS, count=st.integers(1, 300))
def test_single_tokens_add_up_to_the_microsecond(limit: int, count: int) -> None:
    bucket = Bucket(limit, START_US)
    for _ in range(count):
        bucket = bucket.moved(1)
    assert bucket == Bucket(limit, START_US).moved(count)


@given(limit=st.integers(1, 10**9))
def test_a_wait_is_as_long_as_needed_and_no_longer(limit: int) -> None:
    empty = Bucket(limit).at(START_US, limit).moved(limit)
    wait_us = empty.moved(1).wait_us(START_US)
    assert empty.at(START_US + wait_us, limit).moved(1).wait_us(START_US + wait_us) == 0
    earlier_us = START_US + wait_us - 1
    assert empty.at(earlier_us, limit).moved(1).wait_us(earlier_us) > 0
