"""Bounds that no router beats by much: one cache for the whole fleet, infinite or of the fleet's size, and its work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aloraserve.engine_model.block_cache import BlockCache
from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.workload import Workload

_UNLIMITED_BLOCKS = 1 << 60


@dataclass(frozen=True, slots=True)
class Bound:
    """Result of one cache for all calls, in the order of the trace, each turn's evaluators right after it.

    Args:
        hit_rate: share of prompt tokens that it has.
        work_s: how long one engine computes for all calls.
        evicted: blocks that it had no room for.
    """

    hit_rate: float
    work_s: float
    evicted: int = 0


def one_cache(workload: Workload, calibration: Calibration, capacity_tokens: int | None) -> Bound:
    """Return the bound of one cache with room for ``capacity_tokens``, None for an infinite one."""
    block = workload.settings.block_tokens
    cache = BlockCache(_UNLIMITED_BLOCKS if capacity_tokens is None else capacity_tokens // block)
    prompt_tokens = cached_tokens = evicted = 0
    work_s = 0.0
    for call in _in_order(workload):
        blocks = -(-(call.prompt_tokens + call.output_tokens) // block)
        cached = min(cache.match(call.keys), (call.prompt_tokens - 1) // block) * block
        begun = cache.allocate(call.request, call.keys, blocks)
        if begun is None:
            raise SettingsError(f"the fleet has room for {capacity_tokens} tokens; one call needs more")
        answer = workload.answer_keys(call)
        ended = cache.store(call.request, answer)
        cache.release(call.request)
        evicted += len(begun.evicted) + len(ended.evicted)
        prompt_tokens += call.prompt_tokens
        cached_tokens += cached
        work_s += work(call, cached, calibration)
        call.forget_keys()
    return Bound(cached_tokens / prompt_tokens, work_s, evicted)


def _in_order(workload: Workload) -> Iterator[SimulatedCall]:
    for call in workload.base_calls():
        yield call
        yield from workload.evaluations(call, call.arrival_s)
        workload.end_turn(call.turn)


def work(call: SimulatedCall, cached_tokens: int, calibration: Calibration) -> float:
    """Return how long a call keeps an engine busy that is always full: its prefill, in as few steps as may be, and its
    answer's share of steps that run anyway."""
    tokens = call.prompt_tokens - cached_tokens
    model, decode = calibration.prefill.model, calibration.decode
    # An engine that is full fills its steps, so a call pays for the share of them that it takes.
    seconds = model.seconds(cached_tokens, call.prompt_tokens) - model.fixed_s
    seconds += model.fixed_s * tokens / calibration.max_num_batched_tokens
    if call.adapter is not None:
        seconds += tokens * calibration.prefill.adapter_s_per_token
    steps = call.output_tokens - 1
    context = steps * call.prompt_tokens + steps * (steps + 1) / 2
    return seconds + steps * decode.s_per_sequence + context * decode.s_per_context_token


def rate_scale_at(load: float, bound: Bound, workload: Workload, replicas: int) -> float:
    """Return how much faster than the trace calls must come for the fleet to be that full, were it one cache and evenly
    busy.

    Args:
        load: share of saturation, above 0.
        bound: of one cache of the fleet's size.
        workload: the calls.
        replicas: engines that share the work.

    Raises:
        SettingsError: the load makes no sense, or the trace has no duration.
    """
    if not 0 < load <= 10:
        raise SettingsError(f"load is {load}; a share of saturation above 0, at most 10, is accepted")
    span_s = workload.rows[-1].arrival_s - workload.rows[0].arrival_s
    if span_s <= 0:
        raise SettingsError("load needs a trace whose calls come at different times")
    return load * replicas * span_s / bound.work_s
