"""The platform's router in simulated time: claims, leases, generations and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from aloraserve.directory.base import Candidate, Holding, ReplicaLoad, place
from aloraserve.simulation.base import (
    KvBatch,
    KvEvent,
    ReplicaObserver,
    ReplicaView,
    RunContext,
    SimulatedCall,
    VisibleFleet,
)
from aloraserve.simulation.faults import parse_faults
from aloraserve.simulation.platform_router import WAITING_ROOM, PlatformRouter
from aloraserve.simulation.simulated_loop import SimulatedLoop

MakeCall = Callable[..., SimulatedCall]
LOAD = ReplicaLoad(prefill_s_per_token=0.001, max_requests=8)


class Replica:
    """A replica without an engine."""

    def __init__(self, index: int) -> None:
        self.view = ReplicaView(index, 100, 8, 2)
        self.lost: list[KvBatch] = []

    def load(self) -> ReplicaLoad:
        return LOAD

    def resident(self) -> tuple[str, ...]:
        return ()

    def active_adapters(self) -> tuple[str, ...]:
        return ()

    def replay(self, first: int, end: int) -> Sequence[KvBatch]:
        return [batch for batch in self.lost if first <= batch.sequence < end]


class Fleet:
    """Replicas that a router watches."""

    def __init__(self, policy: str = "expected-ttft", *faults: str, count: int = 3, gateways: int = 1) -> None:
        self.loop = SimulatedLoop()
        self.replicas = [Replica(index) for index in range(count)]
        visible = VisibleFleet([replica.view for replica in self.replicas], list(range(count)), 16)
        self.router = PlatformRouter(policy, RunContext(0, visible, self.loop, parse_faults(faults, count), gateways))
        self.observers: list[ReplicaObserver] = [self.router.watch(replica) for replica in self.replicas]
        self._sequences = [0] * count
        self.until(0.1)

    def until(self, time_s: float) -> None:
        self.loop.at(time_s, self.loop.stop)
        self.loop.run()

    def place(self, call: SimulatedCall) -> int:
        return self._result(self.router.place(call))

    def lose(self, call: SimulatedCall, replica: int) -> None:
        self._result(self.router.lost(call, replica))

    def hold(
        self, replica: int, stored: Sequence[Holding], removed: Sequence[bytes] = (), *, lost: bool = False
    ) -> None:
        batch = KvBatch(self._sequences[replica], [KvEvent(stored, removed)])
        self._sequences[replica] += 1
        if lost:
            self.replicas[replica].lost.append(batch)
        else:
            self.observers[replica].arrived(batch)
        self.until(self.loop.now_s)

    def found(self, call: SimulatedCall) -> list[Candidate]:
        return asyncio.run(self.router.directory.lookup(call.keys))

    def held(self, call: SimulatedCall) -> list[int]:
        return [candidate.held_blocks for candidate in self.found(call)]

    def claims(self, call: SimulatedCall) -> list[int]:
        return [candidate.claims for candidate in self.found(call)]

    def _result(self, work):  # type: ignore[no-untyped-def]
        task = self.loop.spawn(work)
        task.add_done_callback(lambda _: self.loop.stop())
        self.loop.run()
        return task.result()


def test_a_prefix_is_found_where_it_is_held(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    fleet.hold(2, place(call.keys))
    assert fleet.held(call) == [0, 0, 10]
    assert fleet.place(call) == 2


def test_a_burst_on_a_new_prefix_stays_together_by_its_claims(make_call: MakeCall) -> None:
    fleet = Fleet()
    assert len({fleet.place(make_call(160)) for _ in range(3)}) == 1
    assert len({fleet.place(make_call(160, stream=n)) for n in range(1, 4)}) > 1


def test_several_gateways_know_of_each_other_by_the_directory_alone(make_call: MakeCall) -> None:
    fleet = Fleet(gateways=2)
    assert len({fleet.place(make_call(160)) for _ in range(2)}) == 1, "the second saw the first one's claim"
    cut_off = Fleet("expected-ttft", "redis-outage@0-1000", gateways=2)
    prompt_tokens = 100_000
    placed = [cut_off.place(make_call(prompt_tokens)) for _ in range(12)]
    assert placed[0::2] == placed[1::2], "each counts its own"
    assert len(set(placed)) > 1


def test_a_claim_is_settled_by_the_report_after_its_call_arrived(make_call: MakeCall) -> None:
    fleet, call = Fleet(count=1), make_call(160)
    fleet.place(call)
    fleet.until(1.0)
    assert fleet.claims(call) == [1], "the call is not there yet"
    fleet.observers[0].accepted(call)
    fleet.until(1.2)
    (candidate,) = fleet.found(call)
    assert (candidate.claims, candidate.claimed_blocks) == (0, 10)


def test_the_claim_of_a_call_that_is_lost_is_withdrawn(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    index = fleet.place(call)
    assert sum(fleet.claims(call)) == 1
    fleet.lose(call, index)
    assert fleet.claims(call) == [0, 0, 0]


def test_a_call_that_a_full_replica_does_not_take_moves_with_its_claim(make_call: MakeCall) -> None:
    fleet, call = Fleet(count=2), make_call(160)
    fleet.hold(1, place(call.keys[:9]))
    view = fleet.replicas[1].view
    view.in_flight = WAITING_ROOM * view.max_requests
    assert fleet.place(call) == 0
    assert [candidate.claimed_tokens for candidate in fleet.found(call)] == [160, 0]
    fleet.replicas[0].view.in_flight = view.in_flight
    assert fleet.place(make_call(160)) == 1, "all are full"


def test_evicted_blocks_are_found_no_more(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    fleet.hold(1, place(call.keys))
    fleet.hold(1, [], call.keys[:5:-1])
    assert fleet.held(call) == [0, 6, 0]


def test_lost_events_are_replayed_with_the_next(make_call: MakeCall) -> None:
    fleet, first, second = Fleet(), make_call(160), make_call(160, stream=1)
    fleet.hold(1, place(first.keys), lost=True)
    assert fleet.held(first) == [0, 0, 0]
    fleet.hold(1, place(second.keys))
    assert fleet.held(first) == fleet.held(second) == [0, 10, 0]


def test_after_an_outage_everything_is_pushed_again(make_call: MakeCall) -> None:
    fleet = Fleet("expected-ttft", "redis-outage@2-4")
    quiet, busy = make_call(160), make_call(160, stream=1)
    fleet.hold(0, place(quiet.keys))
    fleet.until(3.0)
    fleet.hold(1, place(busy.keys))
    fleet.place(quiet)
    assert fleet.router.fallbacks == 1
    fleet.until(4.0)
    assert fleet.held(quiet) == []
    fleet.until(5.5)
    assert fleet.held(quiet) == [10, 0, 0]
    assert fleet.held(busy) == [0, 10, 0]
    fleet.place(quiet)
    assert fleet.router.fallbacks == 1


def test_a_breaker_that_an_outage_opened_closes_soon_after_it(make_call: MakeCall) -> None:
    fleet = Fleet("expected-ttft", "redis-outage@2-4")
    fleet.until(3.97)
    for _ in range(6):
        fleet.place(make_call(160))
    fleet.until(4.01)
    fleet.place(make_call(160))
    assert fleet.router.fallbacks == 7, "open until 4.02 s"
    fleet.until(4.03)
    fleet.place(make_call(160))
    assert fleet.router.fallbacks == 7


def test_a_slow_directory_costs_its_time_and_beyond_the_budget_a_fallback(make_call: MakeCall) -> None:
    fleet = Fleet("expected-ttft", "redis-delay:0.004@1-2", "redis-delay:0.5@2-3")
    fleet.until(1.1)
    fleet.place(make_call(160))
    assert fleet.loop.now_s == pytest.approx(1.108), "a lookup and a claim"
    assert fleet.router.fallbacks == 0
    fleet.until(2.1)
    fleet.place(make_call(160))
    assert fleet.loop.now_s == pytest.approx(2.16), "the budgets of a lookup and a claim"
    assert fleet.router.fallbacks == 1


def test_a_restarted_replica_holds_nothing_and_a_lost_one_is_gone(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    fleet.hold(0, place(call.keys))
    fleet.observers[0].died()
    fleet.observers[0] = fleet.router.watch(fleet.replicas[0])
    fleet.until(2.5)
    assert fleet.held(call) == [0, 0, 0]
    fleet.observers[0].died()
    fleet.until(5.0)
    assert fleet.held(call) == [0, 0]


def test_the_lease_of_a_dead_replica_lapses_two_seconds_after_its_last_report(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    fleet.until(1.0)
    fleet.observers[0].stepped(is_prefilled=True)
    fleet.until(1.05)
    fleet.observers[0].died()
    fleet.until(2.9)
    assert len(fleet.held(call)) == 3
    fleet.until(3.1)
    assert len(fleet.held(call)) == 2


def test_a_replica_without_a_lease_can_still_be_sent_to(make_call: MakeCall) -> None:
    fleet = Fleet("least-loaded", count=2)
    asyncio.run(fleet.router.directory.retire("r0001"))
    fleet.observers[0].died()
    assert fleet.place(make_call(160)) == 1


def test_nothing_changes_for_an_hour_and_everything_is_still_known(make_call: MakeCall) -> None:
    fleet, call = Fleet(), make_call(160)
    fleet.hold(0, place(call.keys))
    fleet.until(3600.0)
    assert fleet.held(call) == [10, 0, 0]
    (state, *_) = asyncio.run(fleet.router.directory.states())
    assert state.incarnation == "0.0", "nothing had to be pushed again"


@pytest.mark.parametrize("policy", ["session-hash", "round-robin"])
def test_policies_that_look_at_nothing_need_no_reports(policy: str, make_call: MakeCall) -> None:
    fleet = Fleet(policy)
    assert fleet.place(make_call(160)) in range(3)
    assert asyncio.run(fleet.router.directory.states()) == []
