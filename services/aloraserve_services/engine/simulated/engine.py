"""An engine without a model: vLLM's block reuse and a clock's patience, for a fleet that fits on two cores.

It prefills one prompt after the other in the order in which they came, at the speed of a
:class:`~aloraserve.engine_model.calibration.Calibration`, and decodes all running answers beside that, each at the
calibration's time for a step. A call waits while all request slots are taken, its prompt and answer have no room in the
KV cache, or, letting later calls pass, all adapter slots are (vLLM's ``v1/core/sched/scheduler.py``).

Times are those of the model: what a busy machine adds to one step is not added to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import (
    AdapterEffect,
    BlockKey,
    BlocksCleared,
    BlocksRemoved,
    EngineEvent,
    KeySpace,
    activation_point,
)
from aloraserve.engine_model.adapter_slots import AdapterSlots
from aloraserve.engine_model.block_cache import Allocation, BlockCache
from aloraserve.engine_model.calibration import Calibration
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineReply
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.engine.simulated.answer_writer import AnswerWriter
from aloraserve_services.engine.simulated.block_chain import BlockChain
from aloraserve_services.engine.simulated.events import SimulatedEvents

REMEMBERED_CALLS = 65_536
_LEAST_SLEEP_S = 0.0005
"""What is due within that time is done now: the event loop's own timers are not finer."""


@dataclass(slots=True, eq=False)
class _Run:
    """A call in the engine.

    Args:
        call: the call.
        chain: its prompt's blocks.
        blocks: of prompt and answers, all that it may fill.
        arrived_at: on the engine's clock.
        cached_tokens: of the prompt, not to be computed.
        computed: tokens that are in the cache.
        has_waited: whether something else than the prompts before it kept it from beginning.
        answers: the prompt's blocks with each answer's.
    """

    call: EngineCall
    chain: BlockChain
    blocks: int
    arrived_at: float
    cached_tokens: int = 0
    computed: int = 0
    has_waited: bool = False
    has_begun: bool = False
    is_cancelled: bool = False
    begun_at: float = math.nan
    first_token_at: float = math.nan
    answers: list[BlockChain] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Choice:
    writer: AnswerWriter
    chain: BlockChain


