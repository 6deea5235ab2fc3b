"""What one process knows of claims: exact at their ends, rounded down before, bounded, and gone when they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.directory import claimed_blocks
from aloraserve.directory.base import RUN_BLOCKS
from aloraserve.directory.claimed_blocks import LAST_MARKS, MAX_RUN_MARKS, RENEWED_S, ClaimedBlocks, marks_of

SPACE = KeySpace("m", "t", 1)
LONG = SPACE.keys(range(4 * MAX_RUN_MARKS * RUN_BLOCKS))


def parted(shared: int, tail: int = 100) -> list[bytes]:
    """A prompt that shares so many blocks with every claim of ``LONG``."""
    return SPACE.keys([*range(shared), *[10**6] * tail])


@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from("ab")), max_size=6), st.integers(0, 300))
def test_the_overlap_is_that_of_the_longest_claim_to_its_marks(claims: list[tuple[int, str]], shared: int) -> None:
    known: ClaimedBlocks[str] = ClaimedBlocks()
    expected: dict[str, int] = {}
    for number, (blocks, holder) in enumerate(claims):
        known.add(number, holder, marks_of(LONG[:blocks]), 10.0)
        common = min(blocks, shared)
        shown = common if common > blocks - LAST_MARKS else common // RUN_BLOCKS * RUN_BLOCKS
        expected[holder] = max(expected.get(holder, 0), shown)
    assert known.overlaps(parted(shared)) == {holder: blocks for holder, blocks in expected.items() if blocks}


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "expire"]), st.integers(0, 5)), max_size=30))
def test_what_is_removed_or_has_ended_leaves_nothing(steps: list[tuple[str, int]]) -> None:
    known: ClaimedBlocks[str] = ClaimedBlocks()
    for number, (step, name) in enumerate(steps):
        if step == "add":
            known.add(name, "ab"[name % 2], marks_of(LONG[: 10 * name + 1]), float(name + number))
        elif step == "remove":
            known.remove(name)
        else:
            known.expire(float(number))
    known.expire(100.0)
    assert not len(known)
    assert not known._marked


def test_a_claim_ends_and_one_made_again_ends_later() -> None:
    known: ClaimedBlocks[str] = ClaimedBlocks()
    known.add("c", "a", marks_of(LONG[:40]), 10.0)
    known.add("c", "a", marks_of(LONG[:40]), 10.0 + 2 * RENEWED_S)
    known.expire(10.0)
    assert known.overlaps(LONG[:40]) == {"a": 40}
    known.expire(10.0 + 2 * RENEWED_S)
    assert known.overlaps(LONG[:40]) == {}


@pytest.mark.parametrize("blocks", [MAX_RUN_MARKS * RUN_BLOCKS, 2 * MAX_RUN_MARKS * RUN_BLOCKS, len(LONG)])
def test_a_claim_of_any_length_has_so_many_marks_at_most_and_is_found(blocks: int) -> None:
    assert len(marks_of(LONG[:blocks])) <= MAX_RUN_MARKS + LAST_MARKS
    known: ClaimedBlocks[str] = ClaimedBlocks()
    known.add("c", "a", marks_of(LONG[:blocks]), 10.0)
    assert known.overlaps(LONG[:blocks]) == {"a": blocks}
    thinned = blocks // MAX_RUN_MARKS
    assert known.overlaps(LONG[: blocks - LAST_MARKS - 1]) == {"a": (blocks - LAST_MARKS - 1) // thinned * thinned}


def test_there_are_never_more_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_blocks, "MAX_CLAIMS", 4)
    known: ClaimedBlocks[str] = ClaimedBlocks()
    for number in range(9):
        known.add(number, f"r{number}", marks_of(LONG[:3]), float(number))
    assert sorted(known.overlaps(LONG[:3])) == ["r5", "r6", "r7", "r8"]
