"""One engine in a fleet: it generates, and it keeps the directory true about itself. Neither Serve nor Ray is here."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from aloraserve.blocks import KeySpace
from aloraserve.blocks.keys import version_salt
from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.engine_model.fleet_prior import fleet_prior
from aloraserve.engine_model.step_learner import StepLearner
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.scheduling import Scheduling
from aloraserve.savings.base import CallSavings
from aloraserve.savings.meter import SavingsMeter
from aloraserve.scaling.reuse_rates import ReuseRates
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve_services.engine.adapters import EngineAdapters
from aloraserve_services.engine.base import Engine, EngineEndedError, EngineParts
from aloraserve_services.engine.gaps import GapCloser
from aloraserve_services.engine.heartbeat import ANSWER_HELD_S, Heartbeat
from aloraserve_services.engine.progress import Accepted, EngineFacts, Progress
from aloraserve_services.engine.residency import Residency
from aloraserve_services.engine.stall_watch import StallWatch
from aloraserve_services.engine.turns import Turns
from aloraserve_services.engine.warm_up import WarmUp
from aloraserve_services.engine.warmth import Warmth
from aloraserve_services.kept_tasks import KeptTasks

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """Identity of a replica.

    Args:
        replica: its id in the fleet.
        label: a short name for people.
        incarnation: its start number; another one at each start.
    """

    replica: str
    label: str
    incarnation: str


class ObservedCall(Protocol):
    """A call as somebody outside follows it."""

    def chunk(self, chunk: EngineChunk) -> None:
        """Note a chunk, as the engine gave it."""
        ...

    def end(self) -> None:
        """Note the end, however it came."""
        ...


class _UnobservedCall:
    """A call that nobody follows."""

    def chunk(self, chunk: EngineChunk) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


_UNOBSERVED = _UnobservedCall()


def _unnoticed() -> None:
    """Nobody counts."""


async def join_fleet(directory: Directory, keyspace: KeySpace, label: str) -> None:
    """Refuse to start in a fleet with another key space, before an engine takes its time to start for it.

    Raises:
        KeySpaceMismatchError: the fleet's key space is another one.
    """
    try:
        await directory.join(keyspace)
    except DirectoryUnavailableError:
        # The directory is advisory; the heartbeats join once it is there.
        log.warning("directory_unavailable", replica=label)


async def load_adapters(
    engine: Engine,
    adapters: EngineAdapters,
    max_requests: int,
    scheduling: Scheduling,
    due: Sequence[str] = (),
) -> EngineFacts:
    """Load an engine's first adapters; return what is then known of it.

    Args:
        engine: just started.
        adapters: of the engine.
        max_requests: how many requests it runs at once.
        scheduling: the order in which it begins the calls that wait.
        due: keys of the versions that calls will want first.
    """
    await adapters.load(due)
    return EngineFacts(
        max_requests,
        kv_tokens=engine.kv_tokens,
        adapter_slots=engine.adapter_slots,
        step_tokens=engine.step_tokens,
        scheduling=scheduling,
    )


class EngineHost:
    """An engine, the mirror of what it holds, and the tasks that publish both.

    Args:
        identity: who this replica is.
        keyspace: what block keys belong to.
        directory: where holdings and load go.
        parts: the engine and its events.
        adapters: versions that the engine can run.
        facts: of the engine.
        stall_s: how long the engine may do nothing while something waits for it, see :class:`StallWatch`.
        answer_held_s: see :data:`~aloraserve_services.engine.heartbeat.ANSWER_HELD_S`.
        keeps_prompts: whether prompts are remembered for other replicas.

    Attributes:
        mirror: what the engine holds.
        ingest: its way into the directory.
        warmth: the prefixes that its calls had most of lately.
        is_stalled: whether the engine hung and was killed.
    """

    def __init__(
        self,
        identity: ReplicaIdentity,
        keyspace: KeySpace,
        directory: Directory,
        parts: EngineParts,
        adapters: EngineAdapters,
        facts: EngineFacts,
        *,
        stall_s: float = math.inf,
        answer_held_s: float = ANSWER_HELD_S,
        keeps_prompts: bool = True,
    ) -> None:
        self._identity = identity
        self._block_tokens = keyspace.block_tokens
        self._directory = directory
        self._engine, self._events = parts
        self._adapters = adapters
        self.mirror = Mirror(keyspace, version_salt)
        self.ingest = Ingest(
            directory, identity.replica, identity.incarnation, self.mirror, on_gap=self._on_events_lost
        )
        self._learner = StepLearner()
        self._progress = Progress(facts, self._learner)
        self._turns = Turns(facts.scheduling, facts.step_tokens, self._progress.give)
        self._watch = StallWatch(stall_s)
        self.is_stalled = False
        self._on_stall: Callable[[], None] = _unnoticed
        adapters.watch_loads(self._watch.waiting)
        self._engine.observe_steps(self._stepped)
        self._meter = SavingsMeter(
            keyspace,
            version_salt,
            facts.kv_tokens // keyspace.block_tokens,
            self._learner,
            step_tokens=facts.step_tokens,
        )
        self._reuse = ReuseRates()
        self._residency = Residency(self._engine.levels)
        adapters.notify(self._residency.adapter_used)
        self._gaps = GapCloser(self.empty_cache)
        self._keeps_prompts = keeps_prompts
        self.warmth = Warmth(self.generate, adapters, keyspace, is_kept=keeps_prompts)
        self._heartbeat = Heartbeat(self.ingest, self._progress, self._state, answer_held_s=answer_held_s)
        self._begin_observing: Callable[[EngineCall], ObservedCall] = lambda call: _UNOBSERVED
        self._tasks = KeptTasks()

    @property
    def kv_tokens(self) -> int:
        """Tokens that the engine's KV cache has room for, 0 if unknown."""
        return self._engine.kv_tokens

    async def start(self, *, max_model_tokens: int, before_calls: Callable[[], Awaitable[None]] | None = None) -> None:
        """Take in events, warm up, and publish from then on.

        Args:
            max_model_tokens: of a prompt and its answer together.
            before_calls: fills the engine's cache before this replica is published.

        Raises:
            StartError: the engine's KV events do not arrive, or its cache cannot be emptied.
        """
        await self._residency.look()
        await self._learn_from_fleet()
        self._tasks.need(self._read_events)
        self.keep(self.ingest.run)
        await WarmUp(self.generate, self.empty_cache, self.mirror, max_model_tokens=max_model_tokens).run()
        self._tasks.need(self._end_if_stalled)
        if before_calls is not None:
            await before_calls()
        self.keep(self._beat, self._residency.run, self._gaps.run, self._adapters.follow, self._adapters.sweep)
        if self._keeps_prompts:
            self.keep(self.warmth.forget)

    def observe(self, begin: Callable[[EngineCall], ObservedCall], stalled: Callable[[], None] = _unnoticed) -> None:
        """Have ``begin`` called with each further call, and ``stalled`` once the engine hung and was killed."""
        self._begin_observing, self._on_stall = begin, stalled

    def keep(self, *works: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run tasks beside the engine; one that fails begins again, see :class:`KeptTasks`."""
        self._tasks.keep(*works)

    def stop(self) -> None:
        """End the tasks; the lease ends by itself."""
        self._tasks.cancel()

    async def check_health(self) -> None:
        """Raise if the engine is dead, its events cannot be read, or its fleet has another key space now."""
        await self._engine.check_health()
        if self.is_stalled:
            raise EngineEndedError("the engine did nothing for too long, and was killed")
        self._tasks.check()

    @property
    def requests(self) -> int:
        """Requests that were accepted and have not ended."""
        return self._progress.requests

    async def generate(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        """Yield the engine's replies to a call; closing the iterator aborts it."""
        holds, reported_by = False, 0
        observed: ObservedCall = _UNOBSERVED
        try:
            accepted = self._accept(call)
            if not self.warmth.is_own(call):
                observed = self._begin_observing(call)
            if call.adapter is not None:
                if (problem := await self._adapters.hold(call.adapter)) is not None:
                    yield problem
                    return
                holds = True
            self._measure(call)
            priority = await self._turns.take(call, accepted)
            self._watch.wait(call.request_id)
            async with contextlib.aclosing(self._engine.generate(call, priority)) as replies:
                async for reply in replies:
                    self._watch.answered(call.request_id)
                    if isinstance(reply, EngineChunk):
                        observed.chunk(reply)
                        savings = None
                        if reported_by:
                            self._progress.more_tokens(call.request_id, reply.tokens)
                        else:
                            savings = self._first_token(call, reply)
                            reported_by = self._heartbeat.prefill_ended()
                        self._meter.more_tokens(call.request_id, reply.index, reply.token_ids)
                        shown = reply.token_ids if call.shows_tokens else ()
                        reply = replace(reply, token_ids=shown, savings=savings)
                        if reply.finish_reason:
                            await self._heartbeat.reported(reported_by)
                    yield reply
                    self._watch.wait(call.request_id)
        finally:
            self._end(call, holds=holds)
            observed.end()

    async def empty_cache(self, *, preempt: bool = False) -> bool:
        """Have the engine forget its prefix cache; return whether it did, which it does not while requests run."""
        is_empty = await self._engine.reset_prefix_cache(preempt=preempt)
        if is_empty:
            self._meter.emptied()
        return is_empty

    def _accept(self, call: EngineCall) -> Accepted:
        """Note a call; return what is expected of it."""
        prompt_tokens = len(call.token_ids)
        held = self.mirror.overlap(call.keys) * self._block_tokens if call.sampling.reads_cache else 0
        adapter = None if call.adapter is None else call.adapter.key
        return self._progress.accept(call.request_id, prompt_tokens, held, adapter)

    def _measure(self, call: EngineCall) -> None:
        """Have a call's savings worked out; its adapter is loaded."""
        version = None if call.adapter is None else call.adapter.engine_name
        invocation = () if call.adapter is None else self._adapters.invocation_ids(call.adapter)
        self._meter.accept(
            call.request_id,
            call.token_ids,
            call.keys,
            version,
            call.cache_salt,
            invocation,
            call.public_blocks,
            reads_cache=call.sampling.reads_cache,
        )
        # After the engine has the call: it computes meanwhile.
        asyncio.get_running_loop().call_soon(self._meter.prepare, call.request_id)

    def _first_token(self, call: EngineCall, chunk: EngineChunk) -> CallSavings | None:
        self._progress.first_token(call.request_id, chunk.prefill_s)
        self._turns.leave(call)
        if not self.warmth.is_own(call):
            self._count_reuse(chunk.cached_tokens, call.elsewhere_tokens)
            self.warmth.note(call)
        return self._meter.first_token(call.request_id, chunk.cached_tokens)

    def _count_reuse(self, cached_tokens: int, elsewhere_tokens: int) -> None:
        model = self._learner.model()
        if model is not None and cached_tokens > 0:
            elsewhere_tokens = min(elsewhere_tokens, cached_tokens)
            self._reuse.add(model.prefill.seconds(0, cached_tokens), model.prefill.seconds(0, elsewhere_tokens))

    def _end(self, call: EngineCall, *, holds: bool) -> None:
        self._turns.leave(call)
        self._watch.left(call.request_id)
        self._progress.end(call.request_id)
        self._meter.end(call.request_id)
        if call.adapter is not None and holds:
            self._adapters.release(call.adapter)
            self._residency.adapter_used()

    def _state(self) -> ReplicaState:
        resident = tuple(version.key for version in self._adapters.versions)
        reuse = self._reuse.rate()
        return ReplicaState(
            self._identity.replica,
            incarnation="",
            label=self._identity.label,
            load=self._progress.load(self._engine.kv_usage, self._adapters.load_s),
            resident=resident,
            active_adapters=self._progress.active_adapters(),
            slotted=tuple(key for key in self._residency.slotted if key in resident),
            pinned=tuple(version.key for version in self._adapters.pinned),
            saved_s=reuse.saved_s,
            saved_elsewhere_s=reuse.saved_elsewhere_s,
        )

    async def _learn_from_fleet(self) -> None:
        """Begin with how fast the fleet's other engines are."""
        # The directory is advisory: without it, what the warm-up shows has to do.
        with contextlib.suppress(DirectoryUnavailableError):
            self._learner.prior = fleet_prior([state.load for state in await self._directory.states()])

    async def _read_events(self) -> None:
        async for batch in self._events.batches():
            try:
                self.ingest.offer(batch)
            except Exception as error:
                log.error("events_not_taken_in", cause=type(error).__name__, exc_info=error)
                self.ingest.lose_events()

    def _stepped(self, step: StepStats) -> None:
        self._watch.stepped()
        self._progress.stepped(step)

    async def _end_if_stalled(self) -> None:
        """Kill an engine that hangs: its GPU is free, its calls end and may move, and Serve replaces this replica."""
        await self._watch.stalled()
        log.error("engine_stalled", replica=self._identity.label)
        self.is_stalled = True
        self._engine.kill()
        self._on_stall()

    async def _beat(self) -> None:
        await self._heartbeat.run(lambda: self.is_stalled or self._engine.is_dead)
        # Without its engine it would look idle and draw every call of its conversations until Serve notices.
        with contextlib.suppress(DirectoryUnavailableError):
            await self._directory.retire(self._identity.replica)

    def _on_events_lost(self) -> None:
        log.warning("events_lost", replica=self._identity.label)
        self._gaps.events_lost()
