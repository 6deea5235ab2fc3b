"""The platform's router in simulated time: claims, leases, and generations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve.directory.base import ReplicaLoad, place
from aloraserve.simulation.base import FleetView, ReplicaView, SimulatedCall
from aloraserve.simulation.platform_router import PlatformRouter, drive

MakeCall = Callable[..., SimulatedCall]
LOAD = ReplicaLoad(prefill_s_per_token=0.001, max_requests=8)


def fleet(count: int = 3) -> FleetView:
    return FleetView([ReplicaView(index, 100, 8, 2) for index in range(count)], list(range(count)), 16)


def started(policy: str = "expected-ttft", count: int = 3) -> tuple[PlatformRouter, FleetView]:
    view = fleet(count)
    router = PlatformRouter(policy, 0, view)
    for index in range(count):
        router.beat(index, LOAD, (), (), 0.0)
    return router, view


def held(router: PlatformRouter, call: SimulatedCall) -> list[int]:
    return [one.held_blocks for one in drive(router.directory.lookup(call.keys))]


def test_a_prefix_is_found_where_it_is_held(make_call: MakeCall) -> None:
    router, view = started()
    call = make_call(160)
    router.hold(2, place(call.keys), [], 1.0)
    assert held(router, call) == [0, 0, 10]
    assert router.choose(call, view, 1.0) == 2


def test_a_burst_on_a_new_prefix_stays_together_by_its_claims(make_call: MakeCall) -> None:
    router, view = started()
    assert len({router.choose(make_call(160), view, 1.0) for _ in range(3)}) == 1
    assert len({router.choose(make_call(160, stream=n), view, 1.0) for n in range(1, 4)}) > 1


def test_evicted_blocks_are_found_no_more(make_call: MakeCall) -> None:
    router, _ = started()
    call = make_call(160)
    router.hold(1, place(call.keys), [], 1.0)
    router.hold(1, [], call.keys[:5:-1], 2.0)
    assert held(router, call) == [0, 6, 0]


def test_after_an_outage_everything_is_pushed_again(make_call: MakeCall) -> None:
    router, view = started()
    quiet, busy = make_call(160), make_call(160, stream=1)
    router.hold(0, place(quiet.keys), [], 1.0)
    router.set_outage(True, 2.0)
    router.hold(1, place(busy.keys), [], 3.0)
    router.choose(quiet, view, 3.0)
    assert router.fallbacks == 1
    router.set_outage(False, 4.0)
    assert held(router, quiet) == []
    for index in range(3):
        router.beat(index, LOAD, (), (), 4.1)
    assert held(router, quiet) == [10, 0, 0]
    assert held(router, busy) == [0, 10, 0]


def test_a_restarted_replica_holds_nothing_and_a_lost_one_is_gone(make_call: MakeCall) -> None:
    router, _ = started()
    call = make_call(160)
    router.hold(0, place(call.keys), [], 1.0)
    router.restarted(0, 2.0)
    router.beat(0, LOAD, (), (), 2.0)
    assert held(router, call) == [0, 0, 0]
    router.lost(0, 3.0)
    assert held(router, call) == [0, 0]


def test_a_replica_without_a_lease_can_still_be_sent_to(make_call: MakeCall) -> None:
    view = fleet(2)
    router = PlatformRouter("least-loaded", 0, view)
    router.beat(0, ReplicaLoad(running=8, waiting=50, max_requests=8), (), (), 0.0)
    view.alive = [1]
    assert router.choose(make_call(160), view, 1.0) == 1


@pytest.mark.parametrize("policy", ["session-hash", "round-robin"])
def test_policies_that_look_at_nothing_need_no_reports(policy: str, make_call: MakeCall) -> None:
    view = fleet()
    router = PlatformRouter(policy, 0, view)
    assert not router.needs_reports
    assert router.choose(make_call(160), view, 0.0) in view.alive


def test_what_waits_is_not_driven() -> None:
    async def waits() -> None:
        import asyncio

        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited for something"):
        drive(waits())
