"""One scheduler, two drivers: a trace through the simulator's event queue and through asyncio does the same."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import VirtualTime

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect, BlockKey, BlocksCleared, BlocksRemoved, BlocksStored, KeySpace
from aloraserve.engine_model.calibration import AdapterTimes, Calibration, DecodeTimes, PrefillTimes
from aloraserve.engine_model.outputs import BlocksChanged, EngineCoreOutputs
from aloraserve.engine_model.request import Request, choice_ids
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.simulation.event_queue_driver import EventQueueDriver
from aloraserve.simulation.simulated_loop import SimulatedLoop
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.engine.simulated.events import SimulatedEvents

SPACE = KeySpace("model", "tokenizer", 4, "simulated")
WORDS = AnswerWords([Word(900 + number, f" w{number}") for number in range(7)])
INVOCATION = (70, 71)
ADAPTERS = {
    name: AdapterVersion(name, kind, Path(name), 8, (), invocation, f"digest of {name}")
    for name, kind, invocation in (("judge", "alora", INVOCATION), ("plain", "lora", ()), ("other", "lora", ()))
}
"""Three adapters for two slots."""


@dataclass(frozen=True)
class TracedCall:
    """A call of the trace.

    Args:
        at_s: when it comes.
        document: which prompts begin alike.
        prompt_tokens: of that document.
        max_tokens: of the answer.
        adapter: name.
        choices: answers to it.
        given_up_after_s: when the client leaves; infinite if it stays.
    """

    at_s: float
    document: int
    prompt_tokens: int
    max_tokens: int
    adapter: str | None
    choices: int
    given_up_after_s: float

    @property
    def token_ids(self) -> list[int]:
        body = [1000 * (self.document + 1) + at for at in range(self.prompt_tokens)]
        return [*body, *INVOCATION] if self.adapter == "judge" else body

    def answer(self, choice: int) -> list[int]:
        """Return an answer's tokens but the last, whose KV is never computed."""
        version = None if self.adapter is None else ADAPTERS[self.adapter].engine_name
        answer = WORDS.answer(self.token_ids, version, choice)
        return [answer.word(at).token for at in range(self.max_tokens - 1)]

    def keys(self, answer: Sequence[int] = ()) -> list[BlockKey]:
        """Return the keys of prompt and answer, derived as a gateway does, not as the engine does."""
        token_ids = [*self.token_ids, *answer]
        if self.adapter is None:
            return SPACE.keys(token_ids)
        start = self.prompt_tokens if self.adapter == "judge" else 0
        return SPACE.keys(token_ids, adapter=AdapterEffect(self.adapter, ADAPTERS[self.adapter].digest, start))


@dataclass
class Played:
    """What a driver made of a trace.

    Args:
        prefills: ids of requests, in the order in which their prefills ended, each with its time.
        cached_tokens: by the request's id, of those that got a first token.
        finished: ids in the order in which they ended.
        kv_events: keys that came and keys that went, in order.
    """

    prefills: list[tuple[str, float]] = field(default_factory=list)
    cached_tokens: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    kv_events: list[tuple[str, BlockKey]] = field(default_factory=list)

    def take(self, outputs: EngineCoreOutputs) -> None:
        for request in outputs.first_tokens:
            self.prefills.append((str(request.request_id), request.first_token_s))
            self.cached_tokens[str(request.request_id)] = request.num_cached_tokens
        self.finished += [str(request.request_id) for request in outputs.finished]
        for event in outputs.kv_events:
            assert isinstance(event, BlocksChanged)
            self.kv_events += [("-", key) for key in event.removed]
            self.kv_events += [("+", key) for key in event.stored]


def calibration(**parts: Any) -> Calibration:
    common: dict[str, Any] = {
        "name": "test",
        "machine": "none",
        "model": "none",
        "dtype": "none",
        "date": "2026-01-01",
        "sources": ["made up"],
        "prefill": PrefillTimes(fixed_s=0.05, s_per_token=0.003, s_per_square_token=1e-6, adapter_s_per_token=0.0005),
        "decode": DecodeTimes(fixed_s=0.04, s_per_sequence=0.002, s_per_context_token=1e-5),
        "adapters": AdapterTimes(load_s=0.3, slots=2, resident=2),
        "kv_tokens": 800,
        "block_tokens": 4,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 6,
    }
    return Calibration(**common | parts)


def by_event_queue(times: Calibration, calls: Sequence[TracedCall]) -> Played:
    """Play a trace in simulated time."""
    played, loop = Played(), SimulatedLoop()
    scheduler = Scheduler(times, kv_tokens=times.kv_tokens, block_tokens=SPACE.block_tokens)
    driver = EventQueueDriver(scheduler, loop, played.take)

    def add(number: int, call: TracedCall) -> None:
        ids = choice_ids(f"call-{number}", call.choices)
        driver.add_requests([request_of(call, choice, ids[choice], loop.now_s) for choice in range(call.choices)])
        if call.given_up_after_s < math.inf:
            loop.at(loop.now_s + call.given_up_after_s, lambda: driver.abort_requests(ids))

    def request_of(call: TracedCall, choice: int, request_id: str, now_s: float) -> Request:
        keys = call.keys()
        return Request(
            request_id=request_id,
            arrival_s=now_s,
            prompt_keys=keys,
            num_prompt_tokens=len(call.token_ids),
            max_tokens=call.max_tokens,
            adapter=call.adapter,
            priority=call.prompt_tokens,
            output_keys=lambda: call.keys(call.answer(choice))[len(keys) :],
        )

    for number, call in enumerate(calls):
        loop.at(call.at_s, lambda number=number, call=call: add(number, call))  # type: ignore[misc]
    loop.run()
    return played


