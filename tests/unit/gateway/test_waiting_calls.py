"""Calls that wait in a gateway: bounded, and no tenant's alone."""

from __future__ import annotations

import asyncio

import pytest

from aloraserve.routing.fair_share import TenantShare
from aloraserve_services.gateway.waiting_calls import PoolFullError, WaitingCall, WaitingCalls


def waiter(tenant: str, weight: float = 1.0) -> WaitingCall:
    return WaitingCall(["r"], TenantShare(tenant, weight), asyncio.get_running_loop().create_future())


async def test_a_tenants_calls_wait_in_order() -> None:
    queue, calls = WaitingCalls(9), [waiter("a") for _ in range(3)]
    for call in calls:
        queue.add(call, is_next=False)
    ahead = waiter("a")
    queue.add(ahead, is_next=True)
    for expected in (ahead, *calls):
        assert queue.first(expected.share) is expected
        queue.remove(expected)
    assert queue.first(ahead.share) is None
    assert len(queue) == 0


async def test_tenants_are_first_in_turns() -> None:
    queue = WaitingCalls(9)
    for tenant in ("a", "a", "b"):
        queue.add(waiter(tenant), is_next=False)
    seen = [[call.share.tenant for call in queue.firsts() if call] for _ in range(2)]
    assert seen == [["b", "a"], ["a", "b"]]


async def test_who_fills_the_queue_makes_room_for_others() -> None:
    queue = WaitingCalls(4)
    greedy = [waiter("greedy") for _ in range(4)]
    for call in greedy:
        queue.add(call, is_next=False)
    with pytest.raises(PoolFullError):
        queue.add(waiter("greedy"), is_next=False)
    for _ in range(2):
        queue.add(waiter("other"), is_next=False)
    assert [call.place.done() for call in greedy] == [False, False, True, True], "its last ones are refused"
    assert all(isinstance(call.place.exception(), PoolFullError) for call in greedy[2:])
    with pytest.raises(PoolFullError):
        queue.add(waiter("other"), is_next=False)
    queue.add(waiter("other", 4.0), is_next=False)
    assert len(queue) == 4


async def test_a_call_that_moves_is_never_one_too_many() -> None:
    queue = WaitingCalls(0)
    queue.add(waiter("a"), is_next=True)
    assert len(queue) == 1
    with pytest.raises(PoolFullError):
        queue.add(waiter("a"), is_next=False)


async def test_a_refusal_says_when_those_that_wait_have_their_places() -> None:
    queue, calls = WaitingCalls(2), [waiter("a") for _ in range(4)]
    queue.add(calls[0], is_next=False)
    for number, served_at in ((1, 40.0), (2, 120.0)):
        queue.add(calls[number], is_next=False)
        queue.remove(calls[number - 1])
        queue.served(served_at)
    queue.add(calls[3], is_next=False)
    with pytest.raises(PoolFullError) as refused:
        queue.add(waiter("a"), is_next=False)
    assert refused.value.retry_after_s == pytest.approx(2 * 8.0), "two, a tenth of 80 s apart in the mean"


async def test_calls_that_nobody_waits_for_any_more_are_passed_over() -> None:
    queue, gone, stays = WaitingCalls(9), waiter("a"), waiter("a")
    queue.add(gone, is_next=False)
    queue.add(stays, is_next=False)
    gone.place.cancel()
    assert queue.first(gone.share) is stays
    queue.remove(gone)
    assert len(queue) == 1
