"""The scaler: targets that follow the load, keep the bounds and do not flap, whatever the readings say."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.base import Demand, FleetReading, Reason, ScalingDecision, ScalingRules
from aloraserve.scaling.objective_scaler import ObjectiveScaler

RULES = ScalingRules(min_replicas=1, max_replicas=40, scale_down_cooldown_s=30, replica_start_s=20)
CALL_S = 0.2
TOKENS_PER_CALL = 100
LOAD = ReplicaLoad(
    running=8, max_requests=64, decode_step_s=0.012, decode_fixed_s=0.01, kv_tokens=100_000, prefill_s_per_token=1e-4
)


def state(name: str, load: ReplicaLoad = LOAD) -> ReplicaState:
    return ReplicaState(name, "1", load=load)


class Fleet:
    """A fleet that does what it is told: replicas that are asked for are there after a while."""

    def __init__(self, rules: ScalingRules, running: int = 1, start_s: float = 10.0) -> None:
        self.scaler = ObjectiveScaler(rules)
        self.time_s = 0.0
        self.running = running
        self.ready_s: list[float] = []
        self.start_s = start_s
        self.calls = 0.0
        self.targets: list[int] = []

    def play(self, seconds: int, calls_per_s: float) -> list[ScalingDecision]:
        return [self.step(calls_per_s) for _ in range(seconds)]

    def step(self, calls_per_s: float) -> ScalingDecision:
        self.time_s += 1
        self.calls += calls_per_s
        self.running += sum(ready_s <= self.time_s for ready_s in self.ready_s)
        self.ready_s = [ready_s for ready_s in self.ready_s if ready_s > self.time_s]
        decision = self.scaler.decide(self.reading())
        current = self.running + len(self.ready_s)
        self.ready_s += [self.time_s + self.start_s] * (decision.target - current)
        if decision.target < current:
            self.ready_s = self.ready_s[: max(0, decision.target - self.running)]
            self.running = min(self.running, decision.target)
        self.targets.append(decision.target)
        return decision

    def reading(self) -> FleetReading:
        demand = Demand(
            "g",
            self.time_s,
            calls=int(self.calls),
            prefill_s=self.calls * CALL_S,
            prefill_squares_s2=self.calls * CALL_S**2,
            answer_tokens=int(self.calls * TOKENS_PER_CALL),
            answers=int(self.calls),
        )
        states = [state(f"r{number}") for number in range(self.running)]
        return FleetReading(self.time_s, self.running, len(self.ready_s), states, [demand])


@settings(max_examples=8, deadline=None)
@given(st.floats(0.1, 100), st.integers(1, 40))
def test_a_constant_load_converges_and_stays(calls_per_s: float, running: int) -> None:
    fleet = Fleet(RULES, running)
    fleet.play(160, calls_per_s)
    assert len(set(fleet.targets[120:])) == 1
    busy = calls_per_s * CALL_S
    assert fleet.running > min(busy, RULES.max_replicas - 1)
    changes = [later - earlier for earlier, later in pairwise(fleet.targets) if later != earlier]
    # Once it falls it does not rise again.
    assert changes == sorted(changes, key=lambda change: change < 0)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.1, 100), st.floats(1.0, 3.0))
def test_more_load_never_needs_fewer(calls_per_s: float, factor: float) -> None:
    less, more = Fleet(RULES), Fleet(RULES)
    less.play(80, calls_per_s)
    more.play(80, calls_per_s * factor)
    assert more.targets[-1] >= less.targets[-1]


def test_a_little_noise_does_not_move_the_target() -> None:
    fleet = Fleet(RULES)
    fleet.play(100, 20)
    settled = fleet.targets[-1]
    for second in range(200):
        fleet.step(20 * (1 + 0.1 * math.sin(second)))
    assert set(fleet.targets[100:]) == {settled}


ODD = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e308]))
LOADS = st.builds(
    ReplicaLoad,
    running=st.integers(-5, 1000),
    waiting=st.integers(-5, 1000),
    kv_usage=ODD,
    max_requests=st.integers(-1, 100),
    queued_prefill_s=ODD,
    decode_step_s=ODD,
    decode_fixed_s=ODD,
    adapter_load_s=ODD,
)
STATES = st.builds(
    ReplicaState,
    replica=st.sampled_from("abcdef"),
    incarnation=st.just("1"),
    load=LOADS,
    is_leaving=st.booleans(),
    saved_s=ODD,
    saved_elsewhere_s=ODD,
)
DEMANDS = st.builds(
    Demand,
    gateway=st.sampled_from("gh"),
    time_s=ODD,
    calls=st.integers(-5, 10**12),
    uncached_tokens=st.integers(-5, 10**12),
    prefill_s=ODD,
    prefill_squares_s2=ODD,
    answer_tokens=st.integers(-5, 10**12),
    answers=st.integers(-5, 10**12),
    waiting=st.integers(-5, 1000),
    held=st.integers(-5, 1000),
)
READINGS = st.builds(
    FleetReading,
    time_s=ODD,
    running=st.integers(0, 60),
    starting=st.integers(0, 10),
    replicas=st.lists(STATES, max_size=6, unique_by=lambda state: state.replica),
    demands=st.lists(DEMANDS, max_size=3),
    is_known=st.booleans(),
    ongoing=st.one_of(st.none(), st.integers(-5, 10**9)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(READINGS, min_size=1, max_size=8), st.integers(0, 5), st.integers(5, 50))
def test_any_reading_gives_a_target_within_the_bounds_and_victims_that_stay(
    readings: list[FleetReading], least: int, most: int
) -> None:
    scaler = ObjectiveScaler(replace(RULES, min_replicas=least, max_replicas=most))
    for reading in readings:
        decision = scaler.decide(reading)
        staying = {state.replica for state in reading.replicas if not state.is_leaving}
        assert least <= decision.target <= most
        assert len(decision.victims) == min(max(reading.running - decision.target, 0), len(staying))
        assert len(set(decision.victims)) == len(decision.victims)
        assert set(decision.victims) <= staying


def test_without_directory_and_counts_everything_stays() -> None:
    fleet = Fleet(RULES)
    fleet.play(100, 20)
    running = fleet.running
    for second in range(200):
        decision = fleet.scaler.decide(FleetReading(fleet.time_s + second, running, is_known=False))
        assert (decision.target, decision.reason) == (running, Reason.UNKNOWN)


@pytest.mark.parametrize(("ongoing", "target"), [(0, 1), (16, 2), (100, 9)])
def test_without_a_directory_the_counts_decide(ongoing: int, target: int) -> None:
    scaler = ObjectiveScaler(RULES)
    for second in range(100):
        decision = scaler.decide(FleetReading(float(second), 4, is_known=False, ongoing=ongoing))
    assert (decision.target, decision.reason) == (target, Reason.COUNTS)


def test_held_calls_bring_the_first_replica() -> None:
    scaler = ObjectiveScaler(replace(RULES, min_replicas=0))
    demand = Demand("g", 0.0, waiting=3, held=3)
    decision = scaler.decide(FleetReading(0.0, 0, demands=[demand]))
    assert (decision.target, decision.reason) == (1, Reason.HELD)


def test_an_idle_fleet_ends_only_where_none_is_allowed() -> None:
    for least, reason in ((0, Reason.IDLE), (1, Reason.MIN_REPLICAS)):
        scaler = ObjectiveScaler(replace(RULES, min_replicas=least, idle_timeout_s=120))
        idle = state("r", ReplicaLoad())
        found = [scaler.decide(FleetReading(float(second), 1, replicas=[idle])) for second in range(130)]
        assert found[119].target == 1
        assert (found[-1].target, found[-1].reason) == (least, reason)


def test_a_fleet_that_never_had_a_call_starts_none_where_none_is_allowed() -> None:
    for least in (0, 1):
        scaler = ObjectiveScaler(replace(RULES, min_replicas=least))
        found = [scaler.decide(FleetReading(float(second), 0, demands=[Demand("g", second)])) for second in range(30)]
        assert {decision.target for decision in found} == {least}
        held = FleetReading(31.0, 0, demands=[Demand("g", 31.0, waiting=1, held=1)])
        assert scaler.decide(held).target == 1
        # Its client has gone; what starts may well be asked for again.
        assert scaler.decide(FleetReading(32.0, 0, demands=[Demand("g", 32.0)])).target == 1


def test_a_fleet_is_idle_a_while_after_its_last_call_however_many_came_before() -> None:
    scaler = ObjectiveScaler(replace(RULES, min_replicas=0, idle_timeout_s=5))
    targets = []
    for second in range(40):
        calls = 10 * min(second, 20)
        tokens = calls * TOKENS_PER_CALL
        demand = Demand("g", second, calls, prefill_s=calls * CALL_S, answer_tokens=tokens, answers=calls)
        idle = state("r", ReplicaLoad())
        targets.append(scaler.decide(FleetReading(float(second), 2, demands=[demand], replicas=[idle])).target)
    assert min(targets[:25]) >= 1
    assert targets[25:] == [0] * 15


def test_an_increase_waits_for_its_cool_down_and_a_decrease_for_its_own() -> None:
    fleet = Fleet(replace(RULES, scale_up_cooldown_s=15))
    decisions = fleet.play(60, 10) + fleet.play(200, 50)
    raised = [at for at in range(1, len(decisions)) if decisions[at].target > decisions[at - 1].target]
    assert len(raised) > 1
    assert min(later - earlier for earlier, later in pairwise(raised)) >= 15
    assert Reason.COOL_DOWN in {decision.reason for decision in decisions}
    before = fleet.targets[-1]
    fleet.play(29, 1)
    assert fleet.targets[-1] == before
    fleet.play(120, 1)
    assert fleet.targets[-1] < before


def test_a_fleet_is_idle_from_the_end_of_its_last_call_on() -> None:
    """Not from when it came: it may have been held for the first replica, or have taken longer than the timeout."""
    scaler = ObjectiveScaler(replace(RULES, min_replicas=0, idle_timeout_s=120))
    for second in range(300):
        scaler.decide(FleetReading(float(second), 1, replicas=[state("r", ReplicaLoad(running=1))]))
    over = [
        scaler.decide(FleetReading(300.0 + second, 1, replicas=[state("r", ReplicaLoad())])) for second in range(130)
    ]
    targets = [decision.target for decision in over]
    assert targets[:110] == [1] * 110
    assert targets[-1] == 0


@pytest.mark.parametrize(
    ("least", "most", "wanted", "reason"), [(0, 3, 3, Reason.MAX_REPLICAS), (6, 20, 6, Reason.MIN_REPLICAS)]
)
def test_bounds_of_a_reading_hold_in_place_of_the_rules(least: int, most: int, wanted: int, reason: Reason) -> None:
    """Serve moves them during an incremental upgrade; who leaves is chosen for the number that there will be."""
    scaler = ObjectiveScaler(replace(RULES, min_replicas=4, max_replicas=5, scale_up_cooldown_s=0))
    states = [state(name) for name in "abcde"]
    decision = scaler.decide(
        FleetReading(0.0, 5, replicas=states, ongoing=None, is_known=False, least=least, most=most)
    )
    assert (decision.target, decision.reason) == (wanted, reason)
    assert len(decision.victims) == max(5 - wanted, 0)


def test_a_fleet_that_serve_takes_to_nothing_has_no_replica() -> None:
    assert ObjectiveScaler(RULES).decide(FleetReading(0.0, 2, least=0, most=0)).target == 0