class RecordedEngine(SimulatedEngine):
    """Writes down what its scheduler says."""

    played: Played

    def _take(self, outputs: EngineCoreOutputs) -> None:
        self.played.take(EngineCoreOutputs(outputs.first_tokens, outputs.finished))
        super()._take(outputs)


async def by_asyncio(times: Calibration, calls: Sequence[TracedCall]) -> Played:
    """Play a trace on a simulated engine whose clock is virtual, and check what it reports to clients."""
    time, events = VirtualTime(), SimulatedEvents()
    time.now_s = 0.0
    engine = RecordedEngine(times, SPACE, WORDS, events, clock=time.clock, call_later=time.call_later)
    engine.played = Played()
    # As if they had been added and had given way to others.
    engine._versions = {version.engine_name: version for version in ADAPTERS.values()}
    reported: dict[str, int] = {}

    async def client(number: int, call: TracedCall) -> None:
        await time.sleep(call.at_s)
        sampling = SamplingSettings(max_tokens=call.max_tokens, ignore_eos=True, n=call.choices)
        ids = choice_ids(f"call-{number}", call.choices)
        ref = call.adapter and ADAPTERS[call.adapter].ref
        engine_call = EngineCall(f"call-{number}", call.token_ids, sampling, ref)
        async for reply in engine.generate(engine_call, call.prompt_tokens):
            assert isinstance(reply, EngineChunk)
            reported[ids[reply.index]] = reply.cached_tokens

    async def impatient(number: int, call: TracedCall) -> None:
        task = asyncio.ensure_future(client(number, call))
        if call.given_up_after_s < math.inf:
            await time.sleep(call.at_s + call.given_up_after_s)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() or task.exception() is None

    async def all_of_them() -> None:
        await asyncio.gather(*(impatient(number, call) for number, call in enumerate(calls)))

    await time.run(all_of_them())
    engine.shutdown()
    played = engine.played
    assert not engine.scheduler.requests
    assert reported.items() <= played.cached_tokens.items()
    for event in (event for batch in events._waiting for event in batch.events):
        assert not isinstance(event, BlocksCleared)
        sign = "+" if isinstance(event, BlocksStored) else "-"
        assert isinstance(event, BlocksStored | BlocksRemoved)
        played.kv_events += [(sign, key) for key in event.hashes if isinstance(key, bytes)]
    return played


def trace(seed: int, calls: int) -> list[TracedCall]:
    """Return calls that share beginnings, queue, evict each other, and leave early now and then."""
    chance = random.Random(seed)
    found, at_s = [], 0.0
    for _ in range(calls):
        at_s += chance.expovariate(4.0)
        found.append(
            TracedCall(
                at_s,
                document=chance.randrange(4),
                prompt_tokens=chance.randrange(1, 180),
                max_tokens=chance.choice((1, 3, 12, 40)),
                adapter=chance.choice((None, None, *ADAPTERS)),
                choices=chance.choice((1, 1, 1, 2, 3)),
                given_up_after_s=chance.expovariate(1.0) if chance.random() < 0.2 else math.inf,
            )
        )
    return found


async def compare(times: Calibration, calls: Sequence[TracedCall]) -> Played:
    simulated, live = by_event_queue(times, calls), await by_asyncio(times, calls)
    assert [request_id for request_id, _ in live.prefills] == [request_id for request_id, _ in simulated.prefills]
    assert live.cached_tokens == simulated.cached_tokens
    assert live.finished == simulated.finished
    assert live.kv_events == simulated.kv_events
    assert [at_s for _, at_s in live.prefills] == pytest.approx([at_s for _, at_s in simulated.prefills])
    return simulated


@pytest.mark.parametrize("is_apart", [False, True])
async def test_a_trace_through_both_gives_the_same_prefills_and_cached_tokens(is_apart: bool) -> None:
    calls = trace(7, 150)
    played = await compare(calibration(prefill_apart=is_apart), calls)
    # The trace has everything in it that could make a difference.
    total = sum(call.choices for call in calls)
    assert total > len(played.cached_tokens) > total / 2
    assert sum(cached > 0 for cached in played.cached_tokens.values()) > 50
    assert any(sign == "-" for sign, _ in played.kv_events)
    arrived = [f"call-{number}" for number in range(len(calls))]
    prefilled = [request_id for request_id, _ in played.prefills if request_id in arrived]
    assert prefilled != sorted(prefilled, key=arrived.index)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans())
async def test_any_trace_through_both_gives_the_same(seed: int, is_apart: bool) -> None:
    await compare(calibration(prefill_apart=is_apart), trace(seed, 30))
