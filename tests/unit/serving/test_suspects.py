"""A request that ends engines ends two at most; those that were lost with it are answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from support.fake_pool import (
    ANSWER,
    DiedError,
    EngineEndedError,
    FakePool,
    FakeReservation,
    FakeRouter,
    ScriptedReplies,
    request,
)

from aloraserve.errors import EngineEndingRequestError, ReplicaLostError
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.replica_pool import Replies
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.suspects import MAX_SUSPECTS, Suspects
from aloraserve.tenants import Caller
from aloraserve.wire.sampling import SamplingSettings

ENDED = (EngineEndedError(),)
POISON = list(range(100, 108))


def dispatcher(pool: Any, suspects: Suspects | None = None, receipts: ReceiptRing | None = None) -> Dispatcher:
    observers = [] if receipts is None else [ReceiptWriter(receipts)]
    return Dispatcher(cast(Any, FakeRouter()), pool, observers, suspects=suspects)


async def test_a_request_that_ends_its_engine_ends_one_more_and_is_then_refused() -> None:
    pool, receipts = FakePool(ENDED, ENDED, ANSWER, is_endless=True), ReceiptRing()
    sender = dispatcher(pool, receipts=receipts)
    with pytest.raises(EngineEndingRequestError, match="2 engines ended while they answered this request"):
        await sender.generate(request())
    assert len(pool.calls) == 2
    found = receipts.get("r1")
    assert found is not None
    assert [attempt.outcome for attempt in found.attempts] == ["engine-ended", "engine-ended"]
    with pytest.raises(EngineEndingRequestError, match="refused for 600 s"):
        await sender.generate(request("sent again"))
    assert len(pool.calls) == 2, "no engine gets it"


@pytest.mark.parametrize(
    "other",
    [
        {"token_ids": list(range(9))},
        {"sampling": SamplingSettings(max_tokens=5)},
        {"caller": Caller("x", cache_salt="tenant:x")},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_another_request_is_not_refused(other: dict[str, Any]) -> None:
    sender = dispatcher(FakePool(ENDED, ENDED, ANSWER))
    with pytest.raises(EngineEndingRequestError):
        await sender.generate(request())
    assert (await sender.generate(request(**other))).tokens


async def test_a_refusal_ends_with_its_time() -> None:
    now = 0.0
    sender = dispatcher(FakePool(ENDED, ENDED, ANSWER), Suspects(clock=lambda: now))
    with pytest.raises(EngineEndingRequestError):
        await sender.generate(request())
    now = 601.0
    assert (await sender.generate(request())).tokens


async def test_streams_that_had_begun_count_too() -> None:
    """The client is told of each, and sends the request again."""
    pool = FakePool((ANSWER[0], EngineEndedError()), (ANSWER[0], EngineEndedError()), ANSWER)
    sender = dispatcher(pool)
    for replica in "ab":
        pool.given = replica
        with pytest.raises(ReplicaLostError, match="incomplete"):
            [chunk async for chunk in await sender.generate(request())]
    with pytest.raises(EngineEndingRequestError):
        await sender.generate(request())


async def test_an_answer_clears_a_request() -> None:
    pool = FakePool(ENDED, ANSWER, ENDED, ANSWER, ENDED, ANSWER)
    sender = dispatcher(pool)
    for _ in range(3):
        assert [chunk.text async for chunk in await sender.generate(request())] == ["x", "y"]


async def test_lost_replicas_say_nothing_about_their_calls() -> None:
    pool = FakePool((DiedError(),), (DiedError(),), (DiedError(),), ANSWER)
    sender = dispatcher(pool)
    with pytest.raises(ReplicaLostError, match="3 replicas were lost"):
        await sender.generate(request())
    assert (await sender.generate(request())).tokens


class Engines(FakePool):
    """Engines of which each ends when the poison reaches it, and with it every call that waits there."""

    def __init__(self) -> None:
        super().__init__(ANSWER, is_endless=True)
        self.ended: list[str] = []
        self.names = iter("cdefgh")
        self.now = "a"
        self.gathered = asyncio.Barrier(4)
        self.is_first = True

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[Any]:
        yield EngineAtWork(self, self.now)


class EngineAtWork(FakeReservation):
    """A place on an engine."""

    pool: Engines

    def send(self, call: EngineCall) -> Replies:
        return cast(Replies, EngineReplies(self.pool, self.replica, call))


class EngineReplies(ScriptedReplies):
    """What an engine says, unless it ended before."""

    def __init__(self, pool: Engines, engine: str, call: EngineCall) -> None:
        super().__init__(ANSWER)
        self._pool, self._engine, self._call = pool, engine, call

    async def __anext__(self) -> Any:
        pool = self._pool
        if pool.is_first:
            await pool.gathered.wait()
            pool.is_first = False
        if self._call.token_ids == POISON and self._engine not in pool.ended:
            pool.ended.append(self._engine)
            pool.now = next(pool.names)
        # Each of the others has a turn to be ended under.
        await asyncio.sleep(0)
        if self._engine in pool.ended:
            raise EngineEndedError
        return await super().__anext__()


async def test_those_that_were_lost_with_it_are_answered_and_it_ends_two_engines() -> None:
    pool = Engines()
    sender = dispatcher(pool)

    async def answer(made: GenerationRequest) -> str:
        generation = await sender.generate(made)
        return "".join([chunk.text async for chunk in generation])

    innocent = [
        request(f"r{number}", token_ids=list(range(number, number + 8)), is_streamed=False) for number in range(3)
    ]
    results = await asyncio.gather(
        answer(request("poison", token_ids=POISON)), *map(answer, innocent), return_exceptions=True
    )
    assert isinstance(results[0], EngineEndingRequestError)
    assert results[1:] == ["xy"] * 3
    assert pool.ended == ["a", "c"]


async def test_a_suspect_does_not_wait_for_ever_for_another() -> None:
    suspects = Suspects(trial_s=0.01)
    made = request()
    suspects.ended(cast(Any, _Ended(made)), None)
    async with suspects.trial(made), asyncio.timeout(60), suspects.trial(made):
        pass
    async with asyncio.timeout(60), suspects.trial(made):
        pass


async def test_suspects_are_bounded_and_hold_nothing_of_a_prompt() -> None:
    suspects = Suspects()
    for number in range(MAX_SUSPECTS + 10):
        suspects.ended(cast(Any, _Ended(request(token_ids=[number] * 8))), None)
    assert len(suspects._found) == MAX_SUSPECTS
    assert all(isinstance(digest, bytes) and len(digest) == 16 for digest in suspects._found)
    other = Suspects()
    other.ended(cast(Any, _Ended(request(token_ids=[MAX_SUSPECTS] * 8))), None)
    assert not other._found.keys() & suspects._found.keys(), "each process has a key of its own"


async def test_a_suspect_that_is_sent_to_an_engine_that_another_one_ended_is_not_blamed_for_it() -> None:
    suspects, poison, honest = Suspects(), request(token_ids=POISON), request()
    for made in (poison, honest):
        suspects.ended(cast(Any, _Ended(made)), None)
    for made in (poison, honest):
        async with suspects.trial(made) as trial:
            trial.attempt = cast(Any, _Ended(made, "b"))
            suspects.ended(trial.attempt, None)
    suspects.check(honest)
    with pytest.raises(EngineEndingRequestError):
        suspects.check(poison)


async def test_one_engine_s_end_counts_once_however_often_the_request_ran_there() -> None:
    suspects, made = Suspects(), request()
    for _ in range(3):
        suspects.ended(cast(Any, _Ended(made)), None)
    suspects.check(made)


class _Ended:
    """An attempt under which an engine ended."""

    engine_ended = True

    def __init__(self, made: GenerationRequest, replica: str = "a") -> None:
        self.request = made
        self.replica = replica
