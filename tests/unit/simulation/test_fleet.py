"""Whole runs: the same seed gives the same run, bounds are bounds, and faults lose no call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import SettingsError
from aloraserve.simulation.base import RouterFactory, RunContext, SimulatedCall, VisibleFleet
from aloraserve.simulation.bounds import one_cache, rate_scale_at, work
from aloraserve.simulation.faults import parse_faults
from aloraserve.simulation.fleet import CallRecord, FleetSettings, ModelledFleet, RunResult
from aloraserve.simulation.platform_router import PlatformRouter
from aloraserve.simulation.router_names import router_factory, router_names
from aloraserve.simulation.simulated_loop import SimulatedLoop
from aloraserve.simulation.summary import Bounds, summarize
from aloraserve.simulation.trace import ID_TOKENS, GeneratedTrace, TraceRow
from aloraserve.simulation.workload import Workload, WorkloadSettings

H100 = load("h100-llama-3.1-8b")
ROWS = GeneratedTrace(conversations_per_s=0.6).rows(60, 0)
SYSTEM_PROMPT = tuple(range(10**6, 10**6 + 5))
WITH_SYSTEM_PROMPT = [
    replace(row, input_tokens=row.input_tokens + 5 * ID_TOKENS, ids=SYSTEM_PROMPT + row.ids) for row in ROWS
]
WORKLOAD = WorkloadSettings(block_tokens=128)
FLEET = FleetSettings(H100, replicas=3, kv_tokens=60_000)


def run(
    policy: str = "expected-ttft",
    *faults: str,
    fleet: FleetSettings = FLEET,
    settings: WorkloadSettings = WORKLOAD,
    rows: Sequence[TraceRow] = ROWS,
) -> RunResult:
    fleet = replace(fleet, faults=parse_faults(faults, fleet.replicas))
    return ModelledFleet(fleet, Workload(rows, settings), router_factory(policy)).run()


def hit_rate(result: RunResult) -> float:
    return sum(one.cached_tokens for one in result.records) / sum(one.prompt_tokens for one in result.records)


def ttft_p90_s(result: RunResult) -> float:
    return sorted(one.ttft_s for one in result.records)[int(len(result.records) * 0.9)]


@pytest.mark.parametrize("policy", router_names())
def test_every_router_answers_every_call_and_is_its_seeds(policy: str) -> None:
    first, second = run(policy), run(policy)
    assert len(first.records) == 60 * 4
    assert all(one.ttft_s > 0 and one.e2e_s >= one.ttft_s for one in first.records)
    assert sum(first.requests) == 240
    assert first.records == second.records


def test_hits_stay_below_one_infinite_cache_and_affinity_beats_none() -> None:
    workload = Workload(ROWS, WORKLOAD)
    oracle = one_cache(workload, H100, None).hit_rate
    pooled = one_cache(workload, H100, 3 * 60_000).hit_rate
    ours, spread = hit_rate(run()), hit_rate(run("round-robin"))
    assert spread < ours <= oracle
    assert pooled <= oracle


def test_one_replica_has_what_one_cache_of_its_size_has() -> None:
    lone = FleetSettings(H100, replicas=1, kv_tokens=10_000_000)
    slow = replace(WORKLOAD, rate_scale=0.05)
    assert hit_rate(run(fleet=lone, settings=slow)) == pytest.approx(
        one_cache(Workload(ROWS, slow), H100, None).hit_rate
    )


def test_load_is_a_share_of_what_the_fleet_can_do() -> None:
    workload = Workload(ROWS, WORKLOAD)
    bound = one_cache(workload, H100, 180_000)
    span_s = ROWS[-1].arrival_s - ROWS[0].arrival_s
    scale = rate_scale_at(0.5, bound, workload, 3)
    assert bound.work_s / (3 * span_s / scale) == pytest.approx(0.5)
    with pytest.raises(SettingsError, match="load is 0"):
        rate_scale_at(0.0, bound, workload, 3)


def test_a_calls_work_is_its_prefill_and_its_share_of_the_steps() -> None:
    call = next(Workload(ROWS, WORKLOAD).base_calls())
    call.prompt_tokens, call.output_tokens = 1000, 3
    expected = 0.00575 * 600 / 8192 + 600 * 2.32e-5 + 8.7e-10 * (1000**2 - 400**2) / 2
    expected += 2 * 6.0e-6 + (1001 + 1002) * 3.9e-8
    assert work(call, 400, H100) == pytest.approx(expected)


def test_calls_of_a_killed_replica_are_answered_by_others() -> None:
    result = run("expected-ttft", "kill:2@20", "restart:2@60")
    answered = [one for one in result.records if one.e2e_s < math.inf]
    assert len(result.records) - len(answered) == result.cut
    assert result.cut + result.resent > 0
    # A base call that was cut has no evaluators; everything else is there.
    answered_turns = sum(one.kind == "base" for one in answered)
    assert sum(one.kind == "base" for one in result.records) == 60
    assert len(result.records) == 60 + 3 * answered_turns


def test_a_dead_replica_gets_nothing_until_it_is_back() -> None:
    sent: list[tuple[float, int]] = []

    class Watched(PlatformRouter):
        async def place(self, call: SimulatedCall) -> int:
            index = await super().place(call)
            sent.append((self._loop.now_s, index))
            return index

    def make(context: RunContext) -> Watched:
        return Watched("expected-ttft", context)

    fleet = replace(FLEET, faults=parse_faults(["kill:0@20", "restart:0@60"], 3))
    ModelledFleet(fleet, Workload(ROWS, WORKLOAD), make).run()
    assert not [at for at, index in sent if index == 0 and 20 < at < 60]
    assert [at for at, index in sent if index == 0 and at > 60]


def test_with_nobody_alive_calls_wait_for_a_restart() -> None:
    lone = FleetSettings(H100, replicas=1, kv_tokens=200_000)
    result = run("session-hash", "kill:0@20", "restart:0@40", fleet=lone)
    assert len([one for one in result.records if one.e2e_s < math.inf]) == len(result.records) - result.cut
    stopped = run("session-hash", "kill:0@20", fleet=lone)
    unanswered = [one for one in stopped.records if math.isinf(one.e2e_s)]
    assert len(unanswered) >= sum(row.arrival_s > 20 for row in ROWS)


@pytest.mark.parametrize("gateways", [1, 4])
def test_without_the_directory_calls_are_answered_by_the_fallback(gateways: int) -> None:
    """Conversations with one system prompt spread over the fleet, and stay where they are."""
    fleet = replace(FLEET, gateways=gateways)
    there = run(fleet=fleet, rows=WITH_SYSTEM_PROMPT)
    out = run("expected-ttft", "redis-outage@1-10000", fleet=fleet, rows=WITH_SYSTEM_PROMPT)
    assert out.fallbacks > 230
    assert len([one for one in out.records if one.e2e_s < math.inf]) == 240
    assert max(out.requests) <= 2 * sum(out.requests) / len(out.requests), "208 of 240 before"
    assert ttft_p90_s(out) <= 3 * ttft_p90_s(there), "16 times before"
    assert hit_rate(out) > 0.9 * hit_rate(there)


@pytest.mark.parametrize(
    "faults",
    [
        ["redis-outage@20-25"],
        ["redis-outage@20-20.2"],
        ["redis-delay:0.02@20-25"],
        ["event-delay:5@50-60"],
        ["event-loss:0.3@20-70"],
        ["kill:0@20", "restart:0@30"],
    ],
    ids=lambda faults: faults[0],
)
def test_after_a_fault_the_directory_is_right_again(faults: list[str]) -> None:
    routers: list[PlatformRouter] = []

    def make(context: RunContext) -> PlatformRouter:
        routers.append(PlatformRouter("expected-ttft", context))
        return routers[-1]

    fleet = replace(FLEET, faults=parse_faults(faults, 3))
    modelled = ModelledFleet(fleet, Workload(ROWS, WORKLOAD), make)
    modelled.run()
    checked = 0
    for turn, row in enumerate(ROWS):
        keys = next(Workload(ROWS[turn : turn + 1], WORKLOAD).base_calls()).keys
        assert len(keys) == row.input_tokens // 128
        found = asyncio.run(routers[0].directory.lookup(keys))
        for replica, candidate in zip(modelled.replicas, found, strict=True):
            assert candidate.held_blocks == replica.engine.cache.match(keys)
            checked += candidate.held_blocks > 0
    assert checked > 10


@pytest.mark.parametrize("fault", ["event-delay:2", "event-loss:0.5"])
def test_late_and_lost_events_cost_hits_at_most(fault: str) -> None:
    result, undisturbed = run("longest-prefix", fault), run("longest-prefix")
    assert len([one for one in result.records if one.e2e_s < math.inf]) == 240
    assert hit_rate(result) > 0.95 * hit_rate(undisturbed), "events that were lost come again"


def test_no_claim_is_open_once_all_calls_ended() -> None:
    routers: list[PlatformRouter] = []

    def make(context: RunContext) -> PlatformRouter:
        routers.append(PlatformRouter("expected-ttft", context))
        return routers[-1]

    ModelledFleet(FLEET, Workload(ROWS, WORKLOAD), make).run()
    found = asyncio.run(routers[0].directory.lookup([]))
    assert [(candidate.claims, candidate.claimed_tokens) for candidate in found] == [(0, 0)] * 3


def test_a_call_that_no_replica_has_room_for_is_refused_before_the_run() -> None:
    with pytest.raises(SettingsError, match="kv_tokens is 2000; the workload's longest call needs"):
        run(fleet=FleetSettings(H100, replicas=1, kv_tokens=2000))
    with pytest.raises(SettingsError, match="replicas is 0"):
        FleetSettings(H100, replicas=0)
    with pytest.raises(SettingsError, match="gateways is 0; 1 to 100 are accepted"):
        FleetSettings(H100, gateways=0)


def test_a_summary_counts_what_was_not_answered() -> None:
    workload = Workload(ROWS, WORKLOAD)
    bounds = Bounds(one_cache(workload, H100, None), one_cache(workload, H100, 180_000))
    result = run("expected-ttft", "kill:0@20")
    figures = summarize(result, bounds, 1.0)
    assert figures["failed"] == result.cut
    assert figures["ttft_p50_s"] <= figures["ttft_p90_s"] <= figures["ttft_p99_s"]
    assert figures["imbalance"] >= 1.0


def cold_p90_and_p99(*calls: tuple[int, float]) -> list[float]:
    """Summarize calls of 100 tokens, each with its cached tokens and its TTFT; the fleet has one replica."""
    records = [CallRecord("base", 100, cached, ttft_s, ttft_s, 0) for cached, ttft_s in calls]
    bounds = one_cache(Workload(ROWS[:1], WORKLOAD), H100, None)
    figures = summarize(RunResult("any", records, [len(records)]), Bounds(bounds, bounds), 1.0)
    return [figures["cold_ttft_p90_s"], figures["cold_ttft_p99_s"]]


def test_cold_calls_are_those_of_which_less_than_half_was_cached() -> None:
    assert cold_p90_and_p99((49, 1.0), (50, 2.0), (100, 3.0)) == [1.0, 1.0]
    assert cold_p90_and_p99(*((0, float(n)) for n in range(1, 101)), (99, 1000.0)) == [90.0, 99.0]


def test_cold_calls_without_an_answer_are_not_timed() -> None:
    assert cold_p90_and_p99((0, 1.0), (0, math.inf)) == [1.0, 1.0]


def test_without_cold_calls_their_figures_are_missing() -> None:
    assert all(math.isnan(one) for one in cold_p90_and_p99((50, 1.0), (99, 2.0)))


def test_factories_make_what_they_are_named_for() -> None:
    context = RunContext(0, VisibleFleet([], [], 16), SimulatedLoop())
    makers: dict[str, RouterFactory] = {name: router_factory(name) for name in router_names()}
    assert {name: make(context).name for name, make in makers.items()} == {name: name for name in makers}
