"""What every directory does, run against each backend."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.blocks import KeySpace
from aloraserve.blocks.keys import SCHEMA
from aloraserve.directory import memory as memory_backend
from aloraserve.directory import redis_reclaim
from aloraserve.directory.base import (
    MAX_APPLY_BLOCKS,
    MAX_LOOKUP_BLOCKS,
    RUN_BLOCKS,
    Candidate,
    Directory,
    Holding,
    ReplicaLoad,
    ReplicaState,
    place,
)
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import KeySpaceMismatchError

SHORT_S = 0.15
Make = Callable[..., Directory]


def keys(count: int, seed: str = "") -> list[bytes]:
    return [hashlib.blake2b(f"{seed}{n}".encode(), digest_size=16).digest() for n in range(count)]


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)


async def one(directory: Directory, prompt: list[bytes], replica: str = "a") -> Candidate:
    return next(found for found in await directory.lookup(prompt) if found.state.replica == replica)


async def held(directory: Directory, prompt: list[bytes], replica: str = "a") -> int:
    return (await one(directory, prompt, replica)).held_blocks


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = None if request.param == "memory" else url_of(request, request.param)
    async with AsyncExitStack() as stack:

        def build(namespace: str = "test", **options: float) -> Directory:
            # Most servers are there for all tests, so each has its own namespaces.
            own = f"{request.node.name}-{namespace}"
            directory: Directory = (
                RedisDirectory.from_url(url, namespace=own, timeout_s=5.0, **options)
                if url
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


class TestLeavingMarks:
    async def test_a_mark_shows_in_lookups_and_states_at_once(self, directory: Directory) -> None:
        await alive(directory, "a")
        await alive(directory, "b")
        await directory.apply("a", "1", stored=place(keys(2)))
        await directory.mark_leaving("a")
        found = {each.state.replica: each for each in await directory.lookup(keys(2))}
        assert (found["a"].state.is_leaving, found["b"].state.is_leaving) == (True, False)
        assert found["a"].held_blocks == 2
        assert [state.is_leaving for state in await directory.states()] == [True, False]

    async def test_a_mark_survives_what_the_replica_publishes(self, directory: Directory) -> None:
        await directory.mark_leaving("a")
        await alive(directory, "a")
        assert (await one(directory, [])).state.is_leaving
        await directory.publish(ReplicaState("a", "2", load=ReplicaLoad(running=1)), ttl_s=60)
        [state] = await directory.states()
        assert (state.is_leaving, state.incarnation, state.load.running) == (True, "2", 1)

    async def test_a_mark_of_another_object_is_noticed(self, make: Make) -> None:
        gateway, policy = make(), make()
        if isinstance(gateway, MemoryDirectory):
            pytest.skip("one process has one")
        await alive(policy, "a")
        assert not (await one(gateway, [])).state.is_leaving
        await policy.mark_leaving("a")

        async def is_shown() -> bool:
            return (await one(gateway, [])).state.is_leaving

        await eventually(is_shown)

    async def test_a_mark_is_taken_back(self, directory: Directory) -> None:
        await alive(directory, "a")
        await directory.mark_leaving("a")
        assert (await one(directory, [])).state.is_leaving
        await directory.mark_leaving("a", ttl_s=0)
        await directory.mark_leaving("never seen", ttl_s=0)
        assert not (await one(directory, [])).state.is_leaving

    async def test_a_mark_whose_writer_died_expires(self, directory: Directory) -> None:
        await alive(directory, "a")
        await directory.mark_leaving("b", ttl_s=60)
        await directory.mark_leaving("a", ttl_s=SHORT_S)

        async def is_over() -> bool:
            return not (await one(directory, [])).state.is_leaving

        await eventually(is_over)
        assert [state.is_leaving for state in await directory.states()] == [False]

    async def test_a_replica_cannot_mark_itself_by_its_state(self, directory: Directory) -> None:
        await directory.publish(ReplicaState("a", "1", is_leaving=True), ttl_s=60)
        assert not (await one(directory, [])).state.is_leaving


class TestLeases:
    async def test_a_published_state_comes_back_whole(self, directory: Directory) -> None:
        state = ReplicaState(
            "réplica 1 {x}",
            "12 3 4",
            label="engine-0",
            load=ReplicaLoad(1, 2, 300, 0.25, 1234.5, 8, 0.5, 0.01, 1e-4, 1e-9, 0.02, 4096, 77, 4, 0.3, 2.5, 512),
            resident=("x", "ÿ"),
            held_blocks=7,
            active_adapters=("x",),
        )
        await directory.publish(state, ttl_s=60)
        assert await directory.states() == [state]
        assert await directory.lookup([]) == [Candidate(state)]

    async def test_a_lease_that_is_not_renewed_ends(self, directory: Directory) -> None:
        await alive(directory, "a", ttl_s=SHORT_S)
        await alive(directory, "b")
        await directory.apply("a", "1", stored=place(keys(2)))

        async def only_b() -> bool:
            return [found.state.replica for found in await directory.lookup(keys(2))] == ["b"]

        await eventually(only_b)
        assert [state.replica for state in await directory.states()] == ["b"]

    async def test_a_lease_that_comes_back_brings_its_holdings(self, directory: Directory) -> None:
        await alive(directory, ttl_s=SHORT_S)
        await directory.apply("a", "1", stored=place(keys(2)))

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
        await directory.apply("a", "1", stored=place(keys(1)))
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
        await directory.apply("a", "1", stored=place(keys(5))[:3])
        assert await held(directory, keys(5)) == 3

    @pytest.mark.parametrize("runs", [3, 70])
    async def test_while_a_chain_goes_a_lookup_says_no_more_than_was_held_before(
        self, directory: Directory, runs: int
    ) -> None:
        await alive(directory, "a")
        await alive(directory, "b")
        prompt = keys(runs * RUN_BLOCKS)
        placed = place(prompt)
        for start in range(0, len(placed), 4 * RUN_BLOCKS):
            for replica in ("a", "b"):
                await directory.apply(replica, "1", stored=placed[start : start + 4 * RUN_BLOCKS])
        await directory.apply("a", "1", removed=placed[RUN_BLOCKS : 2 * RUN_BLOCKS])
        assert RUN_BLOCKS <= await held(directory, prompt, "a") <= len(prompt)
        assert await held(directory, prompt, "b") == len(prompt)
        await directory.apply("a", "1", removed=placed[2 * RUN_BLOCKS :])
        assert await held(directory, prompt, "a") == RUN_BLOCKS

    async def test_without_the_first_block_there_is_no_overlap(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=place(keys(5))[1:])
        assert await held(directory, keys(5)) == 0

    async def test_removed_blocks_no_longer_count(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=place(keys(4)))
        await directory.apply("a", "1", removed=place(keys(4))[2:])
        assert await held(directory, keys(4)) == 2

    async def test_one_replicas_removal_leaves_anothers_holding(self, directory: Directory) -> None:
        for replica in ("a", "b"):
            await alive(directory, replica)
            await directory.apply(replica, "1", stored=place(keys(2)))
        await directory.apply("a", "1", removed=place(keys(2)))
        assert await held(directory, keys(2), "a") == 0
        assert await held(directory, keys(2), "b") == 2

    async def test_a_new_incarnation_hides_what_the_old_one_held(self, directory: Directory) -> None:
        await alive(directory, incarnation="1")
        await directory.apply("a", "1", stored=place(keys(4)))
        assert await held(directory, keys(4)) == 4
        await alive(directory, incarnation="2")
        assert await held(directory, keys(4)) == 0
        await directory.apply("a", "2", stored=place(keys(4))[:1])
        assert await held(directory, keys(4)) == 1

    async def test_a_late_removal_of_the_old_incarnation_is_ignored(self, directory: Directory) -> None:
        await alive(directory, incarnation="2")
        await directory.apply("a", "2", stored=place(keys(1)))
        await directory.apply("a", "1", removed=place(keys(1)))
        assert await held(directory, keys(1)) == 1

    async def test_holdings_applied_before_their_state_count_once_it_is_published(self, directory: Directory) -> None:
        await alive(directory, incarnation="1")
        await alive(directory, "b")
        await directory.apply("b", "1", stored=place(keys(3)))
        await directory.apply("a", "2", stored=place(keys(3)))
        await directory.apply("new", "1", stored=place(keys(3)))
        assert await held(directory, keys(3)) == 0
        await alive(directory, incarnation="2")
        await alive(directory, "new")
        assert await held(directory, keys(3)) == 3
        assert await held(directory, keys(3), "new") == 3

    async def test_apply_again_changes_nothing(self, directory: Directory) -> None:
        await alive(directory)
        for _ in range(2):
            await directory.apply("a", "1", stored=place(keys(4))[:3], removed=place(keys(4))[3:])
        assert await held(directory, keys(4)) == 3
        await directory.apply("a", "1")
        assert await held(directory, keys(4)) == 3

    async def test_nodes_expire(self, make: Make) -> None:
        directory = make(node_ttl_s=SHORT_S)
        await alive(directory)
        await directory.apply("a", "1", stored=place(keys(2)))

        async def gone() -> bool:
            return await held(directory, keys(2)) == 0

        await eventually(gone)

    async def test_apply_refuses_what_it_cannot_take(self, directory: Directory) -> None:
        with pytest.raises(ValueError, match="4097"):
            await directory.apply("a", "1", stored=place(keys(MAX_APPLY_BLOCKS + 1)))
        for wrong in (Holding(b"abc", *keys(2)), Holding(keys(1)[0], b"abc", keys(1)[0])):
            with pytest.raises(ValueError, match="3 bytes"):
                await directory.apply("a", "1", removed=[wrong])
        with pytest.raises(ValueError, match="tier is 201"):
            await directory.apply("a", "1", stored=place(keys(1), tier=201))

    async def test_many_replicas_each_keep_their_own_overlap(self, directory: Directory) -> None:
        prompt = keys(64)
        for number in range(40):
            await alive(directory, f"r{number:02}")
            await directory.apply(f"r{number:02}", "1", stored=place(prompt)[:number])
        found = await directory.lookup(prompt)
        assert [candidate.held_blocks for candidate in found] == list(range(40))

    async def test_long_prompts_are_looked_up_to_the_bound(self, directory: Directory) -> None:
        prompt = keys(MAX_LOOKUP_BLOCKS + 100)
        await alive(directory)
        for start in range(0, len(prompt), MAX_APPLY_BLOCKS):
            await directory.apply("a", "1", stored=place(prompt)[start : start + MAX_APPLY_BLOCKS])
        assert await held(directory, prompt[:5000]) == 5000
        assert await held(directory, prompt) == MAX_LOOKUP_BLOCKS

    async def test_namespaces_see_nothing_of_each_other(self, make: Make) -> None:
        mine, other = make("mine"), make("other")
        await alive(mine)
        await mine.apply("a", "1", stored=place(keys(2)))
        assert await other.states() == []
        await alive(other)
        assert await held(other, keys(2)) == 0
        await other.apply("a", "1", stored=place(keys(2)))
        await other.apply("a", "1", removed=place(keys(2)))
        assert await held(mine, keys(2)) == 2

    async def test_lookups_amid_applies_see_whole_applies(self, directory: Directory) -> None:
        prompt = keys(50)
        await alive(directory)
        seen: set[int] = set()
        written = asyncio.Event()

        async def write() -> None:
            for rounds in range(400):
                await directory.apply("a", "1", stored=place(prompt))
                await asyncio.sleep(0)
                await directory.apply("a", "1", removed=place(prompt))
                await asyncio.sleep(0)
                if rounds >= 20 and len(seen) >= 2:
                    break
            written.set()

        async def read() -> None:
            while not written.is_set():
                seen.add(await held(directory, prompt))
                await asyncio.sleep(0)

        await asyncio.gather(write(), *(read() for _ in range(4)))
        assert seen == {0, 50}


class TestClaims:
    async def test_a_claim_counts_as_about_to_be_held(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4), tokens=64)
        found = await one(directory, keys(4))
        assert (found.held_blocks, found.claimed_blocks, found.claimed_tokens) == (0, 4, 64)

    async def test_a_claim_goes_on_from_what_is_held(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=place(keys(6))[:2])
        await directory.claim("c1", "a", "1", keys(6)[:4], tokens=32)
        found = await one(directory, keys(6))
        assert (found.held_blocks, found.claimed_blocks) == (2, 4)

    async def test_claims_of_other_replicas_do_not_count(self, directory: Directory) -> None:
        await alive(directory, "a")
        await alive(directory, "b")
        await directory.claim("c1", "b", "1", keys(4), tokens=64)
        await directory.claim("c2", "unknown", "1", keys(4), tokens=64)
        found = await one(directory, keys(4), "a")
        assert (found.claimed_blocks, found.claimed_tokens) == (0, 0)
        assert (await one(directory, keys(4), "b")).claimed_blocks == 4

    async def test_a_claim_expires(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4), tokens=64, ttl_s=SHORT_S)
        await directory.claim("c2", "a", "1", keys(4)[:1], tokens=5)

        async def expired() -> bool:
            await alive(directory)
            found = await one(directory, keys(4))
            return (found.claimed_blocks, found.claimed_tokens, found.claims) == (1, 5, 1)

        await eventually(expired)

    async def test_a_withdrawn_claim_is_gone_and_others_stay(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4)[:3], tokens=30)
        await directory.claim("c2", "a", "1", keys(4), tokens=40)
        await directory.withdraw("c2", "a", "1", keys(4))
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens) == (3, 30)

    async def test_withdrawing_an_unknown_claim_changes_nothing(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(2), tokens=3)
        await directory.withdraw("nobody", "a", "1", keys(2))
        assert (await one(directory, keys(2))).claimed_tokens == 3

    async def test_claimed_tokens_count_until_the_replica_settles_them(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4), tokens=64)
        await directory.claim("c2", "a", "1", keys(4), tokens=10)
        found = await one(directory, keys(4))
        assert (found.claimed_tokens, found.claims) == (74, 2)
        await alive(directory)
        assert (await one(directory, keys(4))).claimed_tokens == 74
        await directory.publish(ReplicaState("a", "1"), ttl_s=60, settled=["c1", "never made"])
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens, found.claims) == (4, 10, 1)

    async def test_a_claim_dies_with_its_incarnation(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4), tokens=64)
        await alive(directory, incarnation="2")
        assert (await one(directory, keys(4))).claimed_blocks == 0

    async def test_of_two_claims_on_an_unseen_block_the_first_stands(self, directory: Directory) -> None:
        prompt = keys(RUN_BLOCKS + 8)
        for replica in ("a", "b"):
            await alive(directory, replica)
            await directory.apply(replica, "1", stored=place(prompt)[:RUN_BLOCKS])
        assert await directory.claim("c1", "a", "1", prompt, tokens=64, unseen_from=RUN_BLOCKS)
        assert not await directory.claim("c2", "b", "1", prompt, tokens=64, unseen_from=RUN_BLOCKS)
        found = await one(directory, prompt, "b")
        assert (found.claimed_blocks, found.claimed_tokens) == (RUN_BLOCKS, 0)
        assert await directory.claim("c3", "a", "1", prompt, tokens=64, unseen_from=RUN_BLOCKS)
        assert await directory.claim("c4", "b", "1", prompt, tokens=64)
        assert (await one(directory, prompt, "b")).claimed_blocks == len(prompt)

    async def test_a_block_that_was_claimed_and_came_to_be_held_meanwhile_stops_a_claim_too(
        self, directory: Directory
    ) -> None:
        for replica in ("a", "b"):
            await alive(directory, replica)
        assert await directory.claim("c0", "b", "1", keys(4), tokens=1, unseen_from=2)
        await directory.apply("b", "1", stored=place(keys(4)))
        await directory.publish(ReplicaState("b", "1"), ttl_s=60, settled=["c0"])
        assert not await directory.claim("c", "a", "1", keys(4), tokens=1, unseen_from=2)
        assert await directory.claim("c", "a", "1", keys(4), tokens=1, unseen_from=4)

    async def test_a_withdrawn_claim_stops_no_other(self, directory: Directory) -> None:
        for replica in ("a", "b", "c"):
            await alive(directory, replica)
        assert await directory.claim("c1", "a", "1", keys(4), tokens=1, unseen_from=0)
        await directory.withdraw("c1", "a", "1", keys(4))
        assert await directory.claim("c2", "b", "1", keys(4), tokens=1, unseen_from=0)
        await directory.withdraw("c1", "a", "1", keys(4))
        assert not await directory.claim("c3", "c", "1", keys(4), tokens=1, unseen_from=0)
        assert await directory.claim("c4", "b", "1", keys(4), tokens=1, unseen_from=0)
        await directory.withdraw("c2", "b", "1", keys(4))
        assert not await directory.claim("c5", "c", "1", keys(4), tokens=1, unseen_from=0), "it is the fourth's now"

    async def test_a_claim_made_again_counts_once(self, directory: Directory) -> None:
        await alive(directory)
        for tokens in (64, 40):
            assert await directory.claim("c1", "a", "1", keys(4), tokens=tokens, unseen_from=0)
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens, found.claims) == (4, 40, 1)
        await directory.withdraw("c1", "a", "1", keys(4))
        found = await one(directory, keys(4))
        assert (found.claimed_blocks, found.claimed_tokens, found.claims) == (0, 0, 0)

    async def test_a_claim_that_moves_counts_for_the_one_that_got_it(self, directory: Directory) -> None:
        for replica in ("a", "b"):
            await alive(directory, replica)
        await directory.claim("c1", "a", "1", keys(4), tokens=5, unseen_from=0)
        await directory.withdraw("c1", "a", "1", keys(4))
        await directory.claim("c1", "b", "1", keys(4), tokens=5)
        found = {one.state.replica: (one.claimed_blocks, one.claims) for one in await directory.lookup(keys(4))}
        assert found == {"a": (0, 0), "b": (4, 1)}

    async def test_a_claim_of_any_length_counts_to_where_a_prompt_leaves_it(self, directory: Directory) -> None:
        await alive(directory)
        prompt = keys(20 * RUN_BLOCKS + 7)
        await directory.claim("c1", "a", "1", prompt, tokens=1)
        for shared in (len(prompt), len(prompt) - 1, len(prompt) - 5, 20 * RUN_BLOCKS, 3 * RUN_BLOCKS + 9, 9):
            other = [*prompt[:shared], *keys(50, "other")]
            found = (await one(directory, other)).claimed_blocks
            assert found == (shared if shared >= len(prompt) - 8 else shared // RUN_BLOCKS * RUN_BLOCKS)

    async def test_retiring_ends_the_claims_too(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4), tokens=5)
        await directory.retire("a")
        await alive(directory)
        found = await one(directory, keys(4))
        assert (found.claimed_tokens, found.claims) == (0, 0)

    async def test_what_the_dead_and_earlier_incarnations_left_stops_no_claim(self, directory: Directory) -> None:
        await alive(directory, "dead", ttl_s=SHORT_S)
        await directory.apply("dead", "1", stored=place(keys(4)))
        assert await directory.claim("c0", "dead", "1", keys(6), tokens=1, unseen_from=0)
        await alive(directory, "a", incarnation="1")
        await directory.apply("a", "1", stored=place(keys(4)))
        await alive(directory, "a", incarnation="2")
        await alive(directory, "b")

        async def gone() -> bool:
            return [found.state.replica for found in await directory.lookup(keys(6))] == ["a", "b"]

        await eventually(gone)
        assert await directory.claim("c1", "b", "1", keys(6), tokens=1, unseen_from=0)
        assert not await directory.claim("c2", "a", "2", keys(6), tokens=1, unseen_from=0)

    async def test_many_claimants_of_one_new_prefix_agree_on_one(self, directory: Directory) -> None:
        names = [f"r{number}" for number in range(8)]
        for name in names:
            await alive(directory, name)
        won = await asyncio.gather(
            *(directory.claim(f"c-{name}", name, "1", keys(40), tokens=9, unseen_from=0) for name in names)
        )
        assert sum(won) == 1
        claimed = [found.claimed_blocks for found in await directory.lookup(keys(40))]
        assert sorted(claimed) == [0] * 7 + [40]

    async def test_a_claim_marks_again_what_another_withdrawn_one_had_marked(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(4)[:3], tokens=1)
        await directory.claim("c2", "a", "1", keys(4), tokens=1)
        await directory.withdraw("c1", "a", "1", keys(4)[:3])
        await directory.claim("c3", "a", "1", keys(4), tokens=1)
        assert (await one(directory, keys(4))).claimed_blocks == 4

    async def test_a_claim_is_not_a_holding_once_its_blocks_are_removed(self, directory: Directory) -> None:
        await alive(directory)
        await directory.claim("c1", "a", "1", keys(2), tokens=1)
        await directory.apply("a", "1", stored=place(keys(2)))
        await directory.apply("a", "1", removed=place(keys(2)))
        assert (await one(directory, keys(2))).held_blocks == 0


class TestTiers:
    async def test_blocks_in_a_slower_tier_count_as_held_but_not_as_fast(self, directory: Directory) -> None:
        prompt = keys(2 * RUN_BLOCKS + 5)
        await alive(directory)
        placed = place(prompt)
        await directory.apply("a", "1", stored=placed[:40])
        await directory.apply("a", "1", stored=place(prompt, tier=1)[40:60])
        found = await one(directory, prompt)
        assert (found.fast_blocks, found.held_blocks, found.claimed_blocks) == (40, 60, 60)

    async def test_a_block_that_changes_its_tier_has_the_new_one(self, directory: Directory) -> None:
        await alive(directory)
        await directory.apply("a", "1", stored=place(keys(4)))
        await directory.apply("a", "1", stored=place(keys(4), tier=2)[3:])
        found = await one(directory, keys(4))
        assert (found.fast_blocks, found.held_blocks) == (3, 4)
        await directory.apply("a", "1", stored=place(keys(4))[3:])
        assert (await one(directory, keys(4))).fast_blocks == 4


class TestReclaim:
    async def test_what_an_earlier_incarnation_left_is_freed_a_part_at_a_time(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_reclaim, "SUPERSEDED_S", 0.001)
        monkeypatch.setattr(redis_reclaim, "RECLAIM_WINDOW_S", 0.001)
        monkeypatch.setattr(memory_backend, "LEASE_TTL_S", 0.001)
        directory = make()
        prompt = keys(300)
        await alive(directory)
        await alive(directory, "b")
        await directory.apply("a", "1", stored=place(prompt))
        await directory.apply("b", "1", stored=place(prompt))
        assert await directory.reclaim() == 0
        await alive(directory, incarnation="2")
        await directory.apply("a", "2", stored=place(prompt)[:10])
        freed = 0
        deadline = time.monotonic() + 30
        while freed < 300 and time.monotonic() < deadline:
            part = await directory.reclaim(max_fields=64)
            assert part <= 64 + RUN_BLOCKS
            freed += part
        assert freed == 300
        assert await directory.reclaim() == 0
        assert await held(directory, prompt, "a") == 10
        assert await held(directory, prompt, "b") == 300

    async def test_what_a_replica_that_is_gone_for_long_left_is_freed(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_reclaim, "RECLAIM_WINDOW_S", 0.001)
        monkeypatch.setattr(redis_reclaim, "SUPERSEDED_S", 0.001)
        directory = make(forget_s=SHORT_S)
        await alive(directory, "gone", ttl_s=0.05)
        await directory.apply("gone", "1", stored=place(keys(40)))
        freed = 0

        async def all_freed() -> bool:
            nonlocal freed
            await alive(directory, "b")
            freed += await directory.reclaim()
            return freed == 40

        await eventually(all_freed)


class TestHandshake:
    async def test_a_replica_with_the_fleets_key_space_joins(self, directory: Directory) -> None:
        for _ in range(3):
            await directory.join(KeySpace("m", "t", 16, "p 1"))

    async def test_another_key_space_is_refused_and_each_difference_shown(self, directory: Directory) -> None:
        await directory.join(KeySpace("m", "t", 16, "p 1"))
        with pytest.raises(KeySpaceMismatchError) as caught:
            await directory.join(KeySpace("m", "u", 32, "p 1"))
        assert "tokenizer is 'u' and the fleet's is 't'" in caught.value.message
        assert "block_tokens is 32 and the fleet's is 16" in caught.value.message
        assert "model" not in caught.value.message

    async def test_a_release_that_lays_the_directory_out_otherwise_is_refused(self, directory: Directory) -> None:
        await directory.join(KeySpace("m", "t", 16))
        with pytest.raises(KeySpaceMismatchError, match=f"schema is 99 and the fleet's is {SCHEMA}"):
            await directory.join(KeySpace("m", "t", 16, schema=99))

    async def test_who_only_compares_sets_nothing_and_is_refused_too(self, directory: Directory) -> None:
        await directory.join(KeySpace("m", "t", 16), ttl_s=0)
        await directory.join(KeySpace("n", "t", 16))
        with pytest.raises(KeySpaceMismatchError, match="model is 'm' and the fleet's is 'n'"):
            await directory.join(KeySpace("m", "t", 16), ttl_s=0)

    async def test_a_release_beside_the_one_before_may_have_a_key_space_of_its_own(
        self, redis_server: object, request: pytest.FixtureRequest
    ) -> None:
        """As an upgrade of a whole cluster needs it: the new one is there before the old one goes."""

        def opened(application: str) -> RedisDirectory:
            url, namespace = str(redis_server.url), request.node.name  # type: ignore[attr-defined]
            return RedisDirectory.from_url(url, namespace=namespace, application=application, timeout_s=5.0)

        old, new, nobodys = opened("session_1.aloraserve"), opened("session_2.aloraserve"), opened("")
        await old.join(KeySpace("m", "t", 16, "p 1"), ttl_s=60)
        await new.join(KeySpace("m", "t", 16, "p 2"), ttl_s=SHORT_S)
        with pytest.raises(KeySpaceMismatchError, match="plugin is 'p 1' and the fleet's is 'p 2'"):
            await new.join(KeySpace("m", "t", 16, "p 1"))
        await nobodys.join(KeySpace("m", "t", 16, "p 1"), ttl_s=0)
        with pytest.raises(KeySpaceMismatchError, match="the fleet's is 'p 1'"):
            await nobodys.join(KeySpace("m", "t", 16, "p 2"), ttl_s=0)
        await old.join(KeySpace("m", "t", 16, "p 1"), ttl_s=SHORT_S)

        async def is_followed() -> bool:
            await new.join(KeySpace("m", "t", 16, "p 2"))
            with suppress(KeySpaceMismatchError):
                await nobodys.join(KeySpace("m", "t", 16, "p 2"), ttl_s=0)
                return True
            return False

        await eventually(is_followed)
        for directory in (old, new, nobodys):
            await directory.close()

    async def test_a_fleet_that_is_gone_leaves_its_namespace_to_another(self, directory: Directory) -> None:
        await directory.join(KeySpace("m", "t", 16), ttl_s=SHORT_S)

        async def joined() -> bool:
            with suppress(KeySpaceMismatchError):
                await directory.join(KeySpace("n", "t", 16))
                return True
            return False

        await eventually(joined)


class TestBackend:
    async def test_the_epoch_stays(self, directory: Directory) -> None:
        first = await directory.epoch()
        await alive(directory)
        assert first
        assert await directory.epoch() == first

    async def test_ping_answers(self, directory: Directory) -> None:
        await directory.ping()
