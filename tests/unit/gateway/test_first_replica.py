"""A fleet without replicas: who has a first one started, and what calls that are held see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.channel_fleet import ChannelFleet, channel_fleet, until
from support.pool_replica import call_of

from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.settings import Settings
from aloraserve_services.gateway import first_replica
from aloraserve_services.gateway.deployment import ENGINE
from aloraserve_services.gateway.first_replica import FirstReplica
from aloraserve_services.gateway.gateway_pool import GatewayPool
from aloraserve_services.gateway.known_replicas import note_replicas


class Serve:
    """Serve's handle of a deployment that may be empty.

    Attributes:
        asked: how often a request came.
        fails: whether the next one is refused.
    """

    def __init__(self, fleet: ChannelFleet, *, fails: bool = False) -> None:
        self._fleet = fleet
        self.asked = 0
        self.fails = fails
        self.may_start = asyncio.Event()

    async def ask(self) -> None:
        self.asked += 1
        if self.fails:
            self.fails = False
            raise RuntimeError("as the test said")
        await self.may_start.wait()
        if not self._fleet.endpoints:
            await self._fleet.add("a")


@pytest.mark.parametrize("fails", [False, True], ids=["at once", "at the second attempt"])
async def test_calls_that_wait_have_one_replica_started_and_are_answered_by_it(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_replica, "RETRY_S", 0.01)
    async with channel_fleet(tmp_path) as fleet, fleet.gateway() as (pool, links):
        serve = Serve(fleet, fails=fails)
        first = FirstReplica(lambda: tuple(fleet.endpoints), lambda: pool.waiting, serve.ask)
        pool.notify(first.look)
        async with first.running():

            async def call(number: int) -> str:
                async with pool.reserve([]) as held:
                    replies = [reply async for reply in held.send(call_of(f"r{number}"))]
                    return replies[0].text

            calls = [asyncio.create_task(call(number)) for number in range(2)]
            await until(lambda: pool.waiting == 2 and serve.asked == 1 + fails, "both calls wait")
            serve.may_start.set()
            await until(lambda: bool(fleet.endpoints), "the replica to start")
            links.look()
            assert all(await asyncio.gather(*calls))
        assert serve.asked == 1 + fails


class EmptyDeployment:
    """Serve's handle of a deployment whose replica says nothing.

    Attributes:
        first_asked: set once a request came that any replica may answer.
    """

    def __init__(self) -> None:
        self.first_asked = asyncio.Event()

    def options(self, **_: Any) -> EmptyDeployment:
        return self

    async def remote(self, rank: Sequence[str] | None = None) -> Any:
        if rank is None:
            self.first_asked.set()
        await asyncio.Event().wait()


async def test_a_call_that_waited_when_the_last_replica_went_has_one_started() -> None:
    engines, known = EmptyDeployment(), ["a"]
    settings = Settings(autoscaling=True, min_replicas=0)
    pool = GatewayPool(settings, engines, lambda: known, LeavingReplicas())

    async def call() -> None:
        async with pool.replicas.reserve([]):
            pass

    async with pool.running():
        waits = asyncio.create_task(call())
        await until(lambda: pool.waiting() == 1, "the call waits")
        assert not engines.first_asked.is_set()
        known.clear()
        note_replicas(ENGINE, "test", known)
        async with asyncio.timeout(60):
            await engines.first_asked.wait()
        waits.cancel()
        await asyncio.wait({waits})


async def test_nothing_is_asked_for_while_there_are_replicas(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a") as fleet:
        serve = Serve(fleet)
        first = FirstReplica(lambda: tuple(fleet.endpoints), lambda: 1, serve.ask)
        async with first.running():
            first.look()
            await asyncio.sleep(0)
        assert serve.asked == 0


async def test_nothing_is_asked_for_once_the_gateway_ends(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path) as fleet:
        serve = Serve(fleet)
        first = FirstReplica(tuple, lambda: 1, serve.ask)
        async with first.running():
            first.look()
            await until(lambda: serve.asked == 1, "it asks")
        serve.may_start.set()
        await asyncio.sleep(0)
        assert not fleet.endpoints


@pytest.mark.parametrize(("least", "status"), [(0, 200), (1, 503)])
async def test_without_replicas_a_gateway_is_ready_where_it_would_hold_calls(
    least: int, status: int, open_gateway: Callable[..., Any]
) -> None:
    gateway = open_gateway(autoscaling=True, min_replicas=least)
    note_replicas(ENGINE, "test", [])
    transport = httpx.ASGITransport(gateway.http_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert [(await client.get(probe)).status_code for probe in ("/readyz", "/health")] == [status] * 2
