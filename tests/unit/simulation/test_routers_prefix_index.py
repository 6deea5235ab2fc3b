"""The routers' bounded memory against a plain model of it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import BlockKey
from aloraserve.simulation.routers.prefix_index import PrefixIndex, leading_blocks

REPLICAS = 3
PROMPTS = st.lists(st.integers(0, 2), max_size=6)
SENT = st.lists(st.tuples(st.integers(0, REPLICAS - 1), PROMPTS), max_size=12)


def chain(parts: list[int]) -> list[BlockKey]:
    keys, parent = [], b""
    for part in parts:
        parent = hashlib.blake2b(parent + bytes([part]), digest_size=16).digest()
        keys.append(parent)
    return keys


def sent_depth(sent: list[tuple[int, list[int]]], replica: int, prompt: list[int]) -> int:
    """The longest prefix of ``prompt`` among those sent to the replica, block by block."""
    longest = 0
    for one, other in sent:
        shared = next((i for i, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), None)
        if one == replica:
            longest = max(longest, min(len(prompt), len(other)) if shared is None else shared)
    return longest


@given(sent=SENT, prompt=PROMPTS)
def test_depths_and_sizes_are_those_of_a_plain_model_while_nothing_is_forgotten(
    sent: list[tuple[int, list[int]]], prompt: list[int]
) -> None:
    index = PrefixIndex(REPLICAS, 1000)
    for replica, parts in sent:
        index.add(replica, chain(parts))
    expected = [sent_depth(sent, replica, prompt) for replica in range(REPLICAS)]
    assert index.depths(chain(prompt), range(REPLICAS)) == expected
    blocks = [{key for one, parts in sent if one == replica for key in chain(parts)} for replica in range(REPLICAS)]
    assert index.sizes == [len(keys) for keys in blocks]


@given(sent=SENT, prompt=PROMPTS, bound=st.integers(2, 12))
def test_a_full_index_stays_in_its_bound_and_never_claims_what_was_not_sent(
    sent: list[tuple[int, list[int]]], prompt: list[int], bound: int
) -> None:
    index = PrefixIndex(REPLICAS, bound)
    for replica, parts in sent:
        index.add(replica, chain(parts))
        assert len(index) <= bound
    depths = index.depths(chain(prompt), range(REPLICAS))
    assert all(depth <= sent_depth(sent, replica, prompt) for replica, depth in enumerate(depths))


@given(sent=SENT, prompt=PROMPTS, lost=st.integers(0, REPLICAS - 1))
def test_dropping_a_replica_leaves_the_others_as_they_were(
    sent: list[tuple[int, list[int]]], prompt: list[int], lost: int
) -> None:
    index = PrefixIndex(REPLICAS, 1000)
    for replica, parts in sent:
        index.add(replica, chain(parts))
    before = index.depths(chain(prompt), range(REPLICAS))
    index.drop(lost)
    before[lost] = 0
    assert index.depths(chain(prompt), range(REPLICAS)) == before
    assert index.sizes[lost] == 0
    assert len(index) == len({key for replica, parts in sent if replica != lost for key in chain(parts)})


def test_what_is_sent_again_outlives_what_is_not() -> None:
    index = PrefixIndex(1, 8)
    index.add(0, chain([0, 0]))
    for part in range(1, 6):
        index.add(0, chain([part, part]))
        index.add(0, chain([0, 0]))
    assert index.depths(chain([0, 0]), [0]) == [2]
    assert index.depths(chain([1, 1]), [0]) == [0]


def test_blocks_are_forgotten_after_one_to_two_ages() -> None:
    index = PrefixIndex(1, 100, max_age_s=10.0)
    index.add(0, chain([0]), 9.0)
    assert index.depths(chain([0]), [0], 19.0) == [1]
    assert index.depths(chain([0]), [0], 29.0) == [0]


def test_a_prompt_longer_than_half_the_bound_is_remembered_in_part() -> None:
    index = PrefixIndex(1, 8)
    index.add(0, chain([0] * 20))
    assert index.depths(chain([0] * 20), [0]) == [4]


def test_a_bound_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_blocks is 1"):
        PrefixIndex(1, 1)


@given(prompt=PROMPTS, held=st.integers(0, 6))
def test_leading_blocks_counts_a_prefix(prompt: list[int], held: int) -> None:
    keys = chain(prompt)
    assert leading_blocks(keys, set(keys[:held])) == min(held, len(keys))
