"""The block cache against a plain model that keeps a list, and its rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import BlockKey
from aloraserve.engine_model.block_cache import BlockCache


def chain(*path: int) -> list[BlockKey]:
    """Return the keys of a path in a tree of prompts: equal beginnings have equal keys."""
    return [bytes(path[: end + 1]).ljust(16, b"\xff") for end in range(len(path))]


class PlainCache:
    """The same rules, written to be read: a list of idle keys, oldest first, and the blocks of each request."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.idle: list[BlockKey] = []
        self.requests: dict[int, tuple[list[BlockKey], int]] = {}

    @property
    def used(self) -> set[BlockKey]:
        return {key for keys, _ in self.requests.values() for key in keys}

    @property
    def used_blocks(self) -> int:
        return len(self.used) + sum(unkeyed for _, unkeyed in self.requests.values())

    def match(self, keys: list[BlockKey]) -> int:
        cached = self.used | set(self.idle)
        return next((index for index, key in enumerate(keys) if key not in cached), len(keys))

    def allocate(self, request: int, keys: list[BlockKey], total: int) -> tuple[list[BlockKey], list[BlockKey]] | None:
        new = [key for key in keys if key not in self.used]
        if self.used_blocks + len(new) + total - len(keys) > self.capacity:
            return None
        stored = [key for key in keys if key not in self.used and key not in self.idle]
        self.idle = [key for key in self.idle if key not in keys]
        self.requests[request] = (list(keys), total - len(keys))
        return stored, self.evict()

    def evict(self) -> list[BlockKey]:
        evicted = []
        while self.used_blocks + len(self.idle) > self.capacity:
            evicted.append(self.idle.pop(0))
        return evicted

    def release(self, request: int) -> None:
        keys, _ = self.requests.pop(request)
        self.idle += [key for key in reversed(keys) if key not in self.used]


PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(0, 5), PATHS, st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 5), st.just([0]), st.just(0)),
        st.tuples(st.just("clear"), st.just(0), st.just([0]), st.just(0)),
    ),
    max_size=60,
)


@given(capacity=st.integers(1, 20), steps=STEPS)
def test_it_does_what_the_plain_cache_does(capacity: int, steps: list[tuple[str, int, list[int], int]]) -> None:
    cache, plain = BlockCache(capacity), PlainCache(capacity)
    cached: set[BlockKey] = set()
    for what, request, path, extra in steps:
        keys = chain(*path)
        if what == "allocate" and request not in plain.requests:
            assert cache.match(keys) == plain.match(keys)
            found, expected = (
                cache.allocate(request, keys, len(keys) + extra),
                plain.allocate(request, keys, len(keys) + extra),
            )
            assert (None if found is None else (found.stored, found.evicted)) == expected
            if found is not None:
                cached = (cached | set(found.stored)) - set(found.evicted)
        elif what == "release" and request in plain.requests:
            cache.release(request)
            plain.release(request)
        elif what == "clear":
            assert cache.clear() == plain.idle
            cached -= set(plain.idle)
            plain.idle = []
        assert cache.used_blocks == plain.used_blocks
        assert len(cache) == len(plain.used) + len(plain.idle) == len(cached)
        assert cache.used_blocks + len(plain.idle) <= capacity
        for key in cached:
            assert key in cache
        for length in range(2, 7):
            # Prefix closure: whoever has a block has the one before it.
            for key in cached:
                body = key.rstrip(b"\xff")
                if len(body) == length:
                    assert body[:-1].ljust(16, b"\xff") in cached


def test_a_chain_loses_its_tail_first() -> None:
    cache = BlockCache(4)
    cache.allocate("a", chain(1, 1, 1), 3)
    cache.release("a")
    changed = cache.allocate("b", chain(2, 2), 2)
    assert changed is not None
    assert changed.evicted == [chain(1, 1, 1)[2]]
    assert cache.match(chain(1, 1, 1)) == 2


def test_the_least_recently_used_chain_goes_first() -> None:
    cache = BlockCache(4)
    for name, path in (("a", (1, 1)), ("b", (2, 2)), ("a again", (1, 1))):
        cache.allocate(name, chain(*path), 2)
        cache.release(name)
    cache.allocate("c", chain(3, 3), 2)
    assert cache.match(chain(1, 1)) == 2
    assert cache.match(chain(2, 2)) == 0


def test_blocks_of_running_requests_are_not_evicted() -> None:
    cache = BlockCache(3)
    cache.allocate("runs", chain(1, 1), 2)
    assert cache.allocate("waits", chain(2, 2), 2) is None
    assert cache.match(chain(1, 1)) == 2
    assert cache.usage == pytest.approx(2 / 3)
    cache.release("runs")
    assert cache.allocate("waits", chain(2, 2), 2) is not None


def test_an_answers_blocks_are_found_by_the_next_turn() -> None:
    cache = BlockCache(8)
    cache.allocate("turn", chain(1, 1), 4)
    changed = cache.store("turn", chain(1, 1, 1, 1)[2:])
    assert changed.stored == chain(1, 1, 1, 1)[2:]
    cache.release("turn")
    assert cache.match(chain(1, 1, 1, 1, 1)) == 4


def test_an_answer_cannot_name_more_blocks_than_it_has_room_for() -> None:
    cache = BlockCache(8)
    cache.allocate("turn", chain(1), 2)
    assert len(cache.store("turn", chain(1, 1, 1, 1)[1:]).stored) == 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="capacity_blocks is 0"):
        BlockCache(0)
    cache = BlockCache(4)
    cache.allocate("a", chain(1), 1)
    with pytest.raises(ValueError, match="'a' runs already"):
        cache.allocate("a", chain(1), 1)
    with pytest.raises(ValueError, match="total_blocks is 1; the 2 keys"):
        cache.allocate("b", chain(1, 1), 1)
