"""A replica's host with a simulated engine and a directory that can fail, without Serve and Redis around it."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterVersion, StaticRegistry
from aloraserve.blocks import KeySpace
from aloraserve.directory.base import LEASE_TTL_S, ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.engine_model.calibration import AdapterTimes, Calibration, DecodeTimes, PrefillTimes
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.scheduling import Scheduling
from aloraserve.serving.engine_messages import EngineCall
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.adapters import EngineAdapters
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.engine.heartbeat import ANSWER_HELD_S
from aloraserve_services.engine.host import EngineHost, ReplicaIdentity, load_adapters
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.engine.simulated.events import SimulatedEvents

BLOCK = 32
SPACE = KeySpace("model", "tokenizer", BLOCK, "simulated")
PLAIN = AdapterVersion("plain", "lora", Path("plain"), 8, (), (), "digest of plain")
CALIBRATION = Calibration(
    name="quick",
    machine="none",
    model="none",
    dtype="none",
    date="2026-01-01",
    sources=["made up"],
    prefill=PrefillTimes(fixed_s=0.001, s_per_token=0.0001, s_per_square_token=0.0),
    decode=DecodeTimes(fixed_s=0.001, s_per_sequence=0.0, s_per_context_token=0.0),
    adapters=AdapterTimes(load_s=0.001, slots=2, resident=2),
    kv_tokens=16_000,
    block_tokens=BLOCK,
    max_num_batched_tokens=8192,
    max_num_seqs=10,
)
"""A millisecond a prefill and a tenth of one per token, so that 2,000 tokens take longer than a heartbeat's period."""


class RecordingDirectory(MemoryDirectory):
    """A directory that notes what is published, and takes it, refuses it or hangs as the test says.

    Attributes:
        published: states, whether taken or not.
        settled: the calls that went with each.
        is_gone: whether publishing fails.
        hangs: whether it never ends.
        delay_s: how long it takes.
        retired: set when a lease is given back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.published: list[ReplicaState] = []
        self.settled: list[tuple[str, ...]] = []
        self.is_gone = self.hangs = False
        self.delay_s = 0.0
        self.retired = asyncio.Event()
        self._came = asyncio.Event()

    async def retire(self, replica: str) -> None:
        """See the contract."""
        await super().retire(replica)
        self.retired.set()

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        """See the contract."""
        await asyncio.sleep(self.delay_s)
        self.published.append(state)
        self.settled.append(tuple(settled))
        self._came.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_gone:
            raise DirectoryUnavailableError("gone, as the test said")
        await super().publish(state, ttl_s=ttl_s, settled=settled)

    async def until(self, count: int) -> None:
        """Wait until so much was published."""
        async with asyncio.timeout(60):
            while len(self.published) < count:
                self._came.clear()
                await self._came.wait()


def simulated_parts(kind: type[SimulatedEngine] = SimulatedEngine) -> tuple[SimulatedEngine, SimulatedEvents]:
    """Return a quick engine and its events."""
    events = SimulatedEvents()
    words = AnswerWords([Word(900 + number, f" w{number}") for number in range(7)])
    return kind(CALIBRATION, SPACE, words, events), events


class Host:
    """A started host, and what it was made of."""

    def __init__(
        self,
        host: EngineHost,
        engine: SimulatedEngine,
        events: SimulatedEvents,
        registry: StaticRegistry,
        adapters: EngineAdapters,
    ) -> None:
        self.host = host
        self.engine = engine
        self.events = events
        self.registry = registry
        self.adapters = adapters

    async def answer(self, call: EngineCall) -> list[Any]:
        """Return all replies to a call."""
        return [reply async for reply in self.host.generate(call)]


def engine_call(
    name: str = "r", tokens: int = 100, max_tokens: int = 1, adapter: AdapterVersion | None = None
) -> EngineCall:
    """Return a call of so many tokens, with its block keys."""
    token_ids = list(range(tokens))
    sampling = SamplingSettings(max_tokens=max_tokens, ignore_eos=True)
    return EngineCall(name, token_ids, sampling, adapter=adapter and adapter.ref, keys=SPACE.keys(token_ids))


@asynccontextmanager
async def started_host(
    directory: RecordingDirectory,
    *adapters: AdapterVersion,
    answer_held_s: float = ANSWER_HELD_S,
    stall_s: float = math.inf,
    name: str = "a",
    keeps_prompts: bool = True,
    before_calls: Callable[[EngineHost], Awaitable[None]] | None = None,
) -> AsyncIterator[Host]:
    """Run a host that has warmed up and published once."""
    engine, events = simulated_parts()
    registry = StaticRegistry(adapters)
    engine_adapters = EngineAdapters(engine, registry)
    host = EngineHost(
        ReplicaIdentity(name, "engine-0", "1"),
        SPACE,
        directory,
        EngineParts(engine, events),
        engine_adapters,
        await load_adapters(engine, engine_adapters, CALIBRATION.max_num_seqs, Scheduling()),
        answer_held_s=answer_held_s,
        stall_s=stall_s,
        keeps_prompts=keeps_prompts,
    )
    try:
        published = len(directory.published)
        warm = None if before_calls is None else functools.partial(before_calls, host)
        await host.start(max_model_tokens=2 * BLOCK + 2, before_calls=warm)
        await directory.until(published + 1)
        yield Host(host, engine, events, registry, engine_adapters)
    finally:
        host.stop()
        engine.shutdown()
