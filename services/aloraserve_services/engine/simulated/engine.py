"""An engine without a model: the modelled engine's scheduler with real prompts, words and KV events, in real time.

What it computes when, and what it reuses, is the scheduler's (:mod:`aloraserve.engine_model.scheduler`), which the
simulator runs too. Here every answer has words of the tokenizer, and every change of the cache is an event.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

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
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.outputs import BlocksChanged, EngineCoreOutputs, KVCacheEvent
from aloraserve.engine_model.request import RequestId, choice_ids
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.routing.scheduling import SchedulingPolicy
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineReply
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.base import EngineEndedError, Level
from aloraserve_services.engine.simulated.answer_words import Answer, AnswerWords
from aloraserve_services.engine.simulated.asyncio_driver import AsyncioDriver
from aloraserve_services.engine.simulated.block_chain import BlockChain
from aloraserve_services.engine.simulated.choice import Choice
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.simulated.model_clock import CallLater, ModelClock, call_later
from aloraserve_services.engine.simulated.structured_answers import StructuredAnswers

REMEMBERED_CALLS = 65_536


class SimulatedEngine:
    """See :class:`~aloraserve_services.engine.base.Engine` and the module's docstring.

    Args:
        times: how fast it is and how much it holds.
        keyspace: where the keys of its blocks come from.
        words: what it answers with.
        structures: answers in a form; without them such calls are refused.
        events: where its KV events go.
        policy: in which order calls begin.
        stream_tokens: after a choice's first word, so many leave together (vLLM's ``stream_interval``).
        clock: monotonic seconds.
        call_later: makes a call after some of them.

    Attributes:
        poison: a token that ends the engine where a prompt begins with it, None if there is none, as a test asks.
        served: the last calls whose first token was due: id, and seconds from its arrival here to then.
    """

    def __init__(
        self,
        times: Calibration,
        keyspace: KeySpace,
        words: AnswerWords,
        events: SimulatedEvents,
        *,
        structures: StructuredAnswers | None = None,
        policy: SchedulingPolicy = "priority",
        stream_tokens: int = 1,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = call_later,
    ) -> None:
        self.scheduler = Scheduler(times, kv_tokens=times.kv_tokens, block_tokens=keyspace.block_tokens, policy=policy)
        self.served: deque[tuple[str, float]] = deque(maxlen=REMEMBERED_CALLS)
        self._times = times
        self._keyspace = keyspace
        self._versions: dict[str, AdapterVersion] = {}
        self._words = words
        self._structures = structures
        self._events = events
        self._stream_tokens = stream_tokens
        self._clock = ModelClock(clock, call_later)
        self._driver = AsyncioDriver(self.scheduler, self._clock, self._take)
        self._choices: dict[RequestId, Choice] = {}
        self._is_killed = False
        self.poison: int | None = None
        self._observe_step: Callable[[StepStats], None] = lambda step: None

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks that running requests use, from 0 to 1."""
        return self.scheduler.kv_cache_manager.usage

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache has room for."""
        return self.scheduler.kv_cache_manager.cache.capacity_blocks * self._keyspace.block_tokens

    @property
    def adapter_slots(self) -> int:
        """Distinct adapters that may run at once."""
        return self._times.adapters.slots

    @property
    def adapter_capacity(self) -> int:
        """Versions that may be loaded at once."""
        return self._times.adapters.resident

    @property
    def step_tokens(self) -> int:
        """Tokens that one step computes at most."""
        return self._times.max_num_batched_tokens

    @property
    def is_dead(self) -> bool:
        """Whether its task has ended, or it was killed."""
        return self._is_killed or self._driver.is_dead

    def hang(self, is_hanging: bool) -> None:
        """Stand still, or go on where it was, as a test asks."""
        self._clock.hang(is_hanging)

    def num_cached_tokens(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading tokens of a prompt with these block keys are cached."""
        return self.scheduler.kv_cache_manager.cache.match(keys) * self._keyspace.block_tokens

    def observe_steps(self, observe: Callable[[StepStats], None]) -> None:
        """See the contract; times are the model's."""
        self._observe_step = observe

    async def add_adapter(self, version: AdapterVersion) -> None:
        """See the contract; what runs is not held up."""
        await self._clock.until(self._clock.now_s() + self._times.adapters.load_s)
        self._versions[version.engine_name] = version
        self.scheduler.adapter_slots.preload([version.engine_name])

    async def remove_adapter(self, version: AdapterVersion) -> None:
        """See the contract."""
        del self._versions[version.engine_name]
        self.scheduler.adapter_slots.unload(version.engine_name)

    async def levels(self) -> dict[str, Level]:
        """See the contract."""
        slots = self.scheduler.adapter_slots
        # A call that waited while its version was removed loads it again: that one is loaded, and no longer called.
        loaded = self._versions.keys() & slots.resident
        return {self._versions[name].key: "slot" if name in slots.slotted else "host" for name in loaded}

    async def reset_prefix_cache(self, *, preempt: bool = False) -> bool:
        """Drop every cached block; what runs is computed again if it is preempted."""
        return self._driver.reset_prefix_cache(reset_running_requests=preempt)

    async def check_health(self) -> None:
        """Raise if its task has failed, or it was killed."""
        self._check_alive()
        self._driver.check()

    def kill(self) -> None:
        """See the contract; one that hangs goes on, to end."""
        self._is_killed = True
        self._driver.stop()
        self._clock.hang(False)
        for choice in self._choices.values():
            choice.begun.set()

    def shutdown(self) -> None:
        """Stop."""
        self._driver.stop()

    async def generate(self, call: EngineCall, priority: int = 0) -> AsyncGenerator[EngineReply]:
        """Yield the answer's words when they are due, several at once where the reader was slow."""
        if call.token_ids[0] == self.poison:
            self.kill()
        self._check_alive()
        accepted = self._accepted(call, priority, await self._answers(call))
        if isinstance(accepted, EngineRefusal):
            yield accepted
            return
        choices = {choice.request.request_id: choice for choice in accepted}
        self._choices.update(choices)
        try:
            self._driver.add_requests([choice.request for choice in accepted])
            await accepted[0].begun.wait()
            self._check_alive()
            prefill_s = accepted[0].prefill_s
            while True:
                for chunk in self._due(accepted):
                    yield replace(chunk, prefill_s=prefill_s) if prefill_s else chunk
                    prefill_s = 0.0
                if all(choice.is_written for choice in accepted):
                    return
                await self._driver.until(min(map(self._due_s, accepted)))
                self._check_alive()
        finally:
            self._driver.abort_requests(tuple(choices))
            for request_id in choices:
                del self._choices[request_id]

    def _check_alive(self) -> None:
        if self._is_killed:
            raise EngineEndedError("the engine was killed")

    async def _answers(self, call: EngineCall) -> Sequence[Answer] | EngineRefusal:
        """Return what each choice of a call says, or why that cannot be."""
        version, sampling = None if call.adapter is None else call.adapter.engine_name, call.sampling
        if field := _unserved(sampling):
            return EngineRefusal(f"{field} needs an engine with a model; this one is simulated", field)
        numbers = [0] * sampling.n if sampling.is_greedy else range(sampling.n)
        plain = [self._words.answer(call.token_ids, version, number) for number in numbers]
        if call.sampling.structured is None:
            return plain
        if self._structures is None:
            return EngineRefusal("this engine has no tokenizer; answers in a form need one")
        try:
            return await asyncio.to_thread(self._structures.answers, call.sampling.structured, plain, call.sampling)
        except ValueError as error:
            return EngineRefusal(f"the form of the answer cannot be compiled: {error}", "structured_outputs")

    def _accepted(
        self, call: EngineCall, priority: int, answers: Sequence[Answer] | EngineRefusal
    ) -> list[Choice] | EngineRefusal:
        """Return a call's choices, or why it does not run."""
        if isinstance(answers, EngineRefusal):
            return answers
        ids = choice_ids(call.request_id, call.sampling.n)
        if any(request_id in self._choices for request_id in ids):
            raise ValueError(f"request {call.request_id!r} runs already")
        effect = self._effect(call)
        if isinstance(effect, EngineRefusal):
            return effect
        width = self._keyspace.block_tokens
        needed = -(-(len(call.token_ids) + (call.sampling.max_tokens or 1)) // width) * width
        if needed > self.kv_tokens:
            return EngineRefusal(f"prompt and answer need {needed} tokens of KV cache; the engine has {self.kv_tokens}")
        prompt = BlockChain(self._keyspace, call.token_ids, effect, call.cache_salt, call.public_blocks)
        arrival_s, begun = self._driver.catch_up(), asyncio.Event()
        return [
            Choice(index, request_id, call, prompt, answers[index], arrival_s, begun, priority)
            for index, request_id in enumerate(ids)
        ]

    def _effect(self, call: EngineCall) -> AdapterEffect | EngineRefusal | None:
        """Return what a call's adapter does to its prompt, or why that cannot be."""
        if call.adapter is None:
            return None
        adapter = self._versions[call.adapter.engine_name]
        start = activation_point(call.token_ids, adapter.invocation_ids) if adapter.invocation_ids else 0
        if start is None:
            return EngineRefusal(f"the prompt does not contain the invocation of {adapter.name!r}", "prompt")
        return AdapterEffect(adapter.name, adapter.digest, start)

    def _due(self, choices: Sequence[Choice]) -> list[EngineChunk]:
        """Return the chunks that are due."""
        chunks: list[EngineChunk] = []
        for choice in choices:
            tokens = self._driver.num_output_tokens(choice.request)
            if tokens >= choice.next_tokens(self._stream_tokens) and (chunk := choice.write(tokens)):
                chunks.append(chunk)
        return chunks

    def _due_s(self, choice: Choice) -> float:
        """Return when to look for a choice's next chunk; never again once it is written."""
        if choice.is_written:
            return math.inf
        return self._driver.token_s(choice.request, choice.next_tokens(self._stream_tokens))

    def _take(self, outputs: EngineCoreOutputs) -> None:
        """Publish what changed, report steps, and have calls go on whose first token came."""
        for step in outputs.steps:
            self._observe_step(step)
        for request in outputs.first_tokens:
            choice = self._choices[request.request_id]
            if not choice.begun.is_set():
                choice.begun.set()
                self.served.append((choice.call.request_id, request.first_token_s - request.arrival_s))
        self._events.publish([event for change in outputs.kv_events for event in self._engine_events(change)])

    def _engine_events(self, change: KVCacheEvent) -> list[EngineEvent]:
        if not isinstance(change, BlocksChanged):
            return [BlocksCleared()]
        removed: list[EngineEvent] = [BlocksRemoved(tuple(change.removed))] if change.removed else []
        stored = self._choices[change.request.request_id].stored(change) if change.stored else []
        return [*removed, *stored]


def _unserved(sampling: SamplingSettings) -> str:
    """Return the name of a field that an engine without logits cannot serve, an empty string if there is none."""
    asked = {
        "logit_bias": sampling.logit_bias,
        "allowed_token_ids": sampling.allowed_token_ids,
        "bad_words": sampling.bad_words,
        "prompt_logprobs": sampling.prompt_logprobs is not None,
    }
    return next((name for name, value in asked.items() if value), "")
