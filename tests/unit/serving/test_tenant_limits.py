"""Calls at the way in: what is taken, corrected and refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
from support import fake_pool
from support.fake_engines import WaitingReplies
from support.fake_pool import ANSWER, DiedError, FakePool, FakeRouter, FullError, request

from aloraserve import errors
from aloraserve.errors import (
    AloraserveError,
    DeadlineError,
    DrainingError,
    InvalidRequestError,
    LimitTooLowError,
    OverloadedError,
    RateLimitedError,
    ReplicaLostError,
)
from aloraserve.limits import Demand, Want
from aloraserve.limits.guarded import GuardedLimits
from aloraserve.limits.memory import MemoryLimits
from aloraserve.serving.admission import CallUsage
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineRefusal
from aloraserve.serving.generation import Generation
from aloraserve.serving.limit_headers import duration
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.tenant_limits import TenantAdmission
from aloraserve.serving.time_limits import TimeLimits
from aloraserve.tenants import Caller
from aloraserve.tenants.limits import TenantLimits
from aloraserve.wire import reply_for
from aloraserve.wire.sampling import SamplingSettings

ACME = Caller("acme", cache_salt="tenant:acme")


class Recorder:
    """Remembers what is counted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, CallUsage, int]] = []
        self.refusals: list[str] = []

    def used(self, caller: Caller, usage: CallUsage, *, requests: int) -> None:
        self.calls.append((caller.tenant, usage, requests))

    def refused(self, caller: Caller, limit: str) -> None:
        self.refusals.append(limit)


class Path:
    """A dispatcher with limits over a pool that answers by a script."""

    def __init__(self, *scripts: Any, **limits: Any) -> None:
        self.now_us = 0
        self.store = MemoryLimits(lambda: self.now_us)
        self.guarded = GuardedLimits(self.store, 1)
        self.recorder = Recorder()
        self.limits = TenantLimits(**limits)
        self.admission = TenantAdmission(self.guarded, lambda caller: self.limits, self.recorder)
        self.pool = FakePool(*(scripts or (ANSWER,)), is_endless=not scripts)
        self.dispatcher = Dispatcher(cast(Any, FakeRouter()), self.pool, admission=self.admission)
        self.arrivals = 0

    async def send(self, *, at: float | None = None, **changes: Any) -> Generation:
        return await self.dispatcher.generate(self.request(at=at, **changes))

    def request(self, *, at: float | None = None, **changes: Any) -> GenerationRequest:
        self.arrivals += 1
        made = request(caller=ACME, is_streamed=False)
        return _changed(made, origin=Origin("r1", ACME, self.arrivals if at is None else at), **changes)

    async def tokens_left(self) -> int | None:
        await self.guarded._settle_all()
        standing = await self.store.take(self.probe())
        return standing.remaining(1)

    def probe(self) -> Want:
        return Want("acme", msgspec.structs.replace(self.limits, concurrency=None), Demand(0, 0, 0), "")


def _changed(made: GenerationRequest, **changes: Any) -> GenerationRequest:
    return replace(made, **changes)


async def test_a_tenant_without_limits_asks_nobody_and_is_counted() -> None:
    path = Path()
    await path.send()
    assert path.store.tenants == 0
    assert path.recorder.calls == [("acme", CallUsage(8, 4, 2), 1)]


async def test_estimates_are_corrected_by_what_was_used() -> None:
    path = Path(tokens_per_minute=1000, uncached_tokens_per_minute=1000)
    await path.send()
    assert await path.tokens_left() == 990, "eight of the prompt and two that were generated"


async def test_an_engine_that_says_that_more_was_cached_than_there_is_changes_no_sum() -> None:
    path = Path((replace(ANSWER[0], cached_tokens=9), ANSWER[1]))
    await path.send()
    assert path.recorder.calls == [("acme", CallUsage(8, 8, 2), 1)]


