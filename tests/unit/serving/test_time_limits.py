"""Calls that take too long: they end in time, at the replica too, and the client is told which time was over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from support.fake_pool import ANSWER, FakePool, FakeReservation, FakeRouter, request

from aloraserve.errors import DeadlineError, InvalidRequestError, ReplicaLostError
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.replica_pool import Replies
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.time_limits import TimeLimits, asked_seconds
from aloraserve.tenants import UNTENANTED

SOON_S = 0.05


class StuckReplies:
    """Replies that stop coming after some."""

    def __init__(self, replies: Sequence[EngineChunk]) -> None:
        self._left = list(replies)
        self.is_cancelled = False
        self.is_ready = False

    def __aiter__(self) -> AsyncIterator[EngineChunk]:
        return self

    async def __anext__(self) -> EngineChunk:
        if not self._left:
            await asyncio.Event().wait()
        return self._left.pop(0)

    def cancel(self) -> None:
        self.is_cancelled = True


class StuckPool(FakePool):
    """Its first replica hangs after some chunks; the next answers."""

    def __init__(self, *chunks: EngineChunk) -> None:
        super().__init__(ANSWER, is_endless=True)
        self.stuck = StuckReplies(chunks)

    def send(self, call: EngineCall) -> Replies:
        self.calls.append(call)
        return cast(Replies, self.stuck)

    def reserve(self, rank: Sequence[str], share: Any = None) -> Any:
        pool = self

        class Stuck(FakeReservation):
            def send(self, call: EngineCall) -> Replies:
                return pool.send(call) if not pool.calls else super().send(call)

        held = super().reserve(rank)

        class Held:
            async def __aenter__(self) -> FakeReservation:
                return Stuck(pool, (await held.__aenter__()).replica)

            async def __aexit__(self, *error: Any) -> None:
                await held.__aexit__(*error)

        return Held()


def made(*, asks_s: float | None = None, is_streamed: bool = True) -> GenerationRequest:
    now = time.perf_counter()
    deadline = None if asks_s is None else now + asks_s
    return request(origin=Origin("r", UNTENANTED, now, deadline=deadline), is_streamed=is_streamed)


async def generate(pool: FakePool, limits: TimeLimits, asked: GenerationRequest) -> Generation:
    return await Dispatcher(cast(Any, FakeRouter()), pool, (), limits).generate(asked)


async def read(generation: Generation) -> list[str]:
    return [chunk.text async for chunk in generation]


@pytest.mark.parametrize(("call_s", "asks_s"), [(SOON_S, None), (60, SOON_S), (SOON_S, 60)])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_call_that_does_not_begin_ends_at_its_deadline_and_is_ended_at_the_replica(
    call_s: float, asks_s: float | None, is_streamed: bool
) -> None:
    pool = StuckPool()
    with pytest.raises(DeadlineError, match=r"not complete within 0\.05 s"):
        await generate(pool, TimeLimits(call_s), made(asks_s=asks_s, is_streamed=is_streamed))
    assert pool.stuck.is_cancelled
    assert pool.held == 0
    assert len(pool.calls) == 1, "another replica would be late as well"


async def test_an_answer_that_does_not_end_is_cut_at_the_deadline() -> None:
    pool = StuckPool(ANSWER[0])
    generation = await generate(pool, TimeLimits(SOON_S), made())
    assert (await anext(generation)).text == "x"
    with pytest.raises(DeadlineError):
        await anext(generation)
    assert pool.stuck.is_cancelled
    assert generation.attempt.outcome is Outcome.CANCELLED
    assert pool.held == 0


async def test_a_whole_answer_that_does_not_end_is_cut_at_the_deadline() -> None:
    pool = StuckPool(ANSWER[0])
    with pytest.raises(DeadlineError):
        await generate(pool, TimeLimits(SOON_S), made(is_streamed=False))
    assert pool.stuck.is_cancelled


async def test_the_deadline_frees_the_engine_also_while_nobody_reads() -> None:
    pool = StuckPool(*ANSWER)
    generation = await generate(pool, TimeLimits(SOON_S), made())
    async with asyncio.timeout(60):
        while not pool.stuck.is_cancelled:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert (await anext(generation)).text == "x"
    with pytest.raises(DeadlineError):
        await anext(generation)


async def test_a_replica_that_is_silent_amid_an_answer_ends_it_with_an_error_that_says_so() -> None:
    pool = StuckPool(ANSWER[0])
    generation = await generate(pool, TimeLimits(chunk_s=SOON_S), made())
    with pytest.raises(ReplicaLostError, match=r"sent nothing for 0\.05 s amid the answer; the answer is incomplete"):
        await read(generation)
    assert pool.stuck.is_cancelled
    assert generation.attempt.outcome is Outcome.CUT_SHORT


async def test_a_whole_answer_moves_from_a_silent_replica_and_repeats_nothing() -> None:
    pool = StuckPool(ANSWER[0])
    generation = await generate(pool, TimeLimits(chunk_s=SOON_S), made(is_streamed=False))
    assert await read(generation) == ["x", "y"]
    assert pool.ranks == [["a", "b"], ["b"]]
    assert pool.stuck.is_cancelled


async def test_a_slow_reader_is_not_the_replica_s_silence() -> None:
    generation = await generate(FakePool(ANSWER), TimeLimits(chunk_s=SOON_S), made())
    assert (await anext(generation)).text == "x"
    await asyncio.sleep(3 * SOON_S)
    assert await read(generation) == ["y"]


async def test_a_reader_that_is_cancelled_is_not_told_of_a_deadline() -> None:
    pool = StuckPool(ANSWER[0])
    generation = await generate(pool, TimeLimits(60, 60), made())
    reading = asyncio.create_task(read(generation))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert pool.stuck.is_cancelled


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("5", 5.0), ("0.25", 0.25), ("86400", 86_400.0)])
def test_a_request_asks_for_less_time(header: str | None, seconds: float | None) -> None:
    assert asked_seconds(header) == seconds


@pytest.mark.parametrize(
    "header", ["", "0", "-1", "86401", "1e3", "nan", "inf", "5s", "1,5", " 5", "0x1", "٣", "1" * 99]
)
def test_an_odd_time_is_refused_with_what_is_accepted(header: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"seconds above 0 and up to 86400 are accepted") as caught:
        asked_seconds(header)
    assert len(caught.value.message) < 200
