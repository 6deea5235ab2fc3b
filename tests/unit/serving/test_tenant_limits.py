"""Calls at the way in: what is taken, corrected and refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
from support.fake_pool import ANSWER, DiedError, FakePool, FakeRouter, FullError, request

from aloraserve.errors import (
    AloraserveError,
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
        ((RuntimeError(),), RuntimeError, (988, 9)),
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


async def test_who_goes_away_before_the_first_token_has_used_what_was_expected() -> None:
    path = Path((asyncio.CancelledError(),), tokens_per_minute=1000)
    with pytest.raises(asyncio.CancelledError):
        await path.send()
    assert await path.tokens_left() == 988


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
    path = Path((RuntimeError(),), tokens_per_minute=1000)
    with pytest.raises(RuntimeError):
        await path.send(sampling=SamplingSettings(max_tokens=4, n=3))
    assert await path.tokens_left() == 1000 - 8 - 3 * 4


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
