from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import activation_point
from aloraserve.errors import InvalidRequestError

tokens = st.lists(st.integers(0, 2), max_size=30)


def naive(prompt: list[int], invocation: list[int]) -> int | None:
    starts = [at for at in range(len(prompt)) if prompt[at : at + len(invocation)] == invocation]
    return max(starts, default=None)


@given(tokens, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_it_is_the_start_of_the_last_occurrence(prompt: list[int], invocation: list[int]) -> None:
    assert activation_point(prompt, invocation) == naive(prompt, invocation)


@given(tokens, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_an_appended_invocation_is_the_last(prompt: list[int], invocation: list[int]) -> None:
    assert activation_point(prompt + invocation, invocation) == len(prompt)


def test_any_sequence_type_will_do() -> None:
    assert activation_point((1, 2, 3), (2, 3)) == 1


def test_an_empty_invocation_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        activation_point([1], [])
