"""The Serve deployment of one engine: it generates, and it keeps the directory true about itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from aloraserve.blocks.keys import adapter_salt
from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.errors import DirectoryUnavailableError, StartError
from aloraserve.savings.meter import SavingsMeter
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve.telemetry.tracing import TRACING
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.opening import open_engine
from aloraserve_services.engine.progress import EngineFacts, Progress
from aloraserve_services.engine.replica_telemetry import ReplicaTelemetry
from aloraserve_services.plan import FleetPlan

HEARTBEAT_S = 0.15
MIN_HEARTBEAT_S = 0.015
"""Between the starts of two heartbeats, however many prefills end: it says as much of ten as of one."""
ANSWER_HELD_S = 0.05
RESET_EVERY_S = 0.25
PREEMPT_AFTER_S = 2.0
"""How long a gap may wait for a moment without requests before those that run are preempted for it."""
RESIDENCY_S = 1.0
WARM_UP_TOKENS = 256
WARM_UP_PREFILLS = 3
WARM_UP_TRIES = 20

log = structlog.get_logger(__name__)


class EngineReplica:
    """One engine, its mirror of what it holds, and the tasks that publish both.

    Args:
        plan: the fleet's.

    Raises:
        KeySpaceMismatchError: the fleet's key space is another one.
        StartError: the engine starts but its KV events do not arrive.
    """

    async def __init__(self, plan: FleetPlan) -> None:  # type: ignore[misc]  # Serve awaits it
        self._plan = plan
        self._replica, self._label = _identity()
        self._telemetry = ReplicaTelemetry(plan, self._label)
        self._directory = self._telemetry.directory(self._open_directory())
        await self._join()
        self._engine, self._events = open_engine(plan)
        self._mirror = Mirror(plan.keyspace, self._salts().get)
        self._ingest = Ingest(
            self._directory, self._replica, uuid.uuid4().hex[:12], self._mirror, on_gap=self._lost_events
        )
        self._gap = asyncio.Event()
        self._adapter_used = asyncio.Event()
        self._prefilled = asyncio.Event()
        self._beat_done = asyncio.Event()
        self._beats_begun = self._beats_done = 0
        self._is_heard = True
        facts = await self._load_adapters()
        self._progress = Progress(facts)
        self._meter = SavingsMeter(plan.keyspace, self._salts().get, facts.kv_tokens // plan.keyspace.block_tokens)
        self._resident = await self._engine.resident()
        self._tasks = [self._keep(self._read_events), self._keep(self._ingest.run)]
        self._telemetry.watch(self._ingest, self._mirror)
        await self._warm_up()
        # Warming up is no call of anybody's.
        self._engine = self._telemetry.engine(self._engine)
        self._tasks += [
            self._keep(self._telemetry.keep_registered),
            self._keep(self._beat),
            self._keep(self._watch_residency),
            self._keep(self._close_gaps),
        ]

    async def generate(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """Yield the engine's replies to a call; closing the iterator aborts it."""
        prompt_tokens = len(call.token_ids)
        held = self._mirror.overlap(call.keys) * self._plan.keyspace.block_tokens
        is_resident = call.adapter is None or call.adapter in self._resident
        self._progress.accept(call.request_id, prompt_tokens, held, call.adapter, is_resident=is_resident)
        self._meter.accept(call.request_id, call.token_ids, call.keys, call.adapter, call.cache_salt)
        # After the engine has the call: it computes meanwhile.
        asyncio.get_running_loop().call_soon(self._meter.prepare, call.request_id)
        telling = 0
        try:
            async for reply in self._engine.generate(call):
                if isinstance(reply, EngineChunk):
                    savings = None
                    if not telling:
                        self._progress.first_token(call.request_id, reply.cached_tokens, prompt_tokens)
                        savings = self._meter.first_token(call.request_id, reply.cached_tokens, *self._progress.prefill)
                        self._prefilled.set()
                        telling = self._beats_begun + 1
                    else:
                        self._progress.more_tokens(call.request_id, reply.tokens, reply.index)
                    self._meter.more_tokens(call.request_id, reply.index, reply.token_ids)
                    reply = replace(reply, token_ids=(), savings=savings)
                    if reply.finish_reason:
                        await self._told(telling)
                yield reply
        finally:
            self._progress.end(call.request_id)
            self._meter.end(call.request_id)
            if call.adapter is not None:
                self._adapter_used.set()

    async def check_health(self) -> None:
        """Raise if the engine is dead or a task of ours has failed; Serve then replaces this replica."""
        await self._engine.check_health()
        for task in self._tasks:
            if task.done():
                task.result()

    def __del__(self) -> None:
        """Stop the engine's processes; the lease ends by itself."""
        for task in getattr(self, "_tasks", []):
            with contextlib.suppress(RuntimeError):
                task.cancel()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.shutdown()
        events = getattr(self, "_events", None)
        if events is not None:
            events.close()
        TRACING.flush()

    def _open_directory(self) -> Directory:
        return self._plan.open_directory()

    def _salts(self) -> dict[str, bytes]:
        return {adapter.name: adapter_salt(adapter.name, adapter.digest) for adapter in self._plan.adapters}

    def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        return asyncio.create_task(work(), name=work.__name__)

    async def _join(self) -> None:
        """Refuse to start in a fleet with another key space, before an engine takes its time to start for it."""
        try:
            await self._directory.join(self._plan.keyspace)
        except DirectoryUnavailableError:
            # The directory is advisory; the heartbeats join once it is there.
            log.warning("directory_unavailable", replica=self._label)

    async def _load_adapters(self) -> EngineFacts:
        started = time.perf_counter()
        count = await self._engine.load_adapters()
        return EngineFacts(
            self._plan.max_requests,
            kv_tokens=self._engine.kv_tokens,
            adapter_slots=self._engine.adapter_slots,
            adapter_load_s=(time.perf_counter() - started) / count if count else 0.0,
            step_tokens=self._engine.step_tokens,
        )

    async def _warm_up(self) -> None:
        """Run prompts until their events arrive and the prefill rate is known, then forget them.

        A subscription takes a moment to reach the publisher, and events before it are lost: the reset afterwards makes
        the mirror and the engine agree. The engine publishes events after a step alone, so a prompt too short for a
        block follows the reset.
        """
        for tries in range(1, WARM_UP_TRIES + 1):
            await self._run_once(min(WARM_UP_TOKENS, self._plan.settings.max_model_len - 2))
            if await self._until(lambda: len(self._mirror) > 0, 1.0) and tries >= WARM_UP_PREFILLS:
                break
        else:
            raise StartError(f"the engine's KV events do not arrive or cannot be placed: {self._mirror.drops}")
        for _ in range(WARM_UP_TRIES):
            await self._empty_cache()
            await self._run_once(4)
            if await self._until(lambda: len(self._mirror) == 0, 1.0):
                return
        raise StartError(f"the engine's prefix cache cannot be emptied: {len(self._mirror)} blocks are left")

    async def _run_once(self, prompt_tokens: int) -> None:
        prompt = [random.randrange(16, 1024) for _ in range(prompt_tokens)]  # noqa: S311
        call = EngineCall(f"warm-up-{uuid.uuid4().hex}", prompt, SamplingSettings(max_tokens=1, temperature=0))
        async for _ in self.generate(call):
            pass

    @staticmethod
    async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition; return whether it came to hold."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - the mirror is plain data that tells nobody
                    await asyncio.sleep(0.01)
        return condition()

    async def _read_events(self) -> None:
        async for batch in self._events.batches():
            self._ingest.offer(batch)

    async def _beat(self) -> None:
        """Publish the load now and then, and at once when a prefill is over.

        A conversation's next call follows the last one's answer at once: a queue that is told of for a tenth of a
        second too long would send it away from its prefix. What comes is told of by its claim.
        """
        while not self._engine.is_dead:
            self._prefilled.clear()
            self._beats_begun += 1
            begun_at = time.monotonic()
            settled = self._progress.settled()
            self._is_heard = await self._ingest.heartbeat(self._state(), settled=settled)
            if self._is_heard:
                self._progress.told(settled)
            self._beats_done = self._beats_begun
            self._beat_done.set()
            await self._pause(begun_at)
        # Without its engine it would look idle and draw every call of its conversations until Serve notices.
        with contextlib.suppress(DirectoryUnavailableError):
            await self._directory.retire(self._replica)

    def _state(self) -> ReplicaState:
        return ReplicaState(
            self._replica,
            incarnation="",
            label=self._label,
            load=self._progress.load(self._engine.kv_usage),
            resident=self._resident,
            active_adapters=self._progress.active_adapters(),
        )

    async def _pause(self, begun_at: float) -> None:
        """Wait until it is time to publish again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await self._prefilled.wait()
        await asyncio.sleep(max(0.0, begun_at + MIN_HEARTBEAT_S - time.monotonic()))

    async def _told(self, beat: int) -> None:
        """Wait, not for long, until a heartbeat is published; mostly it was, while the answer was generated.

        The conversation's next call may follow an answer's last chunk at once, and must not meet its prefill in the
        queue. While the directory is gone nothing is published, and nothing waited for.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_HELD_S):
                while self._is_heard and self._beats_done < beat:
                    self._beat_done.clear()
                    await self._beat_done.wait()

    async def _watch_residency(self) -> None:
        """Ask the engine which adapters it has after calls that may have changed that; asking costs a step."""
        while True:
            self._adapter_used.clear()
            self._resident = await self._engine.resident()
            await asyncio.sleep(RESIDENCY_S)
            await self._adapter_used.wait()

    def _lost_events(self) -> None:
        log.warning("events_lost", replica=self._label)
        self._gap.set()

    async def _close_gaps(self) -> None:
        """Empty the engine's cache after lost events: what it holds can no longer be told."""
        while True:
            await self._gap.wait()
            # Before the reset: a gap during it asks for another one.
            self._gap.clear()
            preempt_at = time.monotonic() + PREEMPT_AFTER_S
            while not await self._empty_cache(preempt=time.monotonic() >= preempt_at):  # noqa: ASYNC110
                await asyncio.sleep(RESET_EVERY_S)

    async def _empty_cache(self, *, preempt: bool = False) -> bool:
        """Have the engine forget its prefix cache; return whether it did, which it does not while requests run."""
        is_empty = await self._engine.reset_prefix_cache(preempt=preempt)
        if is_empty:
            self._meter.emptied()
        return is_empty


def _identity() -> tuple[str, str]:
    """Return this replica's id in the fleet and a short name for people."""
    from ray import serve

    context = serve.get_replica_context()
    return context.replica_id.unique_id, f"engine-{context.rank.rank}"