class SimulatedEngine:
    """See :class:`~aloraserve_services.engine.base.Engine` and the module's docstring.

    Args:
        times: how fast it is and how much it holds.
        keyspace: what it tells blocks apart by.
        adapters: by name, those it can load.
        words: what it answers with.
        events: where its KV events go.
        stream_tokens: after a choice's first word, so many leave together (vLLM's ``stream_interval``).
        clock: monotonic seconds.
        sleep: waits for some of them.

    Attributes:
        served: the last calls whose first token was due: id, and seconds from its arrival here to then.
    """

    def __init__(
        self,
        times: Calibration,
        keyspace: KeySpace,
        adapters: Mapping[str, AdapterVersion],
        words: AnswerWords,
        events: SimulatedEvents,
        *,
        stream_tokens: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._times = times
        self._keyspace = keyspace
        self._adapters = adapters
        self._words = words
        self._events = events
        self._stream_tokens = stream_tokens
        self._clock = clock
        self._sleep = sleep
        self._cache = BlockCache(max(1, times.kv_tokens // keyspace.block_tokens))
        self._waiting: list[_Run] = []
        self._running: dict[str, _Run] = {}
        self._slots = AdapterSlots(times.adapters)
        self._context_tokens = 0
        self._decoding = 0
        self._free_at = -math.inf
        self.served: deque[tuple[str, float]] = deque(maxlen=REMEMBERED_CALLS)
        self._changed = asyncio.Event()
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._prefilling: asyncio.Task[None] | None = None

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks that running requests use, from 0 to 1."""
        return self._cache.usage

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache has room for."""
        return self._cache.capacity_blocks * self._keyspace.block_tokens

    @property
    def adapter_slots(self) -> int:
        """Distinct adapters that may run at once."""
        return self._times.adapters.slots if self._adapters else 0

    @property
    def step_tokens(self) -> int:
        """Tokens of a prompt that are computed in one piece."""
        return self._times.max_num_batched_tokens

    @property
    def is_dead(self) -> bool:
        """Whether its task has failed."""
        return self._prefilling is not None and self._prefilling.done()

    def hang(self, is_hanging: bool) -> None:
        """Generate nothing any more, or go on, as a test asks."""
        if is_hanging:
            self._healthy.clear()
        else:
            self._healthy.set()

    async def load_adapters(self) -> int:
        """Load as many adapters as may run at once; return how many."""
        first = list(self._adapters)[: self._times.adapters.slots]
        await self._sleep(self._times.adapters.load_s * len(first))
        self._slots.preload(first)
        return len(first)

    async def resident(self) -> tuple[str, ...]:
        """Return the names of the adapters that are loaded."""
        return self._slots.resident

    async def reset_prefix_cache(self, *, preempt: bool = False) -> bool:
        """Drop every cached block; what running requests have is computed anew, if they are preempted."""
        if self._running and not preempt:
            return False
        self._cache.clear()
        events: list[EngineEvent] = [BlocksCleared()]
        told: set[BlockKey] = set()
        for run in self._running.values():
            self._free_at = max(self._free_at, self._clock()) + self._times.prefill.model.seconds(0, run.computed)
            for chain in (run.chain, *run.answers):
                again = [key for key in chain.keys if key in self._cache and key not in told]
                told.update(again)
                events += chain.stored(again)
        self._events.publish(events)
        return True

    async def check_health(self) -> None:
        """Raise if its task has failed."""
        if self._prefilling is not None and self._prefilling.done():
            self._prefilling.result()

    def shutdown(self) -> None:
        """Stop."""
        if self._prefilling is not None:
            with contextlib.suppress(RuntimeError):
                self._prefilling.cancel()

    async def generate(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        """Yield the answer's words when they are due, several at once where the reader was slow."""
        run = self._accepted(call)
        if isinstance(run, EngineRefusal):
            yield run
            return
        if self._prefilling is None:
            self._prefilling = asyncio.create_task(self._prefill_all(), name="simulated-prefill")
        self._waiting.append(run)
        self._changed.set()
        try:
            await run.ready.wait()
            async for chunk in self._decoded(run):
                yield chunk
        finally:
            self._end(run)

    def _accepted(self, call: EngineCall) -> _Run | EngineRefusal:
        """Return a call as the engine runs it, or why it does not."""
        if call.request_id in self._running or any(call.request_id == one.call.request_id for one in self._waiting):
            raise ValueError(f"request {call.request_id!r} runs already")
        effect: AdapterEffect | None = None
        if call.adapter is not None:
            adapter = self._adapters.get(call.adapter)
            if adapter is None:
                raise ValueError(f"adapter {call.adapter!r} is not in the plan")
            start = activation_point(call.token_ids, adapter.invocation_ids) if adapter.invocation_ids else 0
            if start is None:
                return EngineRefusal(f"the prompt does not contain the invocation of {adapter.name!r}", "prompt")
            effect = AdapterEffect(adapter.name, adapter.digest, start)
        width = self._keyspace.block_tokens
        prompt, answer = len(call.token_ids), call.sampling.max_tokens or 1
        blocks = prompt // width + call.sampling.n * (-(-(prompt % width + answer) // width))
        if blocks > self._cache.capacity_blocks:
            return EngineRefusal(
                f"prompt and answer need {blocks * width} tokens of KV cache; the engine has {self.kv_tokens}"
            )
        chain = BlockChain(self._keyspace, call.token_ids, effect, call.cache_salt)
        return _Run(call, chain, blocks, self._clock())

    async def _prefill_all(self) -> None:
        """Prefill one prompt after the other, for ever."""
        while True:
            await self._healthy.wait()
            run = self._next()
            if run is None:
                self._changed.clear()
                await self._changed.wait()
            else:
                await self._prefill(run)

    def _next(self) -> _Run | None:
        """Return the first waiting call that can begin, begun, or None."""
        for run in self._waiting if len(self._running) < self._times.max_num_seqs else ():
            if not self._slots.has_room(run.call.adapter):
                continue
            if not self._allocate(run):
                break
            self._waiting.remove(run)
            return run
        for run in self._waiting:
            run.has_waited = True
        return None

    def _allocate(self, run: _Run) -> bool:
        """Give a run its blocks; its prompt's last token is computed even if its block is cached."""
        width, keys = self._keyspace.block_tokens, run.chain.keys
        cached = min(self._cache.match(keys), (len(run.call.token_ids) - 1) // width)
        allocation = self._cache.allocate(run.call.request_id, keys[:cached], run.blocks)
        if allocation is None:
            return False
        run.cached_tokens = run.computed = cached * width
        run.has_begun = True
        self._running[run.call.request_id] = run
        self._slots.take(run.call.adapter)
        self._tell(run.chain, allocation)
        return True

    async def _prefill(self, run: _Run) -> None:
        """Compute a prompt, a part at a time; one that is cancelled stops with the part that runs."""
        times, prompt = self._times.prefill, len(run.call.token_ids)
        # One that waited for a slot or for room begins when that came, which is now.
        begins_at = max(self._free_at, self._clock() if run.has_waited else run.arrived_at)
        run.begun_at = begins_at
        at = begins_at + self._slots.load_s(run.call.adapter)
        while run.computed < prompt and not run.is_cancelled:
            end = min(run.computed + self._times.max_num_batched_tokens, prompt)
            at += times.model.seconds(run.computed, end)
            if run.call.adapter is not None:
                at += times.adapter_s_per_token * (end - run.computed)
            self._free_at = at
            await self._until(at)
            if not run.is_cancelled:
                self._computed(run, end)
        run.first_token_at = at
        if not run.is_cancelled:
            self.served.append((run.call.request_id, at - run.arrived_at))
        run.ready.set()

    def _computed(self, run: _Run, end: int) -> None:
        """Store the blocks that a part of the prompt filled."""
        width = self._keyspace.block_tokens
        keys = run.chain.keys[run.computed // width : end // width]
        run.computed = end
        self._tell(run.chain, self._cache.store(run.call.request_id, keys))

    async def _decoded(self, run: _Run) -> AsyncIterator[EngineChunk]:
        """Yield the answers' words; the first of each is due when the prefill is over."""
        call = run.call
        choices = [
            _Choice(
                AnswerWriter(index, self._words.answer(call.token_ids, call.adapter, index), call.sampling, cached),
                run.chain.copy(),
            )
            for index, cached in enumerate([run.cached_tokens] * call.sampling.n)
        ]
        run.answers = [choice.chain for choice in choices]
        self._decoding += len(choices)
        self._context_tokens += len(call.token_ids)
        due, tokens, prefill_s = run.first_token_at, 1, run.first_token_at - run.begun_at
        try:
            while True:
                for choice in choices:
                    for chunk in choice.writer.write(tokens):
                        self._store_answer(run, choice)
                        yield replace(chunk, prefill_s=prefill_s) if prefill_s else chunk
                        prefill_s = 0.0
                if all(choice.writer.is_finished for choice in choices):
                    return
                await self._healthy.wait()
                due, tokens = await self._next_steps(due, max(choice.writer.left for choice in choices))
        finally:
            self._decoding -= len(choices)
            self._context_tokens -= len(call.token_ids)

    async def _next_steps(self, due: float, most: int) -> tuple[float, int]:
        """Wait for the next chunk's last step, ``most`` steps away at most; return when it was due and its steps."""
        steps = min(self._stream_tokens, most)
        for _ in range(steps):
            due += self._step_s()
        await self._until(due)
        # A busy machine came late: what is due by now goes along.
        while steps < most and due + self._step_s() <= self._clock():
            due, steps = due + self._step_s(), steps + 1
        return due, steps

    def _step_s(self) -> float:
        decode = self._times.decode
        beside = decode.s_per_sequence * self._decoding + decode.s_per_context_token * self._context_tokens
        return decode.fixed_s + beside

    def _store_answer(self, run: _Run, choice: _Choice) -> None:
        """Store the blocks that an answer filled; its last token is computed only with the next one."""
        chain = choice.chain
        known = len(chain.token_ids) - len(run.call.token_ids)
        keys = chain.grow(choice.writer.token_ids[known:-1])
        if keys:
            self._tell(chain, self._cache.store(run.call.request_id, keys))

    def _tell(self, chain: BlockChain, changed: Allocation) -> None:
        events: list[EngineEvent] = []
        if changed.evicted:
            events.append(BlocksRemoved(tuple(changed.evicted)))
        self._events.publish([*events, *chain.stored(changed.stored)])

    def _end(self, run: _Run) -> None:
        """Free what a run has; its blocks stay cached until their room is needed."""
        run.is_cancelled = True
        self._changed.set()
        if not run.has_begun:
            self._waiting.remove(run)
            return
        self._cache.release(run.call.request_id)
        del self._running[run.call.request_id]
        self._slots.release(run.call.adapter)

    async def _until(self, at: float) -> None:
        while (left := at - self._clock()) > _LEAST_SLEEP_S:
            await self._sleep(left)
