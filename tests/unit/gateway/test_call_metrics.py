"""Calls, counted as they go."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from support.character_tokenizer import adapter
from support.fake_pool import ANSWER, DiedError, FakePool, FakeRouter, FullError, request

from aloraserve.errors import OverloadedError
from aloraserve.routing.base import Call
from aloraserve.savings.base import CachedBySource, CallSavings
from aloraserve.serving import generation as generation_module
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve_services.gateway import call_metrics
from aloraserve_services.gateway.call_metrics import CallMetrics
from aloraserve_services.gateway.metrics import GatewayMetrics

KIND = {"kind": "alora"}
BOTH = {**KIND, "adapter": "safety"}


class Clock:
    """Stands for the module ``time``."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Counted:
    """Metrics of their own, and calls that are counted in them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._observer = CallMetrics(GatewayMetrics(self._registry))

    def value(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(f"aloraserve_{name}", labels) or 0.0

    async def call(self, pool: FakePool, *, is_streamed: bool = True) -> Generation:
        """Make a call for an adapter; its request came at 0."""
        call = Call(8, 4, [], adapter="safety")
        made = request(is_streamed=is_streamed, adapter=adapter("safety", "<s>"), call=call)
        return await Dispatcher(cast(Any, FakeRouter()), pool, [self._observer]).generate(made)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(generation_module, "time", clock)
    monkeypatch.setattr(call_metrics, "time", clock)
    return clock


class TimedPool(FakePool):
    """Its chunks come at given times."""

    def __init__(self, clock: Clock, *chunks: tuple[float, EngineChunk]) -> None:
        super().__init__([chunk for _, chunk in chunks])
        self._clock = clock
        self._times = [at for at, _ in chunks]

    def reserve(self, rank: Any, share: Any = None) -> Any:
        self._clock.now = self._times.pop(0)
        return super().reserve(rank)

    async def read(self, generation: Generation) -> int:
        """Read all chunks, each at its time; return how many there were."""
        read = 1
        await anext(generation)
        for at in self._times:
            self._clock.now = at
            await anext(generation)
            read += 1
        with pytest.raises(StopAsyncIteration):
            await anext(generation)
        return read


async def test_gaps_are_divided_by_their_tokens_and_the_whole_is_from_the_request_on(
    counted: Counted, clock: Clock
) -> None:
    pool = TimedPool(
        clock,
        (1.0, EngineChunk(0, "a", 1)),
        (1.5, EngineChunk(0, "b", 1)),
        (1.6, EngineChunk(1, "another choice", 1)),
        (2.5, EngineChunk(0, "cd", 2, "stop")),
    )
    assert await pool.read(await counted.call(pool)) == 4
    found = [
        counted.value("itl_seconds_sum", **KIND),
        counted.value("itl_seconds_count", **KIND),
        counted.value("e2e_seconds_sum", **BOTH),
    ]
    assert found == pytest.approx([0.5 + 0.5, 2, 2.5])
    assert counted.value("generated_tokens_total", **BOTH) == 5


async def test_an_answer_that_is_closed_is_not_a_whole_answer(counted: Counted) -> None:
    generation = await counted.call(FakePool(ANSWER))
    await generation.aclose()
    assert counted.value("ttft_seconds_count", **BOTH) == 1
    assert counted.value("e2e_seconds_count", **BOTH) == 0


async def test_claims_and_decision_times_are_counted(counted: Counted) -> None:
    await (await counted.call(FakePool(ANSWER, given="b"))).aclose()
    assert [counted.value("claims_total", outcome=outcome) for outcome in ("claimed", "moved")] == [1, 1]
    stages = [counted.value("decision_seconds_count", stage=stage) for stage in ("lookup", "policy", "claim")]
    assert stages == [1, 1, 1]


async def test_a_call_counts_once_however_often_its_answer_was_lost(counted: Counted) -> None:
    await counted.call(FakePool((ANSWER[0], DiedError()), (DiedError(),), ANSWER), is_streamed=False)
    outcomes = [counted.value("attempts_total", outcome=outcome) for outcome in ("answered", "lost")]
    assert outcomes == [2, 1]
    assert counted.value("ttft_seconds_count", **BOTH) == counted.value("e2e_seconds_count", **BOTH) == 1
    assert counted.value("prompt_tokens_total", **BOTH) == 8
    assert counted.value("decisions_total", policy="expected-ttft") == 1


async def test_a_call_that_nobody_took_is_an_attempt_alone(counted: Counted) -> None:
    with pytest.raises(OverloadedError):
        await counted.call(FakePool(FullError()))
    assert counted.value("attempts_total", outcome="overloaded") == 1
    assert counted.value("ttft_seconds_count", **BOTH) == 0


async def test_how_far_the_ttft_was_from_the_expected_one_is_counted(counted: Counted) -> None:
    generation = await counted.call(FakePool(ANSWER))
    expected_s = generation.decision.estimates[0].expected_ttft_s
    assert generation.estimate_error_s == pytest.approx(generation.ttft_s - expected_s)
    assert counted.value("estimate_error_seconds_count", **KIND) == 1
    below = [counted.value("estimate_error_seconds_bucket", **KIND, le=le) for le in ("-0.25", "0.0")]
    assert below == [0, 1], "this pool answers at once, and 0.1 s was expected"


async def test_after_a_lost_attempt_nothing_was_expected(counted: Counted) -> None:
    await counted.call(FakePool((DiedError(),), ANSWER), is_streamed=False)
    assert counted.value("ttft_seconds_count", **BOTH) == 1
    assert counted.value("estimate_error_seconds_count", **KIND) == 0


async def test_what_was_promised_and_not_there_is_missed(counted: Counted) -> None:
    await counted.call(FakePool((EngineChunk(0, "x", 1, cached_tokens=1),)))
    assert (counted.value("overlap_tokens_total", **KIND), counted.value("overlap_missed_tokens_total", **KIND)) == (
        4,
        3,
    )


@pytest.mark.parametrize(("saved_s", "saved", "lost"), [(0.5, 0.5, 0.0), (-0.25, 0.0, 0.25)])
async def test_savings_and_losses_have_counters_of_their_own(
    counted: Counted, saved_s: float, saved: float, lost: float
) -> None:
    savings = CallSavings(saved_s, 64, 32, 0.5, CachedBySource(own=1, base=2, sibling=3, unknown=4))
    await counted.call(FakePool((EngineChunk(0, "x", 1, savings=savings),)))
    assert counted.value("saved_ttft_seconds_total", **BOTH) == saved
    assert counted.value("lost_ttft_seconds_total", **BOTH) == lost
    sources = [counted.value("cached_tokens_by_source_total", source=name) for name in ("own", "base", "sibling")]
    assert sources == [1, 2, 3]
