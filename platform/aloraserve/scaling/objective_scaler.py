"""The platform's scaler: as many replicas as keep nearly all calls within the objectives, and no more."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.arrivals import Arrivals, positive
from aloraserve.scaling.base import FleetReading, LoadEstimate, Reason, ScalingDecision, ScalingRules
from aloraserve.scaling.staffing import FleetLoad, needed
from aloraserve.scaling.start_times import StartTimes
from aloraserve.scaling.victims import victims

FULL_SHARE = 0.7
"""Of the requests that an engine runs at once: as many a replica gets where nothing but their number is known."""
MAX_NEEDED = 10_000


class ObjectiveScaler:
    """See :class:`~aloraserve.scaling.base.Scaler`.

    More replicas come at once, as soon as the load that is expected when they are there needs them
    (:mod:`~aloraserve.scaling.staffing`). Fewer come when for ``scale_down_cooldown_s`` the load, grown by
    ``scaling_tolerance``, has never needed as many: down to the most that it needed in that time.

    Args:
        rules: bounds, objectives and delays.
    """

    def __init__(self, rules: ScalingRules) -> None:
        self._rules = rules
        self._arrivals = Arrivals()
        self._starts = StartTimes()
        self._decode = _DecodeTimes()
        self._wanted: deque[tuple[float, int]] = deque()
        self._now_s = 0.0
        self._busy_s = self._raised_s = -math.inf
        self._settled_s = math.inf
        self._target: int | None = None

    def decide(self, reading: FleetReading) -> ScalingDecision:
        self._follow(reading)
        staying = [state for state in reading.replicas if not state.is_leaving]
        load = self._load(reading, staying)
        count, calm, reason = self._asked(reading, load)
        self._want(calm, is_idle=reason is Reason.IDLE)
        target, reason = self._bounded(reading, *self._paced(reading.current, count, reason))
        self._note(reading.current, target)
        leaving = victims(staying, reading.running - target)
        return ScalingDecision(target, reason, count, self._estimate(load, target, staying), leaving)

    def _follow(self, reading: FleetReading) -> None:
        if self._now_s < reading.time_s < math.inf:
            self._now_s = reading.time_s
        self._settled_s = min(self._settled_s, self._now_s)
        self._starts.seen(self._now_s, reading.running, reading.starting)
        if reading.is_known:
            self._arrivals.add(self._now_s, reading.demands)
        if _is_busy(reading):
            self._busy_s = self._now_s

    @property
    def _start_s(self) -> float:
        return self._rules.replica_start_s or self._starts.seconds

    def _load(self, reading: FleetReading, staying: Sequence[ReplicaState]) -> FleetLoad:
        loads = [state.load for state in staying]
        rates = self._arrivals.rates(self._start_s)
        self._decode.learn(loads)
        prefill_s = rates.calls * rates.call_prefill_s
        decode_s = rates.calls * rates.call_answer_tokens * self._decode.s_per_token
        waiting = sum(max(demand.waiting, 0) for demand in reading.demands)
        backlog_s = sum(positive(load.queued_prefill_s) for load in loads) + waiting * rates.call_prefill_s
        return FleetLoad(
            rates.calls,
            prefill_s,
            decode_s,
            rates.call_prefill_s,
            rates.call_squares_s2,
            self._decode.step_s,
            backlog_s,
            max(backlog_s + (prefill_s + decode_s - reading.running) * self._start_s, 0.0),
            self._start_s,
            sum(_used(load) for load in loads),
        )

    def _asked(self, reading: FleetReading, load: FleetLoad) -> tuple[int, int, Reason]:
        """Return how many replicas are needed now, how many are with more load, and what for."""
        if not reading.is_known:
            return self._counted(reading)
        if self._is_idle():
            # Whatever came before: rates are those of a longer time.
            return 0, 0, Reason.IDLE
        count, reason = self._needed(load)
        calm, _ = self._needed(load.grown(self._rules.scaling_tolerance))
        if not reading.current and any(demand.held > 0 for demand in reading.demands):
            reason = Reason.HELD
        return max(count, 1), max(calm, 1), reason

    def _needed(self, load: FleetLoad) -> tuple[int, Reason]:
        rules = self._rules
        return needed(
            load,
            ttft_objective_s=rules.ttft_objective_s,
            itl_objective_s=rules.itl_objective_s,
            most=MAX_NEEDED,
        )

    def _is_idle(self) -> bool:
        # A call that was held, or took longer than the timeout, came long ago, and the next one may come now.
        idle_s = min(self._arrivals.idle_s(self._now_s), self._now_s - self._busy_s)
        return idle_s >= self._rules.idle_timeout_s

    def _counted(self, reading: FleetReading) -> tuple[int, int, Reason]:
        """Return what Serve's counts ask for; without them what there is stays."""
        if reading.ongoing is None:
            return reading.current, reading.current, Reason.UNKNOWN
        each = FULL_SHARE * max(self._rules.max_requests, 1)
        ongoing = max(reading.ongoing, 1)
        grown = ongoing * (1 + self._rules.scaling_tolerance)
        return math.ceil(ongoing / each), math.ceil(grown / each), Reason.COUNTS

    def _want(self, calm: int, *, is_idle: bool) -> None:
        """Remember the most that was wanted: of those that a later one exceeds, none."""
        if is_idle:
            self._wanted.clear()
        while self._wanted and self._wanted[-1][1] <= calm:
            self._wanted.pop()
        self._wanted.append((self._now_s, calm))
        while self._wanted[0][0] < self._now_s - self._rules.scale_down_cooldown_s:
            self._wanted.popleft()

    def _paced(self, current: int, count: int, reason: Reason) -> tuple[int, Reason]:
        """Return the target that the cool-downs allow."""
        rules = self._rules
        if count > current:
            is_too_soon = self._now_s - self._raised_s < rules.scale_up_cooldown_s
            # What was asked for stays asked for, also where the reader does not see it yet.
            asked = max(current, min(self._target or 0, count))
            return (asked, Reason.COOL_DOWN if asked < count else reason) if is_too_soon else (count, reason)
        if reason is Reason.IDLE:
            return 0, reason
        lower = min(max(self._wanted[0][1], count), current)
        if self._now_s - self._settled_s < rules.scale_down_cooldown_s:
            lower = max(min(current, current if self._target is None else self._target), count)
        return lower, reason if lower < current or count == current else Reason.COOL_DOWN

    def _bounded(self, reading: FleetReading, target: int, reason: Reason) -> tuple[int, Reason]:
        most = self._rules.max_replicas if reading.most is None else reading.most
        least = min(self._rules.min_replicas if reading.least is None else reading.least, most)
        if target < least:
            return least, Reason.MIN_REPLICAS
        if target > most:
            return most, Reason.MAX_REPLICAS
        return target, reason

    def _note(self, current: int, target: int) -> None:
        """Remember a change; the reader may see what was asked for a little later."""
        before = max(current, self._target or 0)
        if target > before:
            self._starts.asked(self._now_s, target - before)
            self._raised_s = self._now_s
        if target != self._target:
            self._settled_s = self._now_s
        self._target = target

    def _estimate(self, load: FleetLoad, target: int, staying: Sequence[ReplicaState]) -> LoadEstimate:
        usages = [min(positive(state.load.kv_usage), 1.0) for state in staying]
        return LoadEstimate(
            calls_per_s=load.calls_per_s,
            prefill_s_per_s=load.prefill_s_per_s,
            decode_s_per_s=load.decode_s_per_s,
            backlog_s=load.backlog_s,
            ttft_s=load.ttft_s(target),
            itl_s=load.itl_s(target),
            kv_usage=statistics.fmean(usages) if usages else 0.0,
            start_s=load.start_s,
        )


