"""Calls that wait in front of the fleet, and what a router that leaves adapters out of its keys knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve.simulation.base import ReplicaView, RunContext, SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.blind_holdings import BlindHoldings
from aloraserve.simulation.routers.dynamo import Dynamo, QueuePolicy
from aloraserve.simulation.routers.formula import FormulaRouter
from aloraserve.simulation.simulated_loop import SimulatedLoop

MakeCall = Callable[..., SimulatedCall]


class Fleet:
    """Replicas without engines behind a router with a queue of one step of 100 tokens per replica."""

    def __init__(self, policy: QueuePolicy = "fcfs", count: int = 2) -> None:
        self.loop = SimulatedLoop()
        self.visible = VisibleFleet([ReplicaView(i, 1000, 8, 2, 100) for i in range(count)], list(range(count)), 16)
        self.router = FormulaRouter(
            lambda seed, fleet: Dynamo(seed, fleet, queue_batches=1.0, queue_policy=policy),
            RunContext(0, self.visible, self.loop),
        )
        self.observers = [self.router.watch(_Replica(view)) for view in self.visible.replicas]
        self.placed: list[tuple[int, int]] = []

    def place(self, *calls: SimulatedCall) -> None:
        for call in calls:
            self.loop.spawn(self._place(call))
        self.loop.run()

    def first_token(self, call: SimulatedCall, replica: int) -> None:
        self.observers[replica].first_token(call)
        self.loop.run()

    async def _place(self, call: SimulatedCall) -> None:
        self.placed.append((call.request, await self.router.place(call)))


class _Replica:
    def __init__(self, view: ReplicaView) -> None:
        self.view = view


def test_a_call_waits_while_all_replicas_are_busy_and_goes_to_the_first_that_is_not(make_call: MakeCall) -> None:
    fleet = Fleet()
    first, second, third, fourth = (make_call(112, stream=n) for n in range(4))
    fleet.place(first, second, third, fourth)
    assert {replica for _, replica in fleet.placed} == {0, 1}
    assert [request for request, _ in fleet.placed] == [first.request, second.request]
    busy = dict(fleet.placed)
    fleet.first_token(second, busy[second.request])
    assert fleet.placed[2:] == [(third.request, busy[second.request])]
    fleet.first_token(first, busy[first.request])
    assert fleet.placed[3:] == [(fourth.request, busy[first.request])]


@pytest.mark.parametrize(("policy", "order"), [("fcfs", [1, 2, 3]), ("wspt", [3, 2, 1])])
def test_the_waiting_go_in_the_order_of_the_queues_policy(
    policy: QueuePolicy, order: list[int], make_call: MakeCall
) -> None:
    fleet = Fleet(policy, count=1)
    calls = [make_call(tokens, stream=n) for n, tokens in enumerate((112, 480, 320, 112))]
    fleet.place(*calls)
    for number in order:
        fleet.first_token(calls[[call.request for call in calls].index(fleet.placed[-1][0])], 0)
        assert fleet.placed[-1][0] == calls[number].request


def test_nobody_waits_for_a_replica_that_died(make_call: MakeCall) -> None:
    fleet = Fleet()
    first, second, third = (make_call(112, stream=n) for n in range(3))
    fleet.place(first, second, third)
    fleet.visible.alive.remove(1)
    fleet.observers[1].died()
    fleet.loop.run()
    assert len(fleet.placed) == 2, "the other is busy"
    fleet.visible.alive.remove(0)
    fleet.observers[0].died()
    fleet.loop.run()
    assert len(fleet.placed) == 3, "the fleet has it wait for a restart"


def test_a_blind_index_forgets_tokens_once_nobodys_blocks_of_them_are_held(make_call: MakeCall) -> None:
    fleet = VisibleFleet([ReplicaView(0, 100, 8, 2)], [0], 16)
    index, base, lora = BlindHoldings(fleet), make_call(64), make_call(64, adapter="a", kind="lora")
    lora.key_source = make_call(64, stream=1).key_source
    assert base.content_keys == lora.content_keys != lora.keys
    for call in (base, lora):
        index.sent(call)
        index.observe(0, call.keys, ())
        index.ended(call)
    assert index.depths(base, [0]) == index.depths(lora, [0]) == [4]
    index.observe(0, (), base.keys[::-1])
    assert index.depths(base, [0]) == [4], "the adapter's are there"
    index.observe(0, (), lora.keys[:1:-1])
    assert index.depths(base, [0]) == [2]
    index.lost(0)
    assert index.depths(base, [0]) == [0]


def test_a_blind_index_is_bounded(make_call: MakeCall) -> None:
    fleet = VisibleFleet([ReplicaView(0, 4, 8, 2)], [0], 16)
    index = BlindHoldings(fleet)
    for stream in range(10):
        index.observe(0, make_call(64, stream=stream).keys, ())
    assert sum(index.depths(make_call(64, stream=stream), [0])[0] for stream in range(10)) <= 8