async def test_a_stream_is_settled_when_it_ends_and_once() -> None:
    path = Path(tokens_per_minute=1000, concurrency=1)
    generation = await path.send(is_streamed=True)
    with pytest.raises(RateLimitedError) as refused:
        await path.send()
    assert refused.value.retry_after_s is not None
    assert refused.value.headers["x-ratelimit-remaining-concurrency"] == "0"
    _ = [chunk async for chunk in generation]
    await generation.aclose()
    assert await path.tokens_left() == 990
    await path.send()
    assert len(path.recorder.calls) == 2


@pytest.mark.parametrize(
    ("script", "error", "left"),
    [
        (FullError(), OverloadedError, (1000, 10)),
        ((DiedError(),), ReplicaLostError, (1000, 10)),
        ((EngineRefusal("no"),), InvalidRequestError, (1000, 9)),
        ((RuntimeError(),), RuntimeError, (1000, 10)),
    ],
)
async def test_a_call_without_an_answer_uses_what_its_tenant_is_to_blame_for(
    script: Any, error: type[Exception], left: tuple[int, int]
) -> None:
    path = Path(*[script] * 3, tokens_per_minute=1000, requests_per_minute=10)
    with pytest.raises(error):
        await path.send()
    await path.guarded._settle_all()
    standing = await path.store.take(path.probe())
    assert (standing.remaining(1), standing.remaining(0)) == left
    assert path.recorder.calls == []


ENDINGS = [
    *(error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, AloraserveError)),
    asyncio.CancelledError,
    RuntimeError,
]


@pytest.mark.parametrize("is_sent", [False, True], ids=["before it is sent", "once an engine has it"])
@pytest.mark.parametrize("kind", ENDINGS, ids=lambda kind: kind.__name__)
async def test_a_call_that_gets_nothing_uses_no_more_than_engines_did_for_it(
    kind: type[BaseException], is_sent: bool
) -> None:
    """Whatever ends it: nothing if that is the fleet's fault, else a request, and the prompt once an engine has it."""
    error = kind("it")
    path = Path((error,) if is_sent else error, tokens_per_minute=1000, requests_per_minute=10)
    path.pool.scripts *= 3
    with pytest.raises(kind):
        await path.send()
    await path.guarded._settle_all()
    standing = await path.store.take(path.probe())
    is_fleets = issubclass(kind, OverloadedError | ReplicaLostError | DrainingError | RuntimeError)
    expected = (1000, 10) if is_fleets else (992 if is_sent else 1000, 9)
    assert (standing.remaining(1), standing.remaining(0)) == expected
    assert path.recorder.calls == [] if expected[0] == 1000 else [("acme", CallUsage(8, 4, 0), 1)]
    assert path.admission._running == {}


async def test_what_was_generated_before_the_time_was_over_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_pool, "ScriptedReplies", lambda _: WaitingReplies())
    path = Path(tokens_per_minute=1000)
    limits = TimeLimits(call_s=0.2)
    path.dispatcher = Dispatcher(cast(Any, FakeRouter()), path.pool, limits=limits, admission=path.admission)
    with pytest.raises(DeadlineError):
        await path.send(at=time.perf_counter())
    assert await path.tokens_left() == 991, "eight of the prompt and the one that came"
    assert path.recorder.calls == [("acme", CallUsage(8, 0, 1), 1)]


async def test_a_list_is_let_in_as_one_and_refused_as_one() -> None:
    path = Path(tokens_per_minute=50, uncached_tokens_per_minute=50)
    await path.dispatcher.generate_all([path.request(at=1.0) for _ in range(3)])
    assert await path.tokens_left() == 50 - 3 * 10
    for _ in range(3):
        with pytest.raises(RateLimitedError):
            await path.dispatcher.generate_all([path.request(at=2.0) for _ in range(4)])
    assert await path.tokens_left() == 20, "a refused request takes nothing"
    assert len(path.pool.calls) == 3
    with pytest.raises(LimitTooLowError, match=r"needs 54 tokens at least.*fewer or shorter prompts"):
        await path.dispatcher.generate_all([path.request(at=3.0) for _ in range(6)])


