"""A round of the autoscaler, with a directory and a board in memory and a scaler that does as the test says."""

from __future__ import annotations

import json
import math

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.scaling.base import Demand, FleetReading, LoadEstimate, Reason, ScalingDecision
from aloraserve.scaling.board import ScalingRecord
from aloraserve.scaling.memory import MemoryBoard
from aloraserve_services.autoscaler.decider import Decider, _logged
from aloraserve_services.autoscaler.departures import Departures
from aloraserve_services.autoscaler.fleet_reader import LATELY_S, FleetReader
from aloraserve_services.autoscaler.metrics import ScalingMetrics
from aloraserve_services.autoscaler.serve_view import ServeView


class Scripted:
    """A scaler that decides what it is told."""

    def __init__(self) -> None:
        self.next = ScalingDecision(2, Reason.TTFT, 2)
        self.readings: list[FleetReading] = []

    def decide(self, reading: FleetReading) -> ScalingDecision:
        self.readings.append(reading)
        return self.next


class MoodyBoard(MemoryBoard):
    """Out of reach on demand."""

    is_gone = False

    async def demands(self) -> list[Demand]:
        self._answer()
        return await super().demands()

    async def record(self, record: ScalingRecord, *, is_change: bool) -> None:
        self._answer()
        await super().record(record, is_change=is_change)

    def _answer(self) -> None:
        if self.is_gone:
            raise DirectoryUnavailableError("gone")


class Fleet:
    """What a decider has around it."""

    def __init__(self, *, has_seam: bool = True) -> None:
        self.now = 100.0
        self.directory, self.board, self.scaler = MemoryDirectory(), MoodyBoard(), Scripted()
        self.registry = CollectorRegistry()
        self.metrics = ScalingMetrics(self.registry)
        self.departures = Departures([self.directory])
        reader = FleetReader(
            [self.directory], self.board, self.metrics.failures.labels("reading").inc, clock=lambda: self.now
        )
        self.decider = Decider(
            reader,
            self.scaler,
            self.departures,
            self.board,
            self.metrics,
            has_seam=has_seam,
            clock=lambda: self.now,
            date=lambda: 7.0,
        )

    async def decide(self, *running: str, target: int | None = None, ongoing: int | None = None) -> int:
        view = ServeView(self.now, dict.fromkeys(running, ""), len(running) if target is None else target, ongoing)
        return await self.decider.decide(view)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def fleet() -> Fleet:
    return await peopled(Fleet())


async def peopled(made: Fleet) -> Fleet:
    for replica in "abc":
        await made.directory.publish(ReplicaState(replica, "1", label=f"engine-{replica}"), ttl_s=600)
    await made.board.publish(Demand("gateway", 1.0, calls=5))
    return made


async def test_a_scaler_sees_serve_s_replicas_with_what_the_directory_says_of_them(fleet: Fleet) -> None:
    await fleet.decide("a", "b", "new", target=5, ongoing=9)
    [reading] = fleet.scaler.readings
    assert (reading.running, reading.starting, reading.current) == (3, 2, 5)
    assert [state.replica for state in reading.replicas] == ["a", "b"], "c is being stopped for another reason"
    assert [demand.calls for demand in reading.demands] == [5]
    assert (reading.is_known, reading.ongoing) == (True, 9)


async def test_victims_are_marked_before_serve_is_told_and_are_no_running_ones(fleet: Fleet) -> None:
    fleet.scaler.next = ScalingDecision(2, Reason.TTFT, 2, victims=("b",))
    assert await fleet.decide("a", "b", "c") == 2
    assert [state.is_leaving for state in await fleet.directory.states()] == [False, True, False]
    fleet.scaler.next = ScalingDecision(2, Reason.TTFT, 2)
    await fleet.decide("a", "b", "c", target=2)
    reading = fleet.scaler.readings[-1]
    assert (reading.running, reading.starting) == (2, 0)
    assert fleet.departures.chosen == ("b",)


