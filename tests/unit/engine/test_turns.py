"""Calls of a replica that wait for their tenant's turn."""

from __future__ import annotations

import asyncio

from aloraserve.routing.fair_share import TenantShare
from aloraserve.routing.scheduling import Scheduling
from aloraserve.serving.engine_messages import EngineCall
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.progress import Accepted
from aloraserve_services.engine.turns import Turns

LONG = Accepted(1.0, 2000, 1.0)


def call(request_id: str, tenant: str = "") -> EngineCall:
    share = TenantShare(tenant) if tenant else None
    return EngineCall(request_id, [1], SamplingSettings(max_tokens=1), share=share)


def turns(given: dict[str, float] | None = None) -> Turns:
    seen = {} if given is None else given
    return Turns(Scheduling(), 500, seen.__setitem__)


async def test_calls_without_a_tenant_begin_at_once_by_their_own_numbers() -> None:
    given: dict[str, float] = {}
    queue = turns(given)
    assert [await queue.take(call(str(n)), LONG) for n in range(20)] == [1_000_000] * 20
    assert given == {str(n): 1.0 for n in range(20)}


async def test_a_tenants_call_waits_until_the_engine_has_few_of_it() -> None:
    queue = turns()
    first = call("first", "a")
    assert await queue.take(first, LONG) == 1_000_000
    waiting = asyncio.create_task(queue.take(call("second", "a"), LONG))
    other = await asyncio.wait_for(queue.take(call("third", "b"), LONG), 30)
    assert other == 1_000_000, "another tenant's does not wait for it"
    assert not waiting.done()
    queue.leave(first)
    assert await asyncio.wait_for(waiting, 30) >= 1_000_000


async def test_a_call_that_is_cancelled_while_it_waits_gives_its_turn_up() -> None:
    queue = turns()
    first, second = call("first", "a"), call("second", "a")
    await queue.take(first, LONG)
    waiting = asyncio.create_task(queue.take(second, LONG))
    third = asyncio.create_task(queue.take(call("third", "a"), LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    queue.leave(second)
    queue.leave(second)
    queue.leave(first)
    assert await asyncio.wait_for(third, 30) == 1_000_000
