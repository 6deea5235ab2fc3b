"""The platform's scaler: as many replicas as keep nearly all calls within the objectives, and no more."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.arrivals import Arrivals, positive
from aloraserve.scaling.base import FleetReading, LoadEstimate, Reason, ScalingDecision, ScalingRules
from aloraserve.scaling.staffing import MOST_KV_USAGE, FleetLoad, needed
from aloraserve.scaling.start_times import StartTimes
from aloraserve.scaling.victims import victims

FULL_SHARE = 0.7
"""Of the requests that an engine runs at once: as many a replica gets where nothing but their number is known."""
MAX_NEEDED = 10_000
KV_READINGS = 10
"""Over so many readings what an answer takes of the KV cache evens out."""
REPORTS_S = 10.0
"""For so long some gateways may have said nothing, as those that have just started; what there is stays."""


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
        self._answers = _Answers(max(rules.max_requests, 1))
        self._is_learned = False
        self._wanted: deque[tuple[float, int]] = deque()
        self._now_s = 0.0
        self._busy_s = self._raised_s = self._whole_s = -math.inf
        self._settled_s = math.inf
        self._target: int | None = None

    def go_by(self, rules: ScalingRules) -> None:
        """Decide by other rules from now on; what was learned of the load stays."""
        self._rules = rules

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
        if reading.is_whole:
            # Not those of some: what the others were asked for meanwhile counts when they are back.
            self._arrivals.add(self._now_s, reading.demands)
        if reading.is_whole or self._whole_s < 0:
            self._whole_s = self._now_s
        if _is_busy(reading):
            self._busy_s = self._now_s

    @property
    def _start_s(self) -> float:
        return self._rules.replica_start_s or self._starts.seconds

    def _load(self, reading: FleetReading, staying: Sequence[ReplicaState]) -> FleetLoad:
        loads = [state.load for state in staying]
        rates = self._arrivals.rates(self._start_s)
        self._answers.learn(loads)
        prefill_s = rates.calls * rates.call_prefill_s
        answer_s = rates.call_answer_tokens * self._answers.s_per_token
        decode_s = rates.calls * answer_s
        unplaced = sum(max(demand.waiting, 0) for demand in reading.demands)
        waiting = unplaced + sum(max(load.waiting, 0) for load in loads)
        backlog_s = sum(positive(load.queued_prefill_s) for load in loads) + unplaced * rates.call_prefill_s
        backlog_s += waiting * answer_s
        served_s = reading.running * self._start_s + self._starts.soon_s(self._now_s, self._start_s)
        self._is_learned = rates.is_known and self._answers.step_s > 0
        return FleetLoad(
            rates.calls,
            prefill_s,
            decode_s,
            rates.call_prefill_s,
            rates.call_squares_s2,
            self._answers.step_s,
            backlog_s,
            max(backlog_s + (prefill_s + decode_s) * self._start_s - served_s, 0.0),
            self._start_s,
            sum(_used(load) for load in loads),
            rates.call_answer_tokens,
            self._answers.share,
            waiting,
            served_s,
        )

    def _asked(self, reading: FleetReading, load: FleetLoad) -> tuple[int, int, Reason]:
        """Return how many replicas are needed now, how many are with more load, and what for."""
        if not reading.is_known:
            return self._counted(reading.ongoing, reading.current)
        if not reading.is_whole:
            return self._partly(reading)
        if self._is_idle() or self._is_unused(reading):
            # Whatever came before: rates are those of a longer time.
            return 0, 0, Reason.IDLE
        count, reason = self._needed(load)
        calm, _ = self._needed(load.grown(self._rules.scaling_tolerance))
        if any(demand.held > 0 for demand in reading.demands):
            if not self._is_learned:
                held, grown, _ = self._counted(_ongoing(reading), 0)
                count, calm = max(count, held), max(calm, grown)
            reason = reason if reading.current else Reason.HELD
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

    def _is_unused(self, reading: FleetReading) -> bool:
        """Return whether there is no replica and there never was a call: a first one is for a call to ask for."""
        return not reading.current and self._busy_s < 0 and not self._arrivals.has_calls

    def _partly(self, reading: FleetReading) -> tuple[int, int, Reason]:
        """Return what counts ask for where some gateways say nothing, never fewer than there are."""
        current = reading.current
        if self._now_s - self._whole_s < REPORTS_S:
            return current, current, Reason.UNKNOWN
        count, calm, reason = self._counted(reading.ongoing, current)
        return max(count, current), max(calm, current), reason

    def _counted(self, ongoing: int | None, current: int) -> tuple[int, int, Reason]:
        """Return how many the number of requests asks for; without it what there is stays."""
        if ongoing is None:
            return current, current, Reason.UNKNOWN
        each = FULL_SHARE * self._answers.slots
        ongoing = max(ongoing, 1)
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
            self._starts.asked(self._now_s, target - before, target)
            self._raised_s = self._now_s
        elif self._target is not None and target < self._target:
            self._starts.lowered(target)
        if target != self._target:
            self._settled_s = self._now_s
        self._target = target

    def _estimate(self, load: FleetLoad, target: int, staying: Sequence[ReplicaState]) -> LoadEstimate:
        usages = [min(positive(state.load.kv_usage), 1.0) for state in staying]
        return LoadEstimate(
            calls_per_s=load.calls_per_s,
            prefill_s_per_s=load.prefill_s_per_s,
            decode_s_per_s=load.decode_s_per_s,
            backlog_s=load.waiting_s(target),
            ttft_s=load.ttft_s(target),
            itl_s=load.itl_s(target),
            kv_usage=statistics.fmean(usages) if usages else 0.0,
            start_s=load.start_s,
        )


class _Answers:
    """What answers take of the fleet's engines, as the replicas last learned it: of their time, and of their room."""

    def __init__(self, slots: float) -> None:
        self.step_s = 0.0
        self.s_per_token = 0.0
        self.slots = slots
        self._kv_share = 0.0

    @property
    def share(self) -> float:
        """Of a replica, that an answer fills while it runs."""
        return max(1 / self.slots, min(self._kv_share / MOST_KV_USAGE, 1.0))

    def learn(self, loads: Sequence[ReplicaLoad]) -> None:
        """Take the medians of those that have answers now; without any, the last ones stay."""
        busy = [load for load in loads if load.running > 0 and positive(load.decode_step_s)]
        if busy:
            self.step_s = statistics.median(positive(load.decode_fixed_s) for load in busy)
            self.s_per_token = statistics.median(_each(load) for load in busy)
            share = sum(min(positive(load.kv_usage), 1.0) for load in busy) / sum(load.running for load in busy)
            self._kv_share += (share - self._kv_share) / KV_READINGS if self._kv_share else share
        slots = [load.max_requests for load in loads if load.max_requests > 0]
        if slots:
            self.slots = statistics.median(slots)


def _ongoing(reading: FleetReading) -> int:
    """Return the calls that wait or run."""
    waiting = sum(max(demand.waiting, 0) for demand in reading.demands)
    return waiting + sum(max(state.load.running, 0) + max(state.load.waiting, 0) for state in reading.replicas)


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
