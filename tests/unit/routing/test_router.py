from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.round_robin import RoundRobin
from aloraserve.routing.router import Router

SPACE = KeySpace("model", "tokenizer", 16)
PROMPT = list(range(160))
CALL = Call(len(PROMPT), 16, SPACE.keys(PROMPT))


class FaultyDirectory(MemoryDirectory):
    """Hangs or fails on demand and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.hang = False
        self.fail = False
        self.asked = 0
        self.before_answer: Callable[[], Awaitable[Any]] | None = None

    async def lookup(self, keys: Sequence[bytes]) -> list[Candidate]:
        await self._fault()
        if self.before_answer is not None:
            await self.before_answer()
        return await super().lookup(keys)

    async def claim(self, *args: Any, **options: Any) -> None:
        await self._fault()
        await super().claim(*args, **options)

    async def withdraw(self, *args: Any, **options: Any) -> None:
        await self._fault()
        await super().withdraw(*args, **options)

    async def _fault(self) -> None:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.fail:
            raise DirectoryUnavailableError("the directory at redis:// failed")


@pytest.fixture
def directory() -> FaultyDirectory:
    return FaultyDirectory()


def router(directory: FaultyDirectory, known: Sequence[str] = (), **options: Any) -> Router:
    options.setdefault("policy", ExpectedTtft())
    return Router(directory, options.pop("policy"), SPACE, known_replicas=lambda: list(known), **options)


async def alive(directory: FaultyDirectory, *replicas: str, **load: Any) -> None:
    for replica in replicas:
        await directory.publish(ReplicaState(replica, "1", load=ReplicaLoad(**load)), ttl_s=60)


async def test_the_holder_of_the_prefix_is_chosen(directory: FaultyDirectory) -> None:
    await alive(directory, "a", "b")
    await directory.apply("b", "1", stored=CALL.keys)
    decision = await router(directory, ["a", "b"]).decide(CALL)
    assert decision.rank == ["b", "a"]
    assert decision.policy == "expected-ttft"


async def test_a_slow_directory_costs_the_budget_and_no_more(directory: FaultyDirectory) -> None:
    directory.hang = True
    started = time.perf_counter()
    decision = await router(directory, ["a", "b"], budget_s=0.02).decide(CALL)
    assert time.perf_counter() - started < 5, "the directory never answers"
    assert sorted(decision.rank) == ["a", "b"]
    assert decision.policy == "fallback"
    assert "20 ms" in decision.reason


async def test_an_answer_that_came_while_the_process_was_held_up_counts(directory: FaultyDirectory) -> None:
    """A long body that is parsed on the event loop must not make the directory look slow."""
    await alive(directory, "a", "b")
    await directory.apply("b", "1", stored=CALL.keys)
    breaker = Breaker(failures=1)
    one = router(directory, ["a", "b"], budget_s=0.02, breaker=breaker)
    answered = asyncio.Event()

    async def arrive() -> None:
        await answered.wait()
        # As a reply from a socket does: through a transport, a reader and a parser.
        for _ in range(6):
            await asyncio.sleep(0)

    directory.before_answer = arrive
    asyncio.get_running_loop().call_soon(lambda: (time.sleep(0.1), answered.set()))
    assert (await one.decide(CALL)).rank == ["b", "a"]
    assert breaker.closed


async def test_a_timeout_of_a_process_that_was_held_up_is_not_held_against_the_directory(
    directory: FaultyDirectory,
) -> None:
    directory.hang = True
    breaker = Breaker(failures=1)
    one = router(directory, ["a"], budget_s=0.02, breaker=breaker)
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    assert (await one.decide(CALL)).policy == "fallback"
    assert breaker.closed


async def test_a_failing_directory_falls_back_with_its_cause(directory: FaultyDirectory) -> None:
    directory.fail = True
    decision = await router(directory, ["a", "b"]).decide(CALL)
    assert decision.policy == "fallback"
    assert decision.reason.startswith("the directory cannot be reached; ")
    assert "redis://" not in decision.reason, "the reason goes to clients"


async def test_the_fallback_keeps_a_conversation_where_it_was(directory: FaultyDirectory) -> None:
    directory.fail = True
    one = router(directory, ["a", "b", "c"])
    assert len({tuple((await one.decide(CALL)).rank) for _ in range(3)}) == 1


async def test_the_fallback_avoids_who_was_last_seen_busy(directory: FaultyDirectory) -> None:
    now = [0.0]
    one = router(directory, ["a", "b", "c"], clock=lambda: now[0])
    directory.fail = True
    favourite = (await one.decide(CALL)).rank[0]
    directory.fail = False
    await alive(directory, *"abc")
    await alive(directory, favourite, running=50)
    await one.decide(CALL)
    directory.fail = True
    assert (await one.decide(CALL)).rank[-1] == favourite
    now[0] = 60.0
    assert (await one.decide(CALL)).rank[0] == favourite


async def test_without_known_replicas_the_fallback_is_among_the_last_seen(directory: FaultyDirectory) -> None:
    await alive(directory, "a", "b")
    one = router(directory)
    await one.decide(CALL)
    directory.fail = True
    assert sorted((await one.decide(CALL)).rank) == ["a", "b"]


async def test_an_empty_directory_falls_back_among_the_known(directory: FaultyDirectory) -> None:
    decision = await router(directory, ["a", "b"]).decide(CALL)
    assert decision.policy == "fallback"
    assert "no live replica" in decision.reason
    assert sorted(decision.rank) == ["a", "b"]


async def test_no_replica_anywhere_is_a_decision_without_estimates(directory: FaultyDirectory) -> None:
    assert (await router(directory).decide(CALL)).rank == []


async def test_replicas_that_cannot_be_reached_are_left_out_and_new_ones_included(
    directory: FaultyDirectory,
) -> None:
    await alive(directory, "gone", "a")
    await directory.apply("gone", "1", stored=CALL.keys)
    assert (await router(directory, ["a", "new", "new"]).decide(CALL)).rank == ["a", "new"]


async def test_an_open_breaker_leaves_the_directory_alone(directory: FaultyDirectory) -> None:
    now = [0.0]
    breaker = Breaker(failures=2, open_s=1.0, clock=lambda: now[0])
    one = router(directory, ["a"], breaker=breaker)
    await alive(directory, "a")
    directory.fail = True
    for _ in range(5):
        assert (await one.decide(CALL)).rank == ["a"]
    assert directory.asked == 2
    assert not await one.claim(CALL, await one.decide(CALL), "a", "c")
    assert directory.asked == 2
    directory.fail, now[0] = False, 1.0
    assert (await one.decide(CALL)).policy == "expected-ttft"
    assert breaker.closed


async def test_without_the_directory_nothing_is_asked(directory: FaultyDirectory) -> None:
    one = router(directory, ["b", "a"], policy=RoundRobin(), use_directory=False)
    first, second = await one.decide(CALL), await one.decide(CALL)
    assert (first.rank, second.rank) == (["a", "b"], ["b", "a"])
    assert first.policy == "round-robin"
    assert not await one.claim(CALL, first, "a", "c")
    assert not await one.withdraw(CALL, "a", "c")
    assert directory.asked == 0


async def test_a_claim_counts_what_is_left_to_prefill_until_withdrawn(directory: FaultyDirectory) -> None:
    await alive(directory, "a")
    await directory.apply("a", "1", stored=CALL.keys[:4])
    one = router(directory, ["a"])
    assert await one.claim(CALL, await one.decide(CALL), "a", "c")
    found = (await directory.lookup(CALL.keys))[0]
    assert (found.held_blocks, found.claimed_blocks, found.claimed_tokens) == (4, 10, 96)
    assert await one.withdraw(CALL, "a", "c")
    assert (await directory.lookup(CALL.keys))[0].claimed_blocks == 4


@pytest.mark.parametrize("fault", ["hang", "fail"])
async def test_claims_that_fail_are_swallowed_in_time(directory: FaultyDirectory, fault: str) -> None:
    await alive(directory, "a")
    one = router(directory, ["a"], claim_budget_s=0.02)
    decision = await one.decide(CALL)
    setattr(directory, fault, True)
    started = time.perf_counter()
    assert not await one.claim(CALL, decision, "a", "c")
    assert not await one.withdraw(CALL, "a", "c")
    assert time.perf_counter() - started < 5, "the directory never answers"


async def test_a_call_of_another_block_size_is_refused(directory: FaultyDirectory) -> None:
    with pytest.raises(ValueError, match="block_tokens is 8"):
        await router(directory, ["a"]).decide(Call(8, 8, []))


async def test_a_cancelled_decision_stays_cancelled(directory: FaultyDirectory) -> None:
    directory.hang = True
    task = asyncio.create_task(router(directory, ["a"], budget_s=5).decide(CALL))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
