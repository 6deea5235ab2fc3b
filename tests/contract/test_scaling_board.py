"""Each backend of the scaling board keeps the contract."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.scaling.base import MAX_GATEWAYS, Demand, LoadEstimate, Reason, ScalingDecision
from aloraserve.scaling.board import MAX_RECORDS, ScalingBoard, ScalingHistory, ScalingRecord
from aloraserve.scaling.memory import MemoryBoard
from aloraserve.scaling.redis import RedisBoard

SHORT_S = 0.15


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def board(request: pytest.FixtureRequest) -> AsyncIterator[ScalingBoard]:
    url = None if request.param == "memory" else url_of(request, request.param)
    opened: ScalingBoard = (
        RedisBoard.from_url(url, namespace=request.node.name, application="one", timeout_s=5.0)
        if url
        else MemoryBoard()
    )
    yield opened
    await opened.close()


def record(target: int, at_s: float = 1.5) -> ScalingRecord:
    decision = ScalingDecision(target, Reason.TTFT, target + 1, LoadEstimate(calls_per_s=2.5, ttft_s=0.25), ("a", "é"))
    return ScalingRecord(at_s, decision, 3, 1, ("x",), 2, ("engine-0", "engine-1"), is_known=False, seam=False)


async def test_a_demand_comes_back_whole_and_the_last_one_of_a_gateway_counts(board: ScalingBoard) -> None:
    await board.publish(Demand("b", 1.0))
    demand = Demand("a", 12.5, 7, 4096, 1.25, 0.75, 300, 4, 2)
    await board.publish(Demand("a", 12.0, 6), ttl_s=60)
    await board.publish(demand, ttl_s=60)
    assert await board.demands() == [demand, Demand("b", 1.0)]


async def test_a_gateway_that_falls_silent_is_forgotten(board: ScalingBoard) -> None:
    await board.publish(Demand("a", 1.0), ttl_s=SHORT_S)
    await board.publish(Demand("b", 1.0), ttl_s=60)
    deadline = time.monotonic() + 30
    while [demand.gateway for demand in await board.demands()] != ["b"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_so_many_gateways_are_kept_and_those_that_are_go_on(board: ScalingBoard) -> None:
    for number in range(MAX_GATEWAYS + 2):
        await board.publish(Demand(f"{number:03d}", 1.0), ttl_s=60)
    await board.publish(Demand("000", 2.0), ttl_s=60)
    demands = await board.demands()
    assert len(demands) == MAX_GATEWAYS
    assert demands[0].time_s == 2.0


async def test_decisions_are_kept_as_they_were(board: ScalingBoard) -> None:
    assert await board.history() == ScalingHistory(None)
    await board.record(record(2), is_change=True)
    endless = replace(record(3), decision=ScalingDecision(3, Reason.TTFT, 9, LoadEstimate(ttft_s=math.inf)))
    await board.record(endless, is_change=False)
    assert (await board.history()).latest == endless
    await board.record(record(3), is_change=False)
    history = await board.history()
    assert history == ScalingHistory(record(3), (record(2),))


async def test_the_oldest_decisions_make_way(board: ScalingBoard) -> None:
    for number in range(MAX_RECORDS + 3):
        await board.record(record(1, float(number)), is_change=True)
    changes = (await board.history()).changes
    assert [change.at_s for change in changes] == [float(number) for number in range(MAX_RECORDS + 2, 2, -1)]


async def test_two_clusters_of_a_fleet_hear_their_own_gateways(redis_server: object) -> None:
    """During an upgrade each scales for its own load; what either changed is kept for both."""
    url = str(redis_server.url)  # type: ignore[attr-defined]
    old, new = (RedisBoard.from_url(url, namespace="upgrade", application=name) for name in ("old", "new"))
    await old.publish(Demand("a", 1.0), ttl_s=60)
    await new.publish(Demand("b", 1.0), ttl_s=60)
    await old.record(record(2), is_change=True)
    await new.record(record(3), is_change=True)
    assert [demand.gateway for demand in await old.demands()] == ["a"]
    assert [demand.gateway for demand in await new.demands()] == ["b"]
    assert [await board.history() for board in (old, new)] == [
        ScalingHistory(record(2), (record(3), record(2))),
        ScalingHistory(record(3), (record(3), record(2))),
    ]
    await old.close()
    await new.close()


async def test_records_of_another_version_are_passed_over(redis_server: object, request: pytest.FixtureRequest) -> None:
    """Fields that are unknown are passed over, and a record that cannot be read leaves itself out alone."""
    import redis.asyncio

    url = str(redis_server.url)  # type: ignore[attr-defined]
    board, raw = RedisBoard.from_url(url, namespace="versions", application="one"), redis.asyncio.Redis.from_url(url)
    await board.publish(Demand("a", 1.0), ttl_s=60)
    [key] = await raw.keys("*versions*scaling*")
    far = "9" * 13
    await raw.hset(key, "b", far + ' {"gateway":"b","time_s":2,"later":true}')
    await raw.hset(key, "c", far + " no JSON")
    assert [demand.gateway for demand in await board.demands()] == ["a", "b"]
    await raw.aclose()
    await board.close()
