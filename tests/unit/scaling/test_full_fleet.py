"""A fleet whose engines are full: the scaler sees what arrives, not what runs, and what waits."""

from __future__ import annotations

import math
from collections import deque

import pytest

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.base import Demand, FleetReading, Reason, ScalingDecision, ScalingRules
from aloraserve.scaling.objective_scaler import ObjectiveScaler
from aloraserve.scaling.staffing import MOST_KV_USAGE

SLOTS = 16
WAITING_ROOM = 4
"""Calls that an engine accepts, by those that it runs at once."""
STEP_S = 0.05
TOKENS = 200
ANSWER_S = STEP_S * TOKENS
PREFILL_S = 0.02
START_S = 30.0
RULES = ScalingRules(1, 100, itl_objective_s=0.1, scale_down_cooldown_s=60, max_requests=SLOTS)


class FullFleet:
    """Engines that run a limited number of answers, each for as long, and refuse beyond their waiting rooms.

    What they refuse waits in the gateway, which goes on asking. It has an estimate of a call's prefill where there is a
    replica.
    """

    def __init__(self, rules: ScalingRules = RULES, running: int = 1, kv_share: float = 0.0) -> None:
        self.scaler = ObjectiveScaler(rules)
        self.time_s = 0.0
        self.kv_share = kv_share
        self.ends: list[deque[float]] = [deque() for _ in range(running)]
        self.queues = [0] * running
        self.ready_s: list[float] = []
        self.waiting = 0
        self.calls = self.unestimated = self.answers = self.tokens = 0
        self.due = 0.0
        self.sizes: list[int] = []

    def play(self, seconds: int, calls_per_s: float) -> list[ScalingDecision]:
        return [self.step(calls_per_s) for _ in range(seconds)]

    def arrive(self, calls: int) -> None:
        self.waiting += calls
        self.calls += calls
        self.unestimated += 0 if self.ends else calls

    def step(self, calls_per_s: float) -> ScalingDecision:
        self.time_s += 1
        self.due += calls_per_s
        new, self.due = int(self.due), self.due % 1
        self.arrive(new)
        came = sum(ready_s <= self.time_s for ready_s in self.ready_s)
        self.ready_s = self.ready_s[came:]
        self.ends += [deque() for _ in range(came)]
        self.queues += [0] * came
        self._work()
        decision = self.scaler.decide(self.reading())
        self._follow(decision.target)
        self.sizes.append(decision.target)
        return decision

    def reading(self) -> FleetReading:
        demand = Demand(
            "g",
            self.time_s,
            calls=self.calls,
            prefill_s=(self.calls - self.unestimated) * PREFILL_S,
            prefill_squares_s2=(self.calls - self.unestimated) * PREFILL_S**2,
            answer_tokens=self.tokens,
            answers=self.answers,
            waiting=self.waiting,
            held=0 if self.ends else self.waiting,
            unestimated=self.unestimated,
            ended_tokens=self.answers * TOKENS,
        )
        states = [
            ReplicaState(f"r{number}", "1", load=self._load(len(ends), queued))
            for number, (ends, queued) in enumerate(zip(self.ends, self.queues, strict=True))
        ]
        return FleetReading(self.time_s, len(self.ends), len(self.ready_s), states, [demand])

    def _load(self, running: int, queued: int) -> ReplicaLoad:
        return ReplicaLoad(
            running=running,
            waiting=queued,
            kv_usage=min(running * max(self.kv_share, 0.01), 1.0),
            max_requests=self.slots * 4 if self.kv_share else SLOTS,
            queued_prefill_s=queued * PREFILL_S,
            decode_step_s=STEP_S if running else 0.0,
            decode_fixed_s=0.95 * STEP_S,
        )

    @property
    def slots(self) -> int:
        return int(1 / self.kv_share) if self.kv_share else SLOTS

    def _work(self) -> None:
        for ends in self.ends:
            while ends and ends[0] <= self.time_s:
                ends.popleft()
                self.answers += 1
        for number, ends in sorted(enumerate(self.ends), key=lambda place: len(place[1]) + self.queues[place[0]]):
            room = WAITING_ROOM * self.slots - len(ends) - self.queues[number]
            taken = min(room, math.ceil(self.waiting / len(self.ends)))
            self.waiting -= taken
            begin = min(self.slots - len(ends), self.queues[number] + taken)
            self.queues[number] += taken - begin
            ends.extend([self.time_s + ANSWER_S] * begin)
        self.tokens += sum(map(len, self.ends)) * int(TOKENS / ANSWER_S)

    def _follow(self, target: int) -> None:
        current = len(self.ends) + len(self.ready_s)
        self.ready_s += [self.time_s + START_S] * (target - current)
        self.ready_s = self.ready_s[: max(target - len(self.ends), 0)]
        for gone, queued in zip(self.ends[target:], self.queues[target:], strict=True):
            self.waiting += len(gone) + queued
        del self.ends[target:], self.queues[target:]