class _DecodeTimes:
    """What tokens of answers take of the fleet's engines, as the replicas last learned it."""

    def __init__(self) -> None:
        self.step_s = 0.0
        self.s_per_token = 0.0

    def learn(self, loads: Sequence[ReplicaLoad]) -> None:
        """Take the medians of those that have answers now; without any, the last ones stay."""
        busy = [load for load in loads if load.running > 0 and positive(load.decode_step_s)]
        if busy:
            self.step_s = statistics.median(positive(load.decode_fixed_s) for load in busy)
            self.s_per_token = statistics.median(_each(load) for load in busy)


def _is_busy(reading: FleetReading) -> bool:
    """Return whether any call waits or runs."""
    if any(demand.waiting > 0 or demand.held > 0 for demand in reading.demands):
        return True
    return any(state.load.running or state.load.waiting for state in reading.replicas)


def _each(load: ReplicaLoad) -> float:
    return max(positive(load.decode_step_s) - positive(load.decode_fixed_s), 0.0) / load.running


def _used(load: ReplicaLoad) -> float:
    """Return the share of a replica that its running answers fill: of its KV cache, or of its requests."""
    slots = load.running / load.max_requests if load.max_requests > 0 else 0.0
    return min(max(positive(load.kv_usage), slots, 0.0), 1.0)
