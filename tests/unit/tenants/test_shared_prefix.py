"""Shared prefixes: which blocks of a prompt are public, and how prefixes come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.errors import InvalidRequestError, TenantConflictError, UnknownPrefixError
from aloraserve.records.memory import MemoryStore
from aloraserve.tenants.shared_prefix import MAX_PREFIXES, PrefixBackup, PrefixStore, SharedPrefixes, prefix_kind

SPACE = KeySpace("model", "tokenizer", 4)


@pytest.fixture
def store() -> PrefixStore:
    return MemoryStore(prefix_kind())


@pytest.mark.parametrize(
    ("token_ids", "most", "blocks"),
    [
        (range(10), 9, 2),
        (range(40), 9, 2),
        (range(40), 1, 1),
        (range(7), 9, 1),
        ([0, 1, 2, 3, 4, 5, 6, 99], 9, 1),
        ([99, *range(1, 40)], 9, 0),
        (range(4, 12), 9, 0),
        ([], 9, 0),
    ],
)
async def test_a_block_is_public_if_it_and_all_before_it_are_a_prefix_s(
    store: PrefixStore, token_ids: range | list[int], most: int, blocks: int
) -> None:
    """Of ten tokens that are two blocks of four."""
    prefixes = SharedPrefixes(store, SPACE)
    assert prefixes.public_blocks(list(token_ids), most) == 0
    await prefixes.put("system", list(range(10)))
    assert prefixes.public_blocks(list(token_ids), most) == blocks


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=16), max_size=4), st.lists(st.integers(0, 2), max_size=20)
)
async def test_no_token_is_public_that_is_not_a_prefix_s(registered: list[list[int]], prompt: list[int]) -> None:
    prefixes = SharedPrefixes(MemoryStore(prefix_kind()), SPACE)
    for number, prefix in enumerate(registered):
        await prefixes.put(f"p{number}", prefix)
    public = prefixes.public_blocks(prompt, 99)
    whole = [prefix[: len(prefix) // 4 * 4] for prefix in registered]
    longest = max(
        (n for n in range(6) if any(4 * n <= len(p) and prompt[: 4 * n] == p[: 4 * n] for p in whole)), default=0
    )
    assert public == min(longest, len(prompt) // 4)


async def test_another_gateway_follows(store: PrefixStore) -> None:
    one, other = SharedPrefixes(store, SPACE), SharedPrefixes(store, SPACE)
    await one.put("system", list(range(8)))
    assert other.public_blocks(list(range(8)), 9) == 0
    await other.look()
    assert other.public_blocks(list(range(8)), 9) == 2
    await other.delete("system")
    await one.look()
    assert (one.public_blocks(list(range(8)), 9), await one.list()) == (0, [])
    with pytest.raises(UnknownPrefixError, match="no shared prefix 'system'"):
        await one.delete("system")


async def test_prefixes_outlive_a_store_that_lost_its_data(store: PrefixStore, tmp_path: Path) -> None:
    """The embedded Redis has no disk: it begins empty, while gateways run as well as before their next start."""

    def opened(store: PrefixStore, namespace: str = "fleet") -> SharedPrefixes:
        return SharedPrefixes(store, SPACE, backup=PrefixBackup(tmp_path / "prefixes.json", namespace))

    first = opened(store)
    await first.begin()
    await first.put("system", list(range(8)))
    await first.put("gone", list(range(20, 28)))
    await first.delete("gone")
    await first.close()
    emptied = MemoryStore(prefix_kind())
    restarted = opened(emptied)
    await restarted.begin()
    assert restarted.public_blocks(list(range(8)), 9) == 2
    assert restarted.public_blocks(list(range(20, 28)), 9) == 0
    other = SharedPrefixes(emptied, SPACE)
    assert [record.name for record in await other.list()] == ["system"], "it is in the store again"
    stranger = opened(MemoryStore(prefix_kind()), "another")
    await stranger.begin()
    assert await stranger.list() == []
    (tmp_path / "prefixes.json").write_bytes(b'{"format": "aloraserve-tenants"}')
    damaged = opened(MemoryStore(prefix_kind()))
    await damaged.begin()
    assert await damaged.list() == []


async def test_tokens_of_another_fleet_are_not_public(store: PrefixStore) -> None:
    await SharedPrefixes(store, SPACE).put("system", list(range(8)))
    stranger = SharedPrefixes(store, KeySpace("other", "tokenizer", 4))
    await stranger.look()
    assert stranger.public_blocks(list(range(8)), 9) == 0


@pytest.mark.parametrize(
    ("name", "tokens", "fault"), [("A/b", 8, "name is 'A/b'"), ("a", 3, "has 3 tokens; 4, one block,")]
)
async def test_what_is_not_accepted_is_named(store: PrefixStore, name: str, tokens: int, fault: str) -> None:
    with pytest.raises(InvalidRequestError, match=fault):
        await SharedPrefixes(store, SPACE).put(name, list(range(tokens)))


async def test_there_are_so_many_and_no_more(store: PrefixStore) -> None:
    prefixes = SharedPrefixes(store, SPACE)
    for number in range(MAX_PREFIXES):
        await prefixes.put(f"p{number}", [number] * 4)
    with pytest.raises(TenantConflictError, match="there are 64 shared prefixes"):
        await prefixes.put("more", [1] * 4)
