"""An answer's chunks, timed as they pass."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve_services.gateway import stream_metrics
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.request_context import begin_request
from aloraserve_services.gateway.stream_metrics import MeteredChunks

KIND = {"kind": "alora"}
BOTH = {**KIND, "adapter": "metered"}


class Clock:
    """Stands for the module ``time``."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Chunks:
    """Chunks that come at given times; remembers being closed."""

    def __init__(self, clock: Clock, *chunks: tuple[float, EngineChunk]) -> None:
        self._clock = clock
        self._chunks = list(chunks)
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[EngineChunk]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> EngineChunk:
        if not self._chunks:
            raise StopAsyncIteration
        self._clock.now, chunk = self._chunks.pop(0)
        return chunk

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    begin_request({})
    clock.now = stream_metrics.current_request().started_at
    monkeypatch.setattr(stream_metrics, "time", clock)
    return clock


def value(name: str, labels: dict[str, str]) -> float:
    return METRICS.registry.get_sample_value(f"aloraserve_{name}", labels) or 0.0


async def test_gaps_are_divided_by_their_tokens_and_the_whole_is_from_the_request_on(clock: Clock) -> None:
    start = clock.now
    before = [value("itl_seconds_sum", KIND), value("itl_seconds_count", KIND), value("e2e_seconds_sum", BOTH)]
    tokens = value("generated_tokens_total", BOTH)
    chunks = Chunks(
        clock,
        (start + 1.0, EngineChunk(0, "a", 1)),
        (start + 1.5, EngineChunk(0, "b", 1)),
        (start + 1.6, EngineChunk(1, "another choice", 1)),
        (start + 2.5, EngineChunk(0, "cd", 2, "stop")),
    )
    assert len([chunk async for chunk in MeteredChunks(chunks, "alora", "metered")]) == 4
    after = [value("itl_seconds_sum", KIND), value("itl_seconds_count", KIND), value("e2e_seconds_sum", BOTH)]
    assert [new - old for new, old in zip(after, before, strict=True)] == pytest.approx([0.5 + 0.5, 2, 2.5])
    assert value("generated_tokens_total", BOTH) - tokens == 5


async def test_closing_closes_the_source_and_is_no_whole_answer(clock: Clock) -> None:
    before = value("e2e_seconds_count", BOTH)
    chunks = Chunks(clock, (1.0, EngineChunk(0, "a", 1)))
    one = MeteredChunks(chunks, "alora", "metered")
    await one.aclose()
    assert chunks.is_closed
    assert value("e2e_seconds_count", BOTH) == before
