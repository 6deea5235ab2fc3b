"""The scheduler of a modelled engine: vLLM's (``v1/core/sched/scheduler.py``), without a clock and without a thread.

A step gives each running answer one token; prompts that have begun get as many as the token budget leaves; then waiting
requests begin in their order (:mod:`aloraserve.engine_model.request_queue`) while there is a request slot, an adapter
slot and room for its prompt in the cache. One that lacks only an adapter slot lets later ones pass. Answers take blocks
as they grow. Where these run out, the running request with the highest priority value (in order of arrival: the one
that began last) is preempted: it waits again, and what was evicted of it meanwhile is computed again.

How long a step takes is linear in what it does (:class:`~aloraserve.engine_model.calibration.Calibration`). While
nothing but answers is computed, all steps up to the next change are one event
(:class:`~aloraserve.engine_model.decode_series.DecodeSeries`).

Whoever drives it says what time it is. It calls :meth:`Scheduler.advance` at :attr:`Scheduler.next_event_s`, or later:
what happened in between happened at its own time. It also does so before every other call, and after requests were
added or aborted it calls :meth:`Scheduler.schedule`::

    scheduler.advance(now_s)
    scheduler.add_request(request)
    scheduler.schedule(now_s)

Invariants: a request that was added is finished or aborted, and then nothing of it is left; blocks of running requests
are not evicted; waiting requests begin in their order, but for those that lack an adapter slot, and one that is
preempted has its old place in it; what a step computes is at most the token budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from aloraserve.engine_model.adapter_slots import AdapterSlots
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.decode_series import DecodeSeries
from aloraserve.engine_model.kv_cache_manager import KVCacheManager
from aloraserve.engine_model.outputs import EngineCoreOutputs, KVCacheEvent
from aloraserve.engine_model.request import Request, RequestId, RequestStatus
from aloraserve.engine_model.request_queue import request_queue
from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.routing.scheduling import SchedulingPolicy


class Scheduler:
    """See the module's docstring.

    Args:
        calibration: times and limits.
        kv_tokens: tokens that its KV cache has room for.
        block_tokens: tokens per block.
        policy: in which order requests begin.
        resident: adapters that are loaded from the start, as many as may be.

    Attributes:
        requests: those that have not ended, by id, in the order in which they came.
        running: of those, the ones that have blocks and slots, in the order in which they began.
        kv_cache_manager: which blocks they have.
        adapter_slots: which adapters run and are loaded.
        busy_s: how long the engine computed.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        kv_tokens: int,
        block_tokens: int,
        policy: SchedulingPolicy = "priority",
        resident: Sequence[str] = (),
    ) -> None:
        self.requests: dict[RequestId, Request] = {}
        self.running: dict[RequestId, Request] = {}
        self.kv_cache_manager = KVCacheManager(max(kv_tokens // block_tokens, 1), block_tokens)
        self.adapter_slots = AdapterSlots(calibration.adapters)
        self.adapter_slots.preload(resident[: calibration.adapters.resident])
        self.busy_s = 0.0
        self._times = calibration
        self._prefill = calibration.prefill.model
        self._prompts_per_step = 1 if calibration.prefill_apart else calibration.max_num_seqs
        self._kv_tokens = kv_tokens
        self._by_priority = policy == "priority"
        self._waiting = request_queue(policy)
        self._prefilling: list[Request] = []
        self._chunks: list[tuple[Request, int]] = []
        self._answers = DecodeSeries(calibration.decode, self.kv_cache_manager)
        self._step = StepStats(0.0)
        self._loads = False
        self._step_end_s = math.inf
        self._since_s = 0.0
        self._takes_more = True

    @property
    def next_event_s(self) -> float:
        """When something happens next if nothing is added or aborted; infinite while the engine is idle."""
        return min(self._step_end_s, self._answers.next_s)

    @property
    def num_waiting(self) -> int:
        """How many requests wait to begin."""
        return len(self._waiting)

    @property
    def num_prefilling(self) -> int:
        """How many requests have begun and have tokens to compute before their next one."""
        return len(self._prefilling)

    @property
    def answers(self) -> tuple[int, int]:
        """How many answers are computed, and the tokens of their contexts together when their steps began."""
        return len(self._answers), self._answers.context_tokens

    def add_request(self, request: Request) -> None:
        """Take in a request; several that come at once are added before one :meth:`schedule`.

        Raises:
            ValueError: its prompt and answer are longer than the whole cache, or its id is in use.
        """
        if request.request_id in self.requests:
            raise ValueError(f"request {request.request_id!r} runs already")
        tokens = request.num_prompt_tokens + request.max_tokens
        if self.kv_cache_manager.num_blocks(tokens) > self.kv_cache_manager.cache.capacity_blocks:
            raise ValueError(f"a call of {tokens} tokens cannot run: the KV cache has room for {self._kv_tokens}")
        self.requests[request.request_id] = request
        self._waiting.add(request)

    def abort_requests(self, request_ids: Iterable[RequestId], now_s: float) -> None:
        """Give requests up; their blocks and slots are free at once, the step that runs ends when it would have.

        Args:
            request_ids: unknown ones, and those of requests that ended, are passed over.
            now_s: the time.
        """
        for request_id in request_ids:
            request = self.requests.pop(request_id, None)
            if request is None:
                continue
            if request.status is RequestStatus.RUNNING:
                self._abort_running(request, now_s)
            else:
                self._waiting.remove(request)
            request.status = RequestStatus.FINISHED_ABORTED

    def schedule(self, now_s: float) -> None:
        """Begin what can begin: now if nothing runs, else at the end of the step that runs."""
        if self._step_end_s < math.inf:
            return
        if self._answers.next_s == math.inf:
            self._begin_step(now_s)
        elif self._times.prefill_apart:
            self.busy_s += now_s - self._since_s
            self._begin_step(now_s)
        else:
            self._answers.cut(now_s)

    def advance(self, now_s: float) -> EngineCoreOutputs:
        """End the steps that end until then, begin those that follow, and return what came of it.

        Events of a step that has begun are kept until it ends, as vLLM does.
        """
        outputs = EngineCoreOutputs()
        while (event_s := self.next_event_s) <= now_s:
            self._end_step(event_s, outputs)
            outputs.kv_events += self.take_events()
            self._begin_step(event_s)
        return outputs

    def take_events(self) -> list[KVCacheEvent]:
        """Return the changes of the cache that were not returned yet, also those of the step that runs."""
        return self.kv_cache_manager.take_events()

    def num_output_tokens(self, request: Request, now_s: float) -> int:
        """Return how many tokens of a request's answer are out; ``now_s`` is not later than :attr:`next_event_s`."""
        return self._answers.num_output_tokens(request, now_s) if request.end_step >= 0 else request.num_output_tokens

    def token_s(self, request: Request, tokens: int) -> float:
        """Return when a request will have so many tokens, or the first moment at which it may have.

        Args:
            request: not finished.
            tokens: more than it has.
        """
        return self._answers.token_s(request, tokens) if request in self._answers else self.next_event_s

    def reset_prefix_cache(self, now_s: float, *, reset_running_requests: bool = False) -> bool:
        """Drop every cached block; return whether that was done.

        Args:
            now_s: the time.
            reset_running_requests: preempt what runs: it is computed again, before what waits, once the step ends that
                runs now; what that step computes is lost. Without it nothing is done while any request runs.
        """
        if self.running and not reset_running_requests:
            return False
        self._preempt_all(now_s)
        self.kv_cache_manager.reset_prefix_cache()
        return True

    def _end_step(self, now_s: float, outputs: EngineCoreOutputs) -> None:
        self.busy_s += now_s - self._since_s
        if self._answers.next_s <= now_s:
            if (answers := self._answers.stats()) is not None:
                outputs.steps.append(answers)
            for request in self._answers.end():
                self._finish(request, now_s, outputs)
        if self._step_end_s <= now_s:
            self._step_end_s = math.inf
            if not self._loads:
                outputs.steps.append(self._step)
            chunks, self._chunks = self._chunks, []
            for request, tokens in chunks:
                request.num_computed_tokens += tokens
                self.kv_cache_manager.set_computed(request)
                if request.num_computed_tokens >= request.num_tokens:
                    self._end_prefill(request, now_s, outputs)

    def _begin_step(self, now_s: float) -> None:
        """Begin a step with prompts unless one runs, and steps of answers unless they run."""
        self._since_s = now_s
        answers = self._answers
        self._takes_more = answers.next_s < math.inf or not self._make_room()
        if self._step_end_s == math.inf:
            if self._times.prefill_apart:
                self._begin_prompts_alone(now_s)
            else:
                self._begin_prompts(now_s)
        if answers and answers.next_s == math.inf:
            answers.begin(now_s)

    def _make_room(self) -> bool:
        """Preempt until the answers have blocks for a step; return whether that was necessary."""
        is_preempted = False
        while not self._answers.reserve_step():
            self._preempt(self._victim())
            is_preempted = True
        return is_preempted

    def _victim(self) -> Request:
        running = self.running.values()
        if self._by_priority:
            return max(running, key=lambda request: (request.priority, request.arrival_s))
        return next(reversed(running))

    def _begin_prompts(self, now_s: float) -> None:
        """Begin a step that computes prompts and a token for each answer, if there are prompts."""
        times, answers = self._times, self._answers
        prefill_s = self._schedule_prompts(times.max_num_batched_tokens - len(answers))
        if self._chunks:
            fixed_s = max(self._prefill.fixed_s, times.decode.fixed_s if answers else 0.0)
            self._step_end_s = now_s + fixed_s + prefill_s + answers.tokens_s
            self._step = self._stats(self._step_end_s - now_s, len(answers), answers.context_tokens)
            if answers:
                answers.begin_step(self._step_end_s)

    def _begin_prompts_alone(self, now_s: float) -> None:
        prefill_s = self._schedule_prompts(self._times.max_num_batched_tokens)
        if self._chunks:
            self._step_end_s = now_s + self._prefill.fixed_s + prefill_s
            self._step = self._stats(self._step_end_s - now_s)

    def _stats(self, seconds: float, answers: int = 0, context_tokens: int = 0) -> StepStats:
        """Return what the step computes that begins; an adapter's calls are its from their first token on."""
        return StepStats(
            seconds,
            prefill_tokens=sum(tokens for _, tokens in self._chunks),
            prefill_squares=sum(
                squares(request.num_computed_tokens, request.num_computed_tokens + tokens)
                for request, tokens in self._chunks
            ),
            adapter_tokens=sum(tokens for request, tokens in self._chunks if request.adapter is not None),
            answers=answers,
            context_tokens=context_tokens,
        )

    def _schedule_prompts(self, budget: int) -> float:
        """Choose what of which prompts the step computes within a budget; return how long that takes."""
        seconds = 0.0
        self._loads = False
        for request in self._prefilling[: self._prompts_per_step]:
            tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            if tokens <= 0:
                break
            seconds += self._chunk(request, tokens)
            budget -= tokens
        return seconds + self._schedule_waiting(budget)

    def _schedule_waiting(self, budget: int) -> float:
        seconds = 0.0
        passed: list[Request] = []
        while self._takes_more and self._waiting and budget > 0 and self._has_slot:
            request = self._waiting.peek()
            if not self.adapter_slots.has_room(request.adapter):
                passed.append(self._waiting.pop())
                continue
            if not self.kv_cache_manager.allocate_slots(request):
                break
            self._waiting.pop()
            seconds += self._run(request)
            tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            seconds += self._chunk(request, tokens)
            budget -= tokens
        self._waiting.put_back(passed)
        return seconds

    @property
    def _has_slot(self) -> bool:
        """Whether one more request may begin in the step."""
        return len(self.running) < self._times.max_num_seqs and len(self._chunks) < self._prompts_per_step

    def _run(self, request: Request) -> float:
        """Have a request with blocks run; return how long loading its adapter takes."""
        if request.status is RequestStatus.WAITING:
            request.num_cached_tokens = request.num_computed_tokens
            request.scheduled_s = self._since_s
        request.status = RequestStatus.RUNNING
        self.running[request.request_id] = request
        self._prefilling.append(request)
        self.adapter_slots.take(request.adapter)
        load_s = self.adapter_slots.load_s(request.adapter)
        self._loads = self._loads or load_s > 0
        return load_s

    def _chunk(self, request: Request, tokens: int) -> float:
        """Add a part of a prompt to the step and return how long it takes, without what each step takes."""
        self._chunks.append((request, tokens))
        start = request.num_computed_tokens
        seconds = self._prefill.seconds(start, start + tokens) - self._prefill.fixed_s
        if request.adapter is not None:
            seconds += tokens * self._times.prefill.adapter_s_per_token
        return seconds

    def _end_prefill(self, request: Request, now_s: float, outputs: EngineCoreOutputs) -> None:
        self._prefilling.remove(request)
        if not request.num_output_tokens:
            request.first_token_s = now_s
            outputs.first_tokens.append(request)
        request.num_output_tokens += 1
        if request.num_output_tokens == request.max_tokens:
            self._finish(request, now_s, outputs)
        else:
            self._answers.add(request, now_s)

    def _finish(self, request: Request, now_s: float, outputs: EngineCoreOutputs) -> None:
        request.finished_s = now_s
        request.num_output_tokens = request.max_tokens
        request.end_step = -1
        request.status = RequestStatus.FINISHED
        self.kv_cache_manager.cache_blocks(request, request.num_tokens - 1)
        del self.requests[request.request_id]
        self._stop(request)
        self.kv_cache_manager.free(request)
        outputs.finished.append(request)

    def _stop(self, request: Request) -> None:
        """Take a request's slots back."""
        del self.running[request.request_id]
        self.adapter_slots.release(request.adapter)

    def _abort_running(self, request: Request, now_s: float) -> None:
        self._stop(request)
        if request in self._prefilling:
            self._drop_prompt(request)
        else:
            tokens = self.num_output_tokens(request, now_s)
            self._answers.remove(request, now_s)
            request.num_output_tokens = tokens
            self.kv_cache_manager.cache_blocks(request, request.num_tokens - 1)
        self.kv_cache_manager.free(request)

    def _preempt(self, request: Request) -> None:
        """Have a request wait again; its blocks stay cached until their room is needed."""
        if request in self._prefilling:
            self._drop_prompt(request)
        else:
            self._answers.preempt(request)
            self.kv_cache_manager.cache_blocks(request, request.num_tokens - 1)
        self._stop(request)
        self.kv_cache_manager.free(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        self._waiting.put_back([request])

    def _drop_prompt(self, request: Request) -> None:
        self._prefilling.remove(request)
        self._chunks = [chunk for chunk in self._chunks if chunk[0] is not request]

    def _preempt_all(self, now_s: float) -> None:
        """Have all that runs wait again, before what waits, in the order in which it began."""
        self._answers.preempt_all(now_s)
        self._prefilling.clear()
        self._chunks.clear()
        preempted = list(self.running.values())
        self.running.clear()
        for request in reversed(preempted):
            request.status = RequestStatus.PREEMPTED
            request.num_computed_tokens = 0
            self.kv_cache_manager.free(request)
            self.adapter_slots.release(request.adapter)
        self._waiting.put_back(preempted)