@pytest.mark.parametrize(("kv_share", "usable"), [(0.0, 1.0), (1 / 16, MOST_KV_USAGE)], ids=["requests", "kv-cache"])
def test_a_full_fleet_gets_as_many_as_arrivals_need_within_a_few_start_ups(kv_share: float, usable: float) -> None:
    fleet = FullFleet(kv_share=kv_share)
    calls_per_s = 20
    need = math.ceil(calls_per_s * ANSWER_S / SLOTS / usable)
    fleet.play(int(3 * START_S), calls_per_s)
    assert len(fleet.ends) >= need
    fleet.play(50, calls_per_s)
    assert fleet.waiting + sum(fleet.queues) < calls_per_s, "what one start-up left behind is done"
    fleet.play(550, calls_per_s)
    assert need <= fleet.sizes[-1]
    assert max(fleet.sizes) <= need * 4 / 3
    assert fleet.waiting < calls_per_s
    assert sum(fleet.queues) == 0


def test_a_fleet_that_is_full_shows_what_waits_with_its_answers() -> None:
    fleet = FullFleet(RULES, running=1)
    decisions = fleet.play(25, 20)
    behind = fleet.waiting + sum(fleet.queues)
    assert behind > 300
    assert decisions[-1].estimate.backlog_s == pytest.approx(behind * ANSWER_S / SLOTS, rel=0.3)
    assert decisions[-1].estimate.ttft_s > 5


def test_from_zero_a_crowd_starts_as_many_as_its_calls_need() -> None:
    fleet = FullFleet(ScalingRules(0, 1000, max_requests=SLOTS), running=0)
    fleet.arrive(2000)
    decision = fleet.step(0)
    assert (decision.target, decision.reason) == (math.ceil(2000 / (0.7 * SLOTS)), Reason.HELD)


def test_calls_that_were_held_leave_what_a_call_is_like_to_those_with_an_estimate() -> None:
    fleet = FullFleet(ScalingRules(0, 60, max_requests=SLOTS), running=0)
    fleet.arrive(500)
    fleet.play(int(START_S) + 1, 0)
    decisions = fleet.play(100, 20)
    assert decisions[-1].estimate.prefill_s_per_s == pytest.approx(20 * PREFILL_S, rel=0.2)


def quiet(time_s: float, *, gateways: int, reporting: int, ongoing: int | None) -> FleetReading:
    busy = ReplicaLoad(running=8, max_requests=SLOTS, decode_step_s=STEP_S, decode_fixed_s=0.9 * STEP_S)
    states = [ReplicaState(f"r{number}", "1", load=busy) for number in range(8)]
    demands = [Demand(f"g{number}", time_s) for number in range(reporting)]
    return FleetReading(time_s, 8, replicas=states, demands=demands, gateways=gateways, ongoing=ongoing)


@pytest.mark.parametrize(
    ("ongoing", "target", "reason"), [(None, 8, Reason.UNKNOWN), (1, 8, Reason.COUNTS), (160, 15, Reason.COUNTS)]
)
@pytest.mark.parametrize("reporting", [0, 1])
def test_where_gateways_say_nothing_counts_decide_and_none_leaves(
    reporting: int, ongoing: int | None, target: int, reason: Reason
) -> None:
    scaler = ObjectiveScaler(RULES)
    for second in range(400):
        decision = scaler.decide(quiet(float(second), gateways=2, reporting=reporting, ongoing=ongoing))
        assert decision.target >= 8
    assert (decision.target, decision.reason) == (target, reason)


def test_a_gateway_that_has_just_started_changes_nothing() -> None:
    scaler = ObjectiveScaler(RULES)
    for second in range(60):
        scaler.decide(quiet(float(second), gateways=1, reporting=1, ongoing=500))
    targets = [scaler.decide(quiet(60.0 + at, gateways=2, reporting=1, ongoing=500)).target for at in range(5)]
    assert set(targets) == {8}
