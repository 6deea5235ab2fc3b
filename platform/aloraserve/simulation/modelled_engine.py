"""One modelled engine of the fleet: a scheduler in simulated time, and the load that its replica publishes."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding, ReplicaLoad, anchor
from aloraserve.engine_model.block_cache import BlockCache
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.inter_token_time import InterTokenTime
from aloraserve.engine_model.outputs import BlocksChanged, EngineCoreOutputs, KVCacheEvent
from aloraserve.engine_model.request import Request, RequestId
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.engine_model.warm_up import warm_up_steps
from aloraserve.routing.fair_share import FairQueue, QueuedCall, Turn
from aloraserve.routing.queue_profile import queue_profile
from aloraserve.routing.scheduling import Scheduling
from aloraserve.simulation.adapter_loader import AdapterLoader
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.event_queue_driver import EventQueueDriver
from aloraserve.simulation.simulated_loop import SimulatedLoop

LEAST_QUEUE_S = 1e-4
"""Of a queue that is not empty: 0 would mean that nothing is known."""
REMEMBERED_REQUESTS = 33
"""As live."""
AnswerKeys = Callable[[SimulatedCall], list[BlockKey]]
KvEvents = list[tuple[list[Holding], list[BlockKey]]]
DEFAULT_SCHEDULING = Scheduling()
Loading = Literal["platform", "engine"]
"""Who loads an adapter that is not there: the platform before its call reaches the engine, and the one called least
lately makes room; or the engine amid the step, as vLLM alone does, and the one used longest ago makes room."""


@dataclass(slots=True, eq=False, kw_only=True)
class ModelledRequest(Request):
    """A simulated call in an engine.

    Args:
        call: the call.
        queued_tokens: tokens to prefill, as expected when it came.
        queued_s: how long that takes alone.
        number_s: its place in the queue, see :class:`~aloraserve.routing.scheduling.Scheduling`.
    """

    call: SimulatedCall
    queued_tokens: int = 0
    queued_s: float = 0.0
    number_s: float = 0.0


@dataclass(slots=True)
class StepResult:
    """Outcome of a step.

    Args:
        first_tokens: requests whose prefill it ended.
        finished: requests whose answer it ended.
        kv_events: in order, blocks that came to be cached and keys that went.
    """

    first_tokens: list[ModelledRequest]
    finished: list[ModelledRequest]
    kv_events: KvEvents


def no_answer_keys(call: SimulatedCall) -> list[BlockKey]:
    """Return no keys: those of answers that nobody goes on from."""
    return []


class ModelledEngine:
    """See the module's docstring.

    Args:
        calibration: times and limits.
        loop: simulated time.
        on_step: called with what each step brought.
        kv_tokens: tokens that its KV cache has room for.
        block_tokens: tokens per block.
        answer_keys: gives the keys of the blocks that a call's answer fills.
        scheduling: the order in which calls begin.
        resident: adapters that are loaded from the start, as many as may be.
        loading: who loads adapters, see :data:`Loading`.
    """

    def __init__(
        self,
        calibration: Calibration,
        loop: SimulatedLoop,
        on_step: Callable[[StepResult], None],
        *,
        kv_tokens: int,
        block_tokens: int,
        answer_keys: AnswerKeys = no_answer_keys,
        scheduling: Scheduling = DEFAULT_SCHEDULING,
        resident: Sequence[str] = (),
        loading: Loading = "platform",
    ) -> None:
        self.scheduler = Scheduler(
            calibration,
            kv_tokens=kv_tokens,
            block_tokens=block_tokens,
            policy=scheduling.policy,
            resident=resident,
        )
        self._scheduling = scheduling
        self._fair = FairQueue[RequestId](scheduling, calibration.max_num_batched_tokens)
        self._times = calibration
        # Brings numpy, which a command line that simulates nothing does not wait for.
        from aloraserve.engine_model.step_learner import StepLearner

        self._learner = StepLearner(clock=loop.time)
        self._inter_token = InterTokenTime()
        for step in warm_up_steps(calibration):
            self._learner.add(step)
        self._loop = loop
        self._on_step = on_step
        self._kv_tokens = kv_tokens
        self._answer_keys = answer_keys
        self._driver = EventQueueDriver(self.scheduler, loop, self._stepped)
        self._loader = AdapterLoader(calibration.adapters, self.scheduler.adapter_slots, loop)
        self._loader.preload(self.scheduler.adapter_slots.resident)
        self._loads_first = loading == "platform"
        self._requests: dict[RequestId, ModelledRequest] = {}
        self._wanted: Counter[str] = Counter()
        self._queued_tokens = 0
        self._queued_s = 0.0
        self._request_tokens = 0
        self._services_s: deque[float] = deque(maxlen=REMEMBERED_REQUESTS)

    @property
    def queued_prefill_tokens(self) -> int:
        """Tokens to prefill of requests whose first token is not out."""
        return self._queued_tokens

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return self.scheduler.adapter_slots.resident

    @property
    def slotted(self) -> tuple[str, ...]:
        """Names of those that are in slots."""
        return self.scheduler.adapter_slots.slotted

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """Names of the adapters of requests that wait or run."""
        return tuple(self._wanted)

    @property
    def adapter_loads(self) -> int:
        """How many adapters were loaded."""
        return self.scheduler.adapter_slots.loads + self._loader.loads

    @property
    def cache(self) -> BlockCache:
        """Its blocks."""
        return self.scheduler.kv_cache_manager.cache

    def submit(self, call: SimulatedCall) -> ModelledRequest:
        """Take in a call; it begins at the end of the step that runs, or now.

        Raises:
            ValueError: prompt and answer are longer than the whole cache.
        """
        request = self._request(call)
        request.queued_tokens, request.queued_s = self._expected(request)
        request.number_s = self._scheduling.number_s(request.queued_s, self._loop.now_s)
        self._requests[call.request] = request
        self._queued_tokens += request.queued_tokens
        self._queued_s += request.queued_s
        self._request_tokens += request.num_prompt_tokens + request.max_tokens
        if call.adapter is not None:
            self._wanted[call.adapter] += 1
        self._begin(request)
        return request

    def cancel(self, request: ModelledRequest) -> None:
        """Give a call up; nothing happens if it has ended."""
        if request.request_id in self._requests:
            if math.isnan(request.first_token_s):
                self._prefilled(request)
            self._ended(request)
            self._driver.abort_requests([request.request_id])
            self._release(request)
            self._give(self._fair.leave(request.request_id))

    def kill(self) -> list[ModelledRequest]:
        """Stop for good; return the requests that had not ended, by their numbers."""
        self._driver.stop()
        self._loader.stop()
        return sorted(self._requests.values(), key=lambda request: request.call.request)

    def load(self) -> ReplicaLoad:
        """Return what a replica publishes of itself; it learns how fast it is as a real one does."""
        times, scheduler, model = self._times, self.scheduler, self._model
        prefill = model.prefill
        decoding = len(scheduler.running) - scheduler.num_prefilling
        return ReplicaLoad(
            running=decoding,
            waiting=scheduler.num_waiting + scheduler.num_prefilling + self._loader.num_waiting,
            queued_prefill_tokens=self._queued_tokens,
            kv_usage=self.cache.usage,
            prefill_tokens_per_s=1 / prefill.s_per_token,
            max_requests=times.max_num_seqs,
            queued_prefill_s=max(self._queued_s, LEAST_QUEUE_S) if self._queued_tokens > 0 else 0.0,
            prefill_fixed_s=prefill.fixed_s,
            prefill_s_per_token=prefill.s_per_token,
            prefill_s_per_square_token=prefill.s_per_square_token,
            decode_step_s=self._answers_step_s(model),
            decode_fixed_s=model.least_answers_s,
            kv_tokens=self._kv_tokens,
            running_tokens=self._request_tokens,
            adapter_slots=times.adapters.slots,
            adapter_load_s=times.adapters.load_s,
            service_s=statistics.median(self._services_s) if self._services_s else 0.0,
            prefill_samples=self._learner.quality.samples,
            inter_token_s=self._inter_token.seconds,
            step_tokens=times.max_num_batched_tokens,
            ageing=self._scheduling.published_ageing,
            queue_profile=self._queue_profile(),
        )

    def _queue_profile(self) -> tuple[float, ...]:
        if not self._scheduling.published_ageing or self._queued_tokens <= 0:
            return ()
        now_s = self._scheduling.ageing * self._loop.now_s
        return queue_profile(
            (request.number_s - now_s if math.isnan(request.scheduled_s) else 0.0, request.queued_s)
            for request in self._requests.values()
            if math.isnan(request.first_token_s)
        )

    @property
    def _model(self) -> StepModel:
        model = self._learner.model()
        assert model is not None, "it was warmed up"
        return model

    def _answers_step_s(self, model: StepModel) -> float:
        answers, context_tokens = self.scheduler.answers
        return model.seconds(StepStats(0.0, answers=answers, context_tokens=context_tokens)) if answers else 0.0

    def _begin(self, request: ModelledRequest) -> None:
        """Give a request to the scheduler, once its adapter is loaded if the platform does that."""
        if request.adapter is None or not self._loads_first:
            self._queue(request)
        else:
            self._loader.hold(request.adapter, request.request_id, partial(self._queue, request))

    def _queue(self, request: ModelledRequest) -> None:
        queued = QueuedCall(
            request.request_id,
            request.call.share,
            request.queued_s,
            request.queued_tokens,
            request.number_s,
            request.adapter,
        )
        self._give(self._fair.add(queued))

    def _give(self, turns: Sequence[Turn[RequestId]]) -> None:
        """Give the scheduler the requests whose turn has come."""
        given = [self._requests[turn.call] for turn in turns]
        for request, turn in zip(given, turns, strict=True):
            request.number_s, request.priority = turn.number_s, turn.priority
        if given:
            self._driver.add_requests(given)

    def _release(self, request: ModelledRequest) -> None:
        if request.adapter is not None and self._loads_first:
            self._loader.release(request.adapter, request.request_id)

    def _request(self, call: SimulatedCall) -> ModelledRequest:
        return ModelledRequest(
            request_id=call.request,
            arrival_s=self._loop.now_s,
            prompt_keys=call.keys,
            num_prompt_tokens=call.prompt_tokens,
            max_tokens=call.output_tokens,
            adapter=call.adapter,
            output_keys=partial(self._answer_keys, call),
            call=call,
        )

    def _expected(self, request: ModelledRequest) -> tuple[int, float]:
        """Return how many tokens of a prompt are to be computed, and how long that takes alone."""
        cached = self.scheduler.kv_cache_manager.get_computed_tokens(request)
        request.num_cached_tokens = cached
        return request.num_prompt_tokens - cached, self._model.prefill.seconds(cached, request.num_prompt_tokens)

    def _stepped(self, outputs: EngineCoreOutputs) -> None:
        for step in outputs.steps:
            self._learner.add(step)
            self._inter_token.add(step)
        first_tokens = [self._requests[request.request_id] for request in outputs.first_tokens]
        finished = [self._requests[request.request_id] for request in outputs.finished]
        for request in first_tokens:
            self._prefilled(request)
            self._give(self._fair.leave(request.request_id))
        for request in finished:
            self._ended(request)
            self._services_s.append(request.finished_s - request.scheduled_s)
            self._release(request)
        self._on_step(StepResult(first_tokens, finished, [_placed(event) for event in outputs.kv_events]))

    def _prefilled(self, request: ModelledRequest) -> None:
        self._queued_tokens -= request.queued_tokens
        self._queued_s -= request.queued_s

    def _ended(self, request: ModelledRequest) -> None:
        del self._requests[request.request_id]
        self._request_tokens -= request.num_prompt_tokens + request.max_tokens
        adapter = request.adapter
        if adapter is not None:
            self._wanted[adapter] -= 1
            if not self._wanted[adapter]:
                del self._wanted[adapter]


def _placed(event: KVCacheEvent) -> tuple[list[Holding], list[BlockKey]]:
    """Return what an event brought, as the directory keeps it, and what it took."""
    if not isinstance(event, BlocksChanged):
        raise TypeError(f"{type(event).__name__} is not an event of an engine whose cache nobody empties")
    chain = event.chain
    placed = [Holding(chain[at], anchor(chain, at), chain[0]) for at in range(event.first, len(chain))]
    return placed, list(event.removed)
