"""One modelled engine: vLLM's scheduler over a block cache, in simulated time, without a step for each token.

What a step does is vLLM's (``v1/core/sched/scheduler.py``): each running answer gets one token, prompts that have begun
get as many as the token budget leaves, then waiting calls begin in their order while there is a request slot, an
adapter slot and room in the cache; a call that lacks only an adapter slot lets later ones pass. How long a step takes
is linear in what it does (:class:`~aloraserve.engine_model.calibration.Calibration`). While nothing but answers is
computed, all steps up to the next change are one event: their times form an arithmetic series.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding, ReplicaLoad, anchor
from aloraserve.engine_model.adapter_slots import AdapterSlots
from aloraserve.engine_model.block_cache import BlockCache
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.engine_request import EngineRequest, StepResult
from aloraserve.engine_model.step_series import series_s, steps_begun
from aloraserve.simulation.base import SimulatedCall

LEAST_QUEUE_S = 1e-4
"""Of a queue that is not empty: 0 would mean that nothing is known."""
AnswerKeys = Callable[[SimulatedCall], list[BlockKey]]


class ModelledEngine:
    """See the module's docstring. Whoever holds it calls :meth:`end_step` at :attr:`next_s`, whenever that is finite.

    Args:
        calibration: times and limits.
        kv_tokens: tokens that its KV cache has room for.
        block_tokens: tokens a block.
        answer_keys: gives the keys of the blocks that a call's answer fills.
        resident: adapters that are loaded from the start, as many as may be.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        kv_tokens: int,
        block_tokens: int,
        answer_keys: AnswerKeys = lambda call: [],
        resident: Sequence[str] = (),
    ) -> None:
        self.cache = BlockCache(max(kv_tokens // block_tokens, 1))
        self.next_s = math.inf
        self.busy_s = 0.0
        self._times = calibration
        self._prefill = calibration.prefill.model
        self._kv_tokens = kv_tokens
        self._block_tokens = block_tokens
        self._answer_keys = answer_keys
        self._waiting: deque[EngineRequest] = deque()
        self._prefilling: list[EngineRequest] = []
        self._chunks: list[tuple[EngineRequest, int]] = []
        self._decoding: list[tuple[int, int, EngineRequest]] = []
        self._context_tokens = 0
        self._step = 0
        self._steps_now = 0
        self._started_s = 0.0
        self._adapters = AdapterSlots(calibration.adapters)
        self._adapters.preload(resident[: calibration.adapters.resident])
        self._wanted: Counter[str] = Counter()
        self._events: list[tuple[list[Holding], list[BlockKey]]] = []
        self._queued_tokens = 0
        self._queued_s = 0.0
        self._request_tokens = 0
        self._service_s = 0.0

    @property
    def running(self) -> int:
        """Requests whose prefill began."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def waiting(self) -> int:
        """Requests that wait to begin."""
        return len(self._waiting)

    @property
    def queued_prefill_tokens(self) -> int:
        """Tokens to prefill of requests whose first token is not out."""
        return self._queued_tokens

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return self._adapters.resident

    @property
    def adapter_loads(self) -> int:
        """How many adapters were loaded since the start."""
        return self._adapters.loads

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """Names of the adapters of requests that wait or run."""
        return tuple(self._wanted)

    def load(self) -> ReplicaLoad:
        """Return what a replica publishes of itself; a real one learns the rates that are given here."""
        times = self._times
        return ReplicaLoad(
            running=len(self._decoding),
            waiting=len(self._waiting) + len(self._prefilling),
            queued_prefill_tokens=self._queued_tokens,
            kv_usage=self.cache.usage,
            prefill_tokens_per_s=1 / times.prefill.s_per_token,
            max_requests=times.max_num_seqs,
            queued_prefill_s=max(self._queued_s, LEAST_QUEUE_S) if self._queued_tokens > 0 else 0.0,
            prefill_fixed_s=times.prefill.fixed_s,
            prefill_s_per_token=times.prefill.s_per_token,
            prefill_s_per_square_token=times.prefill.s_per_square_token,
            decode_step_s=self._decode_step_s() if self._decoding else 0.0,
            kv_tokens=self._kv_tokens,
            running_tokens=self._request_tokens,
            adapter_slots=times.adapters.slots,
            adapter_load_s=times.adapters.load_s,
            service_s=self._service_s,
        )

    def requests(self) -> list[EngineRequest]:
        """Return the requests that have not ended, in the order in which they came."""
        found = [*self._waiting, *self._prefilling, *(one for _, _, one in self._decoding)]
        return sorted(found, key=lambda one: one.call.request)

    def submit(self, call: SimulatedCall, now_s: float) -> EngineRequest:
        """Take in a call; it begins at the end of the step that runs, or now.

        Raises:
            ValueError: prompt and answer are longer than the whole cache.
        """
        if self._blocks(call) > self.cache.capacity_blocks:
            raise ValueError(
                f"a call of {call.prompt_tokens + call.output_tokens} tokens cannot run: the KV cache has room for "
                f"{self._kv_tokens}"
            )
        request = EngineRequest(call, now_s)
        request.cached_tokens = self._cached_tokens(call)
        request.queued_tokens = call.prompt_tokens - request.cached_tokens
        request.queued_s = self._prefill.seconds(request.cached_tokens, call.prompt_tokens)
        self._queued_tokens += request.queued_tokens
        self._queued_s += request.queued_s
        self._request_tokens += call.prompt_tokens + call.output_tokens
        if call.adapter is not None:
            self._wanted[call.adapter] += 1
        self._waiting.append(request)
        if self.next_s == math.inf:
            self._start_step(now_s)
        elif not self._chunks:
            self._cut_series(now_s)
        return request

    def end_step(self) -> StepResult:
        """End what runs until :attr:`next_s`, begin the next, and return what came of it."""
        now_s = self.next_s
        result = StepResult()
        self.busy_s += now_s - self._started_s
        self._step += self._steps_now
        self._context_tokens += self._steps_now * len(self._decoding)
        self._end_answers(now_s, result)
        for request, tokens in self._chunks:
            request.computed += tokens
            if request.computed >= request.call.prompt_tokens:
                self._end_prefill(request, now_s, result)
        self._start_step(now_s)
        result.kv_events, self._events = self._events, []
        return result

    def _blocks(self, call: SimulatedCall) -> int:
        return -(-(call.prompt_tokens + call.output_tokens) // self._block_tokens)

    def _cached_tokens(self, call: SimulatedCall) -> int:
        """Return how much of a prompt is cached; its last token is always computed."""
        return min(self.cache.match(call.keys), (call.prompt_tokens - 1) // self._block_tokens) * self._block_tokens

    def _start_step(self, now_s: float) -> None:
        self._started_s = now_s
        self._chunks = []
        budget = self._times.max_num_batched_tokens - len(self._decoding)
        prefill_s = 0.0
        for request in self._prefilling:
            tokens = min(request.call.prompt_tokens - request.computed, budget)
            if tokens <= 0:
                break
            prefill_s += self._chunk(request, tokens)
            budget -= tokens
        prefill_s += self._begin(budget)
        if self._chunks:
            times = self._times
            fixed_s = max(self._prefill.fixed_s, times.decode.fixed_s if self._decoding else 0.0)
            self._steps_now = 1
            self.next_s = now_s + fixed_s + prefill_s + self._answers_s()
        elif self._decoding:
            self._steps_now = self._decoding[0][0] - self._step
            self.next_s = now_s + self._series_s(self._steps_now)
        else:
            self._steps_now = 0
            self.next_s = math.inf

    def _begin(self, budget: int) -> float:
        """Begin waiting requests within the budget and return how long their part of the step takes."""
        seconds = 0.0
        passed: list[EngineRequest] = []
        while self._waiting and budget > 0 and self.running < self._times.max_num_seqs:
            request = self._waiting[0]
            if not self._adapters.has_room(request.call.adapter):
                passed.append(self._waiting.popleft())
                continue
            if not self._allocate(request):
                break
            self._waiting.popleft()
            self._adapters.take(request.call.adapter)
            seconds += self._adapters.load_s(request.call.adapter)
            self._prefilling.append(request)
            tokens = min(request.call.prompt_tokens - request.computed, budget)
            seconds += self._chunk(request, tokens)
            budget -= tokens
        self._waiting.extendleft(reversed(passed))
        return seconds

    def _allocate(self, request: EngineRequest) -> bool:
        call = request.call
        cached = self._cached_tokens(call)
        keys = call.keys
        allocation = self.cache.allocate(call.request, keys, self._blocks(call))
        if allocation is None:
            return False
        request.cached_tokens = request.computed = cached
        self._note(keys, allocation.stored, allocation.evicted)
        return True

    def _note(self, keys: list[BlockKey], stored: list[BlockKey], evicted: list[BlockKey]) -> None:
        """Note a KV event; what was stored is the end of ``keys``, because a chain is cached from its start on."""
        if stored or evicted:
            first = len(keys) - len(stored)
            placed = [Holding(key, anchor(keys, first + index), keys[0]) for index, key in enumerate(stored)]
            self._events.append((placed, evicted))

    def _chunk(self, request: EngineRequest, tokens: int) -> float:
        """Add a part of a prompt to the step and return how long it takes, without what each step takes."""
        self._chunks.append((request, tokens))
        start = request.computed
        seconds = self._prefill.seconds(start, start + tokens) - self._prefill.fixed_s
        if request.call.adapter is not None:
            seconds += tokens * self._times.prefill.adapter_s_per_token
        return seconds

    def _end_prefill(self, request: EngineRequest, now_s: float, result: StepResult) -> None:
        request.first_token_s = now_s
        self._prefilling.remove(request)
        self._queued_tokens -= request.queued_tokens
        self._queued_s -= request.queued_s
        result.first_tokens.append(request)
        if request.call.output_tokens == 1:
            self._finish(request, now_s, result)
            return
        self._context_tokens += request.call.prompt_tokens + 1
        entry = (self._step + request.call.output_tokens - 1, request.call.request, request)
        heapq.heappush(self._decoding, entry)

    def _end_answers(self, now_s: float, result: StepResult) -> None:
        while self._decoding and self._decoding[0][0] <= self._step:
            request = heapq.heappop(self._decoding)[2]
            self._context_tokens -= request.call.prompt_tokens + request.call.output_tokens
            self._finish(request, now_s, result)

    def _finish(self, request: EngineRequest, now_s: float, result: StepResult) -> None:
        request.finished_s = now_s
        call = request.call
        answer = self._answer_keys(call)
        if answer:
            allocation = self.cache.store(call.request, answer)
            self._note(call.keys + answer, allocation.stored, allocation.evicted)
        self.cache.release(call.request)
        self._request_tokens -= call.prompt_tokens + call.output_tokens
        self._service_s += 0.1 * (now_s - request.sent_s - self._service_s)
        self._adapters.release(call.adapter)
        if call.adapter is not None:
            self._wanted[call.adapter] -= 1
            if not self._wanted[call.adapter]:
                del self._wanted[call.adapter]
        result.finished.append(request)

    def _answers_s(self) -> float:
        """Return what one token for each running answer adds to a step."""
        decode = self._times.decode
        return decode.s_per_sequence * len(self._decoding) + decode.s_per_context_token * self._context_tokens

    def _decode_step_s(self) -> float:
        return self._times.decode.fixed_s + self._answers_s()

    def _growth_s(self) -> float:
        """Return how much longer each step of a series is than the one before: contexts grow by a token each."""
        return self._times.decode.s_per_context_token * len(self._decoding)

    def _series_s(self, steps: int) -> float:
        return series_s(self._decode_step_s(), self._growth_s(), steps)

    def _cut_series(self, now_s: float) -> None:
        """Have the series of steps that runs end with the step that runs at ``now_s``."""
        begun = steps_begun(self._decode_step_s(), self._growth_s(), now_s - self._started_s)
        self._steps_now = min(begun, self._steps_now)
        self.next_s = self._started_s + self._series_s(self._steps_now)
