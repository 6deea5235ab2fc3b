"""The directory behind Sentinels: its primary hangs, one Sentinel never answers, and decisions go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from support.redis_deployments import Sentinels, Server
from support.simulated_fleet import eventually, fleet

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.redis import RedisDirectory
from aloraserve.redis.connect import Connector
from aloraserve.redis.url import Host


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    started = Sentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


class Opener:
    """Opens directories behind the Sentinels."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    def __call__(self) -> RedisDirectory:
        directory = RedisDirectory.from_url(self._url, namespace="test")
        self._stack.push_async_callback(directory.close)
        return directory


@pytest.fixture
async def opened(sentinels: Sentinels) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(sentinels.url, stack)


async def test_a_sentinel_that_hangs_is_passed_over(sentinels: Sentinels, opened: Opener) -> None:
    sentinels.sentinels[0].send(signal.SIGSTOP)
    try:
        directory = opened()
        await directory.publish(ReplicaState("a", "1"), ttl_s=60)
        assert [state.replica for state in await directory.states()] == ["a"]
        await directory.retire("a")
    finally:
        sentinels.sentinels[0].send(signal.SIGCONT)


async def test_sentinels_are_asked_when_a_connection_is_opened_and_not_by_each_call(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    named_by = Connector._named_by

    async def counted(self: Connector, sentinel: Host) -> Host:
        asked.append(sentinel)
        return await named_by(self, sentinel)

    monkeypatch.setattr(Connector, "_named_by", counted)
    directory = opened()
    await asyncio.gather(*(directory.ping() for _ in range(50)))
    assert len(asked) == 1


async def test_a_primary_that_hangs_is_failed_over_and_comes_back_as_a_replica(
    sentinels: Sentinels, opened: Opener
) -> None:
    first, second = sentinels.primary, sentinels.replica
    async with fleet(opened(), opened(), opened()) as one:
        first.send(signal.SIGSTOP)
        try:
            await one.last()
            await eventually(lambda: _has_role(second, "master"), 20)
            await one.comes_right()
            assert one.judge.fallbacks
        finally:
            first.send(signal.SIGCONT)
        await eventually(lambda: _has_role(first, "slave"), 20)
        for replica in one.replicas:
            one.change(replica)
        await one.comes_right()


async def _has_role(server: Server, role: str) -> bool:
    return bool((await asyncio.to_thread(server.client.info, "replication"))["role"] == role)
