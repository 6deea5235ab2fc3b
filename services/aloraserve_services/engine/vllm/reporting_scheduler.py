"""vLLM's scheduler, in its engine core, made to report what each step computed and how long it took.

vLLM's own statistics count a step's tokens, not what they attend to, and time the wait for a result, which is not a
step (``EngineCore.capture_iteration_details``). The scheduler knows both ends of a step and its content. What it
reports travels with vLLM's statistics to the stat logger, in a part of them that is meant for a step's content
(``PerfStats.debug_stats.context_breakdown``) and that vLLM fills only for debugging.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from aloraserve.engine_model.step_stats import StepStats, squares

SCHEDULER = f"{__name__}.reporting_scheduler"
"""For vLLM's ``scheduler_cls``."""
MAX_UNDER_WAY = 64
"""Steps that were scheduled and have not ended; vLLM has two or, with pipeline parallelism, a few."""
_NANOSECONDS = 1e-9


def reporting_scheduler(*, vllm_config: Any, **arguments: Any) -> Any:
    """Return the scheduler that vLLM would choose, with reports."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    chosen = AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler
    kind = type(f"Reporting{chosen.__name__}", (_Reports, chosen), {})
    return kind(vllm_config=vllm_config, **arguments)


class _Reports:
    """To be mixed into a scheduler."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self._scheduled_s: dict[int, float] = {}
        self._ended_s = 0.0
        lora_config = arguments["vllm_config"].lora_config
        self._adapters = _RecentAdapters(0 if lora_config is None else lora_config.max_loras)

    def schedule(self, *args: Any, **arguments: Any) -> Any:
        begun_s = time.monotonic()
        output = super().schedule(*args, **arguments)  # type: ignore[misc]
        if len(self._scheduled_s) >= MAX_UNDER_WAY:
            self._scheduled_s.clear()
        self._scheduled_s[id(output)] = begun_s
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now_s = time.monotonic()
        # With async scheduling the next step is scheduled while one runs.
        begun_s = max(self._scheduled_s.pop(id(scheduler_output), now_s), self._ended_s)
        self._ended_s = now_s
        # Before requests that end with this step are gone.
        step = step_of(scheduler_output, self.requests, now_s - begun_s)  # type: ignore[attr-defined]
        loads = self._adapters.load(scheduler_output, self.requests)  # type: ignore[attr-defined]
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        if step is not None and not loads:
            _attach(outputs, step)
        return outputs


class _RecentAdapters:
    """The adapters that were used last, as many as have slots: vLLM loads any other one into a slot in its step.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._used: OrderedDict[int, None] = OrderedDict()

    def load(self, scheduled: Any, requests: Any) -> bool:
        """Note the adapters of a step; return whether one was not among the last."""
        if not self._slots:
            return False
        names = scheduled.num_scheduled_tokens if scheduled.scheduled_new_reqs else ()
        found = [requests[name].lora_request for name in names if name in requests]
        used = {adapter.lora_int_id for adapter in found if adapter is not None}
        loads = not used <= self._used.keys()
        for number in used:
            self._used[number] = None
            self._used.move_to_end(number)
        while len(self._used) > self._slots:
            self._used.popitem(last=False)
        return loads


def step_of(scheduled: Any, requests: Any, seconds: float) -> StepStats | None:
    """Return what a step computed, None if nothing.

    Args:
        scheduled: vLLM's ``SchedulerOutput``.
        requests: vLLM's requests by id; those that were aborted meanwhile are missing.
        seconds: how long it took.
    """
    if not scheduled.total_num_scheduled_tokens:
        return None
    if not _are_answers(scheduled):
        return _mixed(scheduled, requests, seconds)
    cached = scheduled.scheduled_cached_reqs
    answers = len(cached.req_ids)
    context = sum(cached.num_computed_tokens) + answers
    adapted = sum(_adapter_from(requests.get(name)) is not None for name in cached.req_ids)
    return StepStats(seconds, answers=answers, context_tokens=context, adapter_answers=adapted)


def _are_answers(scheduled: Any) -> bool:
    """Whether each sequence got one more token: the common case, without a look at each."""
    cached = scheduled.scheduled_cached_reqs
    is_one_each = scheduled.total_num_scheduled_tokens == len(cached.req_ids) == len(scheduled.num_scheduled_tokens)
    return is_one_each and 0 not in cached.num_output_tokens


def _mixed(scheduled: Any, requests: Any, seconds: float) -> StepStats:
    tokens = adapter_tokens = answers = context = adapter_answers = 0
    total_squares = 0.0
    new = [(request.req_id, request.num_computed_tokens, 0) for request in scheduled.scheduled_new_reqs]
    cached = scheduled.scheduled_cached_reqs
    known = zip(cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True)
    for name, start, generated in [*new, *known]:
        width = scheduled.num_scheduled_tokens.get(name, 0)
        applies_from = _adapter_from(requests.get(name))
        # Speculated tokens come with an answer's own; a preempted request is computed again like a prompt.
        if generated and width <= 1 + len(scheduled.scheduled_spec_decode_tokens.get(name, ())):
            answers += 1
            context += start + width
            adapter_answers += applies_from is not None
        elif width:
            tokens += width
            total_squares += squares(start, start + width)
            if applies_from is not None:
                adapter_tokens += max(start + width - max(start, applies_from), 0)
    return StepStats(seconds, tokens, total_squares, adapter_tokens, answers, context, adapter_answers)


def _adapter_from(request: Any) -> int | None:
    """Return from which token on a request's adapter applies, None without one."""
    if request is None or request.lora_request is None:
        return None
    from vllm_alora.activation import activation_of

    return activation_of(request.sampling_params) or 0


def _attach(outputs: dict[int, Any], step: StepStats) -> None:
    """Have a step's statistics travel with vLLM's own of the step."""
    from vllm.v1.metrics.perf import DebugPerfStats, PerfStats

    stats = next((each.scheduler_stats for each in outputs.values() if each.scheduler_stats is not None), None)
    if stats is None:
        return
    stats.perf_stats = stats.perf_stats or PerfStats()
    whole = {name: round(value) for name, value in step._asdict().items()}
    whole["seconds"] = round(step.seconds / _NANOSECONDS)
    stats.perf_stats.debug_stats = DebugPerfStats(context_breakdown=whole)


def attached_step(scheduler_stats: Any) -> StepStats | None:
    """Return the step that vLLM's ``SchedulerStats`` came with, None if with none."""
    perf_stats = scheduler_stats.perf_stats
    if perf_stats is None or perf_stats.debug_stats is None or not perf_stats.debug_stats.context_breakdown:
        return None
    values = dict(perf_stats.debug_stats.context_breakdown)
    return StepStats(**(values | {"seconds": values["seconds"] * _NANOSECONDS}))
