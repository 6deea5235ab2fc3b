"""Whatever is stored, removed, claimed and renewed in any order, a lookup says what a plain model says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.own_valkey import socket_url, valkey_server

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import RUN_BLOCKS, Candidate, Directory, Holding, ReplicaState, place
from aloraserve.directory.claimed_blocks import LAST_MARKS
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.redis import RedisDirectory

SPACE = KeySpace("m", "t", 1)
REPLICAS = ("a", "b")
TRUNK = list(range(70))
# Chains that part within a run, at a run's edge, in the first block, and one that goes on to three runs.
CUTS_AND_TAILS = ((70, 0), (70, 40), (32, 20), (40, 9), (0, 5))
PROMPTS = [SPACE.keys(TRUNK[:cut] + [1000 * cut] * tail) for cut, tail in CUTS_AND_TAILS]
_namespaces = itertools.count()


@dataclass
class Model:
    """The plainest directory: sets of keys."""

    incarnation: dict[str, int] = field(default_factory=dict)
    tiers: dict[tuple[str, int], dict[bytes, int]] = field(default_factory=dict)
    claims: dict[str, tuple[str, int, list[bytes], int]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def holds(self, replica: str) -> dict[bytes, int]:
        return self.tiers.setdefault((replica, self.incarnation.get(replica, 0)), {})

    def expect(self, prompt: list[bytes]) -> dict[str, tuple[int, int, int, int]]:
        return {replica: self._candidate(replica, prompt) for replica in sorted(self.incarnation)}

    def _candidate(self, replica: str, prompt: list[bytes]) -> tuple[int, int, int, int]:
        held = self.holds(replica)
        now = (replica, self.incarnation[replica])
        about = [_shown(prompt, keys) for owner, made_in, keys, _ in self.claims.values() if (owner, made_in) == now]
        tokens = sum(
            tokens
            for claim, (owner, _, _, tokens) in self.claims.items()
            if owner == replica and claim not in self.settled
        )
        blocks = _leading(prompt, lambda key: key in held)
        return _leading(prompt, lambda key: held.get(key, 1) == 0), blocks, max([blocks, *about]), tokens


def _leading(prompt: list[bytes], test: Callable[[bytes], bool]) -> int:
    return next((index for index, key in enumerate(prompt) if not test(key)), len(prompt))


def _shown(prompt: list[bytes], claimed: list[bytes]) -> int:
    """How many of a prompt's blocks a claim is known to cover: all that they share, or else whole runs."""
    shared = _leading(prompt, lambda key: key in claimed)
    return shared if shared > len(claimed) - LAST_MARKS else shared // RUN_BLOCKS * RUN_BLOCKS


replicas = st.sampled_from(REPLICAS)
prompts = st.integers(0, len(PROMPTS) - 1)
lengths = st.integers(1, 110)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), replicas, prompts, lengths, st.integers(0, 1)),
        st.tuples(st.just("evict"), replicas, prompts, lengths),
        st.tuples(st.just("claim"), replicas, prompts, lengths, st.integers(0, 50)),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 9)),
        st.tuples(st.just("publish"), replicas),
        st.tuples(st.just("restart"), replicas),
    ),
    min_size=12,
    max_size=30,
)


CLAIM_COMES_TRUE = [("publish", "a"), ("claim", "a", 0, 10, 5), ("store", "a", 0, 10, 0), ("evict", "a", 0, 5)]
CLAIM_MADE_TWICE = [
    ("publish", "a"),
    ("claim", "a", 0, 40, 1),
    ("claim", "a", 0, 60, 2),
    ("withdraw", 0),
    ("claim", "a", 1, 80, 3),
]
SLOW_BEHIND_FAST = [("publish", "a"), ("store", "a", 0, 40, 0), ("store", "a", 1, 110, 1), ("evict", "a", 1, 75)]


