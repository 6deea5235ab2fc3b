"""Splits go by conversation, and rows that are added move no others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.training import TrainingRow
from aloraserve.training.splits import SPLITS, Splits, split_rows


def rows_of(*conversations: str) -> list[TrainingRow]:
    return [
        TrainingRow(name, ({"role": "user", "content": name},), "Y", line=n) for n, name in enumerate(conversations)
    ]


def places(splits: Splits) -> dict[str, str]:
    return {row.conversation: name for name, rows in splits.items() for row in rows}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=8), max_size=40), st.lists(st.text(max_size=8), max_size=10), st.integers(0, 9))
def test_added_rows_move_no_others(names: list[str], added: list[str], seed: int) -> None:
    before = split_rows(rows_of(*names), validation=0.3, test=0.2, seed=seed)
    after = split_rows(rows_of(*added, *names), validation=0.3, test=0.2, seed=seed)
    assert places(before).items() <= places(after).items()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=40))
def test_every_row_is_in_one_split_with_its_conversation(names: list[str]) -> None:
    rows = rows_of(*names)
    splits = split_rows(rows, validation=0.3, test=0.2, seed=1)
    assert sorted(row.line for name in SPLITS for row in splits[name]) == list(range(len(rows)))
    conversations = [{row.conversation for row in splits[name]} for name in SPLITS]
    assert sum(map(len, conversations)) == len(set(names))


def test_fractions_are_kept_and_another_seed_divides_in_another_way() -> None:
    rows = rows_of(*map(str, range(10_000)))
    splits = split_rows(rows, validation=0.1, test=0.2, seed=0)
    assert len(splits["validation"]) == pytest.approx(1_000, abs=100)
    assert len(splits["test"]) == pytest.approx(2_000, abs=100)
    assert splits["test"] != split_rows(rows, validation=0.1, test=0.2, seed=1)["test"]
    assert not split_rows(rows, validation=0.1, test=0.0, seed=0)["test"]