async def test_a_list_of_which_the_fleet_fails_one_prompt_uses_nothing() -> None:
    path = Path(ANSWER, FullError(), ANSWER, tokens_per_minute=1000, requests_per_minute=10, concurrency=1)
    with pytest.raises(OverloadedError):
        await path.dispatcher.generate_all([path.request(at=1.0) for _ in range(3)])
    await path.guarded._settle_all()
    standing = await path.store.take(path.probe())
    assert (standing.remaining(1), standing.remaining(0)) == (1000, 10)
    assert (path.admission._running, path.recorder.calls) == ({}, [])


async def test_a_request_keeps_its_place_between_its_calls() -> None:
    path = Path(concurrency=1)
    origin = path.request(at=1.0).origin
    with path.admission.place(origin):
        for _ in range(2):
            await path.send(at=1.0)
            await path.guarded._settle_all()
            with pytest.raises(RateLimitedError, match="1 requests run at once"):
                await path.send(at=2.0)
    await path.guarded._settle_all()
    await path.send(at=2.0)


async def test_over_its_limit_a_tenant_is_refused_with_what_it_needs_to_wait() -> None:
    path = Path(requests_per_minute=2)
    await path.send()
    await path.send()
    with pytest.raises(RateLimitedError) as refused:
        await path.send()
    reply = reply_for(refused.value)
    assert (reply.status, reply.body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert reply.headers["Retry-After"] == "30"
    assert reply.headers["x-ratelimit-limit-requests"] == "2"
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert reply.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert path.recorder.refusals == ["requests"]
    path.now_us += 30_000_000
    assert (await path.send()).ticket.headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_request_that_never_fits_is_refused_for_good() -> None:
    path = Path(tokens_per_minute=8)
    with pytest.raises(LimitTooLowError, match=r"needs 9 tokens at least.*8 tokens per minute") as refused:
        await path.send()
    reply = reply_for(refused.value)
    assert reply.status == 400
    assert "Retry-After" not in reply.headers


async def test_one_that_fits_is_let_in_however_long_its_answer_may_become() -> None:
    path = Path(tokens_per_minute=20)
    assert await path.send(sampling=SamplingSettings(max_tokens=100_000))


async def test_choices_count_each() -> None:
    path = Path(tokens_per_minute=1000)
    generation = await path.send(sampling=SamplingSettings(max_tokens=4, n=3), is_streamed=True)
    assert await path.tokens_left() == 1000 - 8 - 3 * 4
    await generation.aclose()


async def test_further_calls_of_a_request_are_no_requests_and_share_its_place() -> None:
    path = Path(requests_per_minute=2, concurrency=1)
    first = await path.send(at=5.0, is_streamed=True)
    second = await path.send(at=5.0, is_streamed=True)
    await first.aclose()
    await path.guarded._settle_all()
    with pytest.raises(RateLimitedError, match="1 requests run at once"):
        await path.send(at=6.0)
    await second.aclose()
    await path.guarded._settle_all()
    await path.send(at=6.0)
    assert [requests for _, _, requests in path.recorder.calls] == [1, 0, 1]
    assert path.admission._running == {}
    with pytest.raises(RateLimitedError, match="2 requests per minute"):
        await path.send(at=7.0)


async def test_a_tenant_whose_prompts_are_cached_reserves_less() -> None:
    path = Path(uncached_tokens_per_minute=8, tokens_per_minute=10_000)
    cached = (ANSWER[0].__class__(0, "x", 1, "stop", cached_tokens=8),)
    path.pool.scripts = [cached]
    for _ in range(30):
        await path.send()
        await path.guarded._settle_all()
    assert path.recorder.refusals == []


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0, "0ms"), (1, "1ms"), (999_000, "999ms"), (1_500_000, "1.5s"), (360_000_000, "6m0s"), (61_001_000, "1m1.001s")],
)
def test_times_are_written_as_openai_writes_them(microseconds: int, text: str) -> None:
    assert duration(microseconds) == text


def test_any_error_may_say_when_to_come_again() -> None:
    reply = reply_for(OverloadedError("full", retry_after_s=3.2))
    assert reply.headers["Retry-After"] == "4"
    assert "Retry-After" not in reply_for(AloraserveError("x")).headers