async def test_where_serve_chooses_it_is_those_that_it_stops_that_are_marked() -> None:
    fleet = await peopled(Fleet(has_seam=False))
    fleet.scaler.next = ScalingDecision(2, Reason.TTFT, 2, victims=("b",))
    assert await fleet.decide("a", "b", "c") == 2
    assert [state.is_leaving for state in await fleet.directory.states()] == [False, False, False]
    fleet.scaler.next = ScalingDecision(2, Reason.TTFT, 2)
    await fleet.decide("a", "b", target=2)
    assert [state.is_leaving for state in await fleet.directory.states()] == [False, False, True], "Serve stops c"
    history = await fleet.board.history()
    assert history.changes[0].labels == (), "b stays"


async def test_serve_s_bounds_of_the_moment_and_its_gateways_reach_the_scaler(fleet: Fleet) -> None:
    await fleet.decider.decide(ServeView(fleet.now, {"a": ""}, 1, None, 1, 4, 2))
    [reading] = fleet.scaler.readings
    assert (reading.least, reading.most) == (1, 4)
    assert (reading.gateways, reading.is_whole) == (2, False)


async def test_a_log_line_is_json_whatever_is_expected() -> None:
    endless = LoadEstimate(ttft_s=math.inf, backlog_s=math.nan, prefill_s_per_s=1.25)
    logged = _logged(ScalingDecision(1, Reason.TTFT, 2, endless))
    json.dumps(logged, allow_nan=False)
    assert (logged["expected_ttft_s"], logged["backlog_s"], logged["prefill_s_per_s"]) == (None, None, 1.25)


async def test_the_old_ones_of_an_update_are_serve_s_to_stop(fleet: Fleet) -> None:
    """While old and new replicas run at a time there are more than were asked for, and none is to leave for that."""
    await fleet.decide("a", "b", target=2)
    await fleet.decide("a", "b", "new-1", "new-2", target=2)
    assert [reading.running for reading in fleet.scaler.readings] == [2, 2]


async def test_changes_are_kept_and_counted_and_the_latest_is_shown(fleet: Fleet) -> None:
    await fleet.decide("a", "b", "c")
    fleet.scaler.next = ScalingDecision(1, Reason.TTFT, 1, victims=("b",))
    await fleet.decide("a", "b", target=2)
    fleet.scaler.next = ScalingDecision(1, Reason.COOL_DOWN, 1)
    await fleet.decide("a", target=1)
    history = await fleet.board.history()
    assert [(change.decision.target, change.labels) for change in history.changes] == [(1, ("engine-b",)), (2, ())]
    assert [change.before for change in history.changes] == [2, 3]
    assert history.latest is not None
    assert (history.latest.decision.reason, history.latest.at_s) == (Reason.COOL_DOWN, 7.0)
    assert fleet.count("aloraserve_scaling_changes_total", direction="down", reason="ttft") == 2
    assert fleet.count("aloraserve_scaling_replicas", state="target") == 1
    assert fleet.count("aloraserve_scaling_reason", reason="cool-down") == 1
    assert fleet.count("aloraserve_scaling_reason", reason="ttft") == 0


async def test_without_redis_what_was_read_counts_for_a_while_and_then_serve_s_counts(fleet: Fleet) -> None:
    await fleet.decide("a")
    fleet.board.is_gone = True
    await fleet.decide("a", ongoing=4)
    assert fleet.scaler.readings[-1].is_known, "one reading that fails is no outage"
    fleet.now += LATELY_S + 1
    assert await fleet.decide("a", ongoing=4) == 2, "it decides all the same"
    reading = fleet.scaler.readings[-1]
    assert (reading.is_known, reading.ongoing, list(reading.replicas), list(reading.demands)) == (False, 4, [], [])
    assert fleet.count("aloraserve_scaling_failures_total", part="reading") == 2
    assert fleet.count("aloraserve_scaling_failures_total", part="recording") == 2
    assert fleet.count("aloraserve_scaling_directory_known") == 0
