"""What every directory does, run against each backend."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from aloraserve.directory.base import (
    MAX_APPLY_BLOCKS,
    MAX_LOOKUP_BLOCKS,
    Candidate,
    Directory,
    ReplicaLoad,
    ReplicaState,
)
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.redis import RedisDirectory

SHORT_S = 0.15
Make = Callable[..., Directory]


def keys(count: int, seed: str = "") -> list[bytes]:
    return [hashlib.blake2b(f"{seed}{n}".encode(), digest_size=16).digest() for n in range(count)]


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)


async def one(directory: Directory, prompt: list[bytes], replica: str = "a") -> Candidate:
    return next(found for found in await directory.lookup(prompt) if found.state.replica == replica)


async def held(directory: Directory, prompt: list[bytes], replica: str = "a") -> int:
    return (await one(directory, prompt, replica)).held_blocks


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:
        server = request.getfixturevalue("redis_server") if request.param == "redis" else None

        def build(namespace: str = "test", **options: float) -> Directory:
            directory: Directory = (
                RedisDirectory.from_url(server.url, namespace=namespace, timeout_s=5.0, **options)
                if server
                else MemoryDirectory(**options)
            )
            stack.push_async_callback(directory.close)
            return directory

        yield build


@pytest.fixture
def directory(make: Make) -> Directory:
    return make()


async def alive(directory: Directory, replica: str = "a", incarnation: str = "1", ttl_s: float = 60.0) -> None:
    await directory.publish(ReplicaState(replica, incarnation), ttl_s=ttl_s)


class TestLeases:
    async def test_a_published_state_comes_back_whole(self, directory: Directory) -> None:
        state = ReplicaState(
            "réplica 1 {x}",
            "12 3 4",
            label="engine-0",
            load=ReplicaLoad(1, 2, 300, 0.25, 1234.5, 8),
            resident=("x", "ÿ"),
            held_blocks=7,
        )
        await directory.publish(state, ttl_s=60)
        assert await directory.states() == [state]
        assert await directory.lookup([]) == [Candidate(state)]

    async def test_a_lease_that_is_not_renewed_ends(self, directory: Directory) -> None:
        await alive(directory, "a", ttl_s=SHORT_S)
        await alive(directory, "b")
        await directory.apply("a", "1", stored=keys(2))

        async def only_b() -> bool:
            return [found.state.replica for found in await directory.lookup(keys(2))] == ["b"]

        await eventually(only_b)
        assert [state.replica for state in await directory.states()] == ["b"]

    async def test_a_lease_that_comes_back_brings_its_holdings(self, directory: Directory) -> None:
        await alive(directory, ttl_s=SHORT_S)
        await directory.apply("a", "1", stored=keys(2))

        async def gone() -> bool:
            return await directory.lookup(keys(2)) == []

        await eventually(gone)
        await alive(directory)
        assert await held(directory, keys(2)) == 2

    async def test_renewal_replaces_the_state(self, directory: Directory) -> None:
        await alive(directory)
        newer = ReplicaState("a", "1", load=ReplicaLoad(running=3))
        await directory.publish(newer, ttl_s=60)
        assert await directory.states() == [newer]

    async def test_retire_ends_a_lease_at_once(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=keys(1))
        await directory.retire("a")
        await directory.retire("never seen")
        assert await directory.states() == []
        assert await directory.lookup(keys(1)) == []

    async def test_states_and_candidates_are_sorted_by_replica(self, directory: Directory) -> None:
        for replica in ("c", "a", "b"):
            await alive(directory, replica)
        assert [state.replica for state in await directory.states()] == ["a", "b", "c"]
        assert [found.state.replica for found in await directory.lookup(keys(1))] == ["a", "b", "c"]


class TestHoldings:
    async def test_overlap_counts_leading_blocks(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=keys(5)[:3])
        assert await held(directory, keys(5)) == 3

    async def test_a_hole_ends_the_overlap(self, directory: Directory) -> None:
        await alive(directory, "a")
        await alive(directory, "b")
        stored = keys(5)
        await directory.apply("a", "1", stored=stored[:2] + stored[3:])
        await directory.apply("b", "1", stored=stored)
        assert await held(directory, stored, "a") == 2
        assert await held(directory, stored, "b") == 5

    async def test_without_the_first_block_there_is_no_overlap(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=keys(5)[1:])
        assert await held(directory, keys(5)) == 0

    async def test_removed_blocks_no_longer_count(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=keys(4))
        await directory.apply("a", "1", removed=keys(4)[2:])
        assert await held(directory, keys(4)) == 2

    async def test_one_replicas_removal_leaves_anothers_holding(self, directory: Directory) -> None:
        for replica in ("a", "b"):
            await alive(directory, replica)
            await directory.apply(replica, "1", stored=keys(2))
        await directory.apply("a", "1", removed=keys(2))
        assert await held(directory, keys(2), "a") == 0
        assert await held(directory, keys(2), "b") == 2

    async def test_a_new_incarnation_hides_what_the_old_one_held(self, directory: Directory) -> None:
        await alive(directory, incarnation="1")
        await directory.apply("a", "1", stored=keys(4))
        await alive(directory, incarnation="2")
        assert await held(directory, keys(4)) == 0
        await directory.apply("a", "2", stored=keys(4)[:1])
        assert await held(directory, keys(4)) == 1

    async def test_a_late_removal_of_the_old_incarnation_is_ignored(self, directory: Directory) -> None:
        await alive(directory, incarnation="2")
        await directory.apply("a", "2", stored=keys(1))
        await directory.apply("a", "1", removed=keys(1))
        assert await held(directory, keys(1)) == 1

    async def test_holdings_applied_before_their_state_count_once_it_is_published(self, directory: Directory) -> None:
        await alive(directory, incarnation="1")
        await alive(directory, "b")
        await directory.apply("b", "1", stored=keys(3))
        await directory.apply("a", "2", stored=keys(3))
        await directory.apply("new", "1", stored=keys(3))
        assert await held(directory, keys(3)) == 0
        await alive(directory, incarnation="2")
        await alive(directory, "new")
        assert await held(directory, keys(3)) == 3
        assert await held(directory, keys(3), "new") == 3

    async def test_apply_again_changes_nothing(self, directory: Directory) -> None:
        await alive(directory)
        for _ in range(2):
            await directory.apply("a", "1", stored=keys(4)[:3], removed=keys(4)[3:])
        assert await held(directory, keys(4)) == 3
        await directory.apply("a", "1")
        assert await held(directory, keys(4)) == 3

    async def test_nodes_expire(self, make: Make) -> None:
        directory = make(node_ttl_s=SHORT_S)
        await alive(directory)
        await directory.apply("a", "1", stored=keys(2))

        async def gone() -> bool:
            return await held(directory, keys(2)) == 0

        await eventually(gone)

    async def test_apply_refuses_what_it_cannot_take(self, directory: Directory) -> None:
        with pytest.raises(ValueError, match="4097"):
            await directory.apply("a", "1", stored=keys(MAX_APPLY_BLOCKS + 1))
        with pytest.raises(ValueError, match="3 bytes"):
            await directory.apply("a", "1", removed=[b"abc"])

    async def test_many_replicas_each_keep_their_own_overlap(self, directory: Directory) -> None:
        prompt = keys(64)
        for number in range(40):
            await alive(directory, f"r{number:02}")
            await directory.apply(f"r{number:02}", "1", stored=prompt[:number])
        found = await directory.lookup(prompt)
        assert [candidate.held_blocks for candidate in found] == list(range(40))

    async def test_long_prompts_are_looked_up_to_the_bound(self, directory: Directory) -> None:
        prompt = keys(MAX_LOOKUP_BLOCKS + 100)
        await alive(directory)
        for start in range(0, len(prompt), MAX_APPLY_BLOCKS):
            await directory.apply("a", "1", stored=prompt[start : start + MAX_APPLY_BLOCKS])
        assert await held(directory, prompt[:5000]) == 5000
        assert await held(directory, prompt) == MAX_LOOKUP_BLOCKS

    async def test_namespaces_see_nothing_of_each_other(self, make: Make) -> None:
        mine, other = make("mine"), make("other")
        await alive(mine)
        await mine.apply("a", "1", stored=keys(2))
        assert await other.states() == []
        await alive(other)
        assert await held(other, keys(2)) == 0
        await other.apply("a", "1", stored=keys(2))
        await other.apply("a", "1", removed=keys(2))
        assert await held(mine, keys(2)) == 2

    async def test_lookups_amid_applies_see_whole_applies(self, directory: Directory) -> None:
        prompt = keys(50)
        await alive(directory)
        seen: set[int] = set()

        async def write() -> None:
            for _ in range(20):
                await directory.apply("a", "1", stored=prompt)
                await directory.apply("a", "1", removed=prompt)

        async def read() -> None:
            for _ in range(40):
                seen.add(await held(directory, prompt))

        await asyncio.gather(write(), *(read() for _ in range(4)))
        assert seen <= {0, 50}


class TestClaims:
    async def test_a_claim_counts_as_about_to_be_held(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(4), tokens=64)
        found = await one(directory, keys(4))
        assert (found.held_blocks, found.claimed_blocks, found.claimed_tokens) == (0, 4, 64)

    async def test_a_claim_goes_on_from_what_is_held(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=keys(6)[:2])
        await directory.claim("c1", "a", keys(6)[:4], tokens=32)
        found = await one(directory, keys(6))
        assert (found.held_blocks, found.claimed_blocks) == (2, 4)

    async def test_claims_of_other_replicas_do_not_count(self, directory: Directory) -> None:
        await alive(directory, "a")
        await alive(directory, "b")
        await directory.claim("c1", "b", keys(4), tokens=64)
        await directory.claim("c2", "unknown", keys(4), tokens=64)
        found = await one(directory, keys(4), "a")
        assert (found.claimed_blocks, found.claimed_tokens) == (0, 0)
        assert (await one(directory, keys(4), "b")).claimed_blocks == 4

    async def test_a_claim_expires(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(4), tokens=64, ttl_s=SHORT_S)
        await directory.claim("c2", "a", keys(4)[:1], tokens=5)

        async def expired() -> bool:
            found = await one(directory, keys(4))
            return (found.claimed_blocks, found.claimed_tokens) == (1, 5)

        await eventually(expired)

    async def test_a_withdrawn_claim_is_gone_and_others_stay(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(4)[:3], tokens=30)
        await directory.claim("c2", "a", keys(4), tokens=40)
        await directory.withdraw("c2", "a", keys(4))
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens) == (3, 30)

    async def test_withdrawing_an_unknown_claim_changes_nothing(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(2), tokens=3)
        await directory.withdraw("nobody", "a", keys(2))
        assert (await one(directory, keys(2))).claimed_tokens == 3

    async def test_claimed_tokens_count_until_the_next_publish(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(4), tokens=64)
        await directory.claim("c2", "a", keys(4), tokens=10)
        assert (await one(directory, keys(4))).claimed_tokens == 74
        await alive(directory)
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens) == (4, 0)

    async def test_a_claim_is_no_holding_once_its_blocks_are_removed(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", keys(2), tokens=1)
        await directory.apply("a", "1", stored=keys(2))
        await directory.apply("a", "1", removed=keys(2))
        assert (await one(directory, keys(2))).held_blocks == 0


class TestBackend:
    async def test_the_epoch_stays(self, directory: Directory) -> None:
        first = await directory.epoch()
        await alive(directory)
        assert first
        assert await directory.epoch() == first

    async def test_ping_answers(self, directory: Directory) -> None:
        await directory.ping()