class Player:
    """Plays steps on a directory and on the model."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.model = Model()
        self.names = itertools.count()
        self.made: dict[str, list[bytes]] = {}

    async def publish(self, replica: str, *settled: str) -> None:
        self.model.incarnation.setdefault(replica, 0)
        state = ReplicaState(replica, str(self.model.incarnation[replica]))
        await self.directory.publish(state, ttl_s=60, settled=settled)

    async def restart(self, replica: str) -> None:
        self.model.incarnation[replica] = self.model.incarnation.get(replica, 0) + 1
        await self.publish(replica)

    async def store(self, replica: str, prompt: int, length: int, tier: int) -> None:
        """Store a chain's blocks; those beyond what is in the fast tier are in the slow one, as engines evict."""
        held = self.model.holds(replica)
        placed = place(PROMPTS[prompt])[:length]
        fast = _leading([one.key for one in placed], lambda key: held.get(key, 1) == 0)
        new = [one._replace(tier=tier if index >= fast else 0) for index, one in enumerate(placed)]
        await self._apply(replica, stored=new)
        held.update({one.key: one.tier for one in new})
        await self._sink(replica)

    async def _sink(self, replica: str) -> None:
        """Keep ranks falling along every chain, as the contract has it."""
        held = self.model.holds(replica)
        for prompt in PROMPTS:
            fast = _leading(prompt, lambda key: held.get(key, 1) == 0)
            slow = [one for one in place(prompt, tier=1)[fast:] if held.get(one.key) == 0]
            if slow:
                await self._apply(replica, stored=slow)
                held.update({one.key: 1 for one in slow})

    async def evict(self, replica: str, prompt: int, length: int) -> None:
        """Remove a chain's block and every block after it, in whichever chain."""
        held = self.model.holds(replica)
        cut = PROMPTS[prompt][min(length, len(PROMPTS[prompt])) - 1]
        gone: dict[bytes, Holding] = {}
        for chain in PROMPTS:
            if cut in chain:
                gone |= {one.key: one for one in place(chain)[chain.index(cut) :] if one.key in held}
        await self._apply(replica, removed=list(gone.values()))
        for key in gone:
            del held[key]

    async def _apply(self, replica: str, *, stored: list[Holding] = (), removed: list[Holding] = ()) -> None:  # type: ignore[assignment]
        incarnation = str(self.model.incarnation.get(replica, 0))
        await self.directory.apply(replica, incarnation, stored=stored, removed=removed)

    async def claim(self, replica: str, prompt: int, length: int, tokens: int) -> None:
        name = f"c{next(self.names)}"
        keys = PROMPTS[prompt][:length]
        incarnation = self.model.incarnation.get(replica, 0)
        await self.directory.claim(name, replica, str(incarnation), keys, tokens=tokens)
        self.made[name] = keys
        self.model.claims[name] = (replica, incarnation, keys, tokens)

    async def withdraw(self, number: int) -> None:
        name = f"c{number}"
        if name in self.model.claims:
            replica, incarnation, _, _ = self.model.claims.pop(name)
            await self.directory.withdraw(name, replica, str(incarnation), self.made[name])

    async def settle(self, number: int) -> None:
        name = f"c{number}"
        if name in self.model.claims:
            await self.publish(self.model.claims[name][0], name)
            self.model.settled.add(name)

    async def check(self) -> None:
        for prompt in PROMPTS:
            for length in (len(prompt), RUN_BLOCKS + 1, 3):
                found = await self.directory.lookup(prompt[:length])
                assert {one.state.replica: _seen(one) for one in found} == self.model.expect(prompt[:length])


def _seen(candidate: Candidate) -> tuple[int, int, int, int]:
    return candidate.fast_blocks, candidate.held_blocks, candidate.claimed_blocks, candidate.claimed_tokens


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with valkey_server() as server:
        yield socket_url(server)


async def _play(directory: Directory, script: list[tuple[object, ...]]) -> None:
    player = Player(directory)
    for name, *arguments in script:
        await getattr(player, str(name))(*arguments)
        await player.check()
    await directory.close()


@given(steps)
@example(CLAIM_COMES_TRUE)
@example(CLAIM_MADE_TWICE)
@example(SLOW_BEHIND_FAST)
def test_the_directory_in_memory_agrees_with_a_plain_model(script: list[tuple[object, ...]]) -> None:
    asyncio.run(_play(MemoryDirectory(), script))


@given(steps)
@example(CLAIM_COMES_TRUE)
@example(CLAIM_MADE_TWICE)
@example(SLOW_BEHIND_FAST)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_directory_in_redis_agrees_with_a_plain_model(server_url: str, script: list[tuple[object, ...]]) -> None:
    directory = RedisDirectory.from_url(server_url, namespace=f"n{next(_namespaces)}", timeout_s=5.0)
    asyncio.run(_play(directory, script))
