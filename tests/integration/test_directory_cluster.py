"""The directory on a real cluster: chains spread over its servers, a slot that moves, and servers that are lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from support.redis_deployments import Cluster, Server
from support.simulated_fleet import CHATS, FAULT_S, eventually, fleet

from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError


class Opener:
    """Opens directories of one namespace whose leases and states lie on the first primary."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        names = (f"fleet{number}" for number in range(1000))
        self.namespace = next(name for name in names if cluster.owner(f"{{aloraserve:{name}}}:") == 0)
        self._stack = stack

    def __call__(self, **options: float) -> RedisDirectory:
        directory = RedisDirectory.from_url(self.cluster.url, namespace=self.namespace, **options)
        self._stack.push_async_callback(directory.close)
        return directory


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"), replicas=[0])
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
async def opened(cluster: Cluster) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        for one in cluster.primaries:
            one.client.flushall()
        yield Opener(cluster, stack)


async def test_chains_are_spread_and_each_lies_in_one_slot(opened: Opener) -> None:
    directory = opened()
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    for chat in CHATS:
        await directory.apply("a", "1", stored=place(chat.keys))
    nodes = [one.client.keys(f"{{aloraserve:{opened.namespace}:*}}:*:b:*") for one in opened.cluster.primaries]
    assert all(nodes)
    tags = {name.split(b"}")[0] for names in nodes for name in names}
    assert 1 < len(tags) <= len(CHATS)
    for chat in CHATS:
        assert (await directory.lookup(chat.keys))[0].held_blocks == chat.blocks


async def test_a_slot_that_moves_costs_no_holding(opened: Opener) -> None:
    directory = opened()
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    prompt = CHATS[0].keys
    await directory.apply("a", "1", stored=place(prompt))
    tag = directory._shard(prompt)
    source = opened.cluster.primaries[opened.cluster.owner(tag)]
    target = next(one for one in opened.cluster.primaries if one is not source)
    await asyncio.to_thread(opened.cluster.move_slot, tag, source, target)
    try:
        assert (await directory.lookup(prompt))[0].held_blocks == len(prompt)
        await directory.apply("a", "1", removed=place(prompt)[100:])
        assert (await directory.lookup(prompt))[0].held_blocks == 100
    finally:
        await asyncio.to_thread(opened.cluster.move_slot, tag, target, source)


async def test_a_directory_opened_before_its_loop_and_asked_by_many_at_once_answers(opened: Opener) -> None:
    await opened().publish(ReplicaState("a", "1"), ttl_s=60)
    before = _redirections(opened.cluster)
    directory = await asyncio.to_thread(opened, max_calls=4, timeout_s=5.0)
    found = await asyncio.gather(*(directory.lookup(chat.keys) for chat in CHATS * 5))
    assert all(candidates[0].state.replica == "a" for candidates in found)
    assert await directory.epoch() == await directory.epoch()
    assert _redirections(opened.cluster) == before


async def test_a_server_without_a_replica_that_restarts_empty_costs_time_only(opened: Opener) -> None:
    lost = opened.cluster.primaries[1]
    async with fleet(opened(), opened(), opened()) as one:
        before = await one.replicas[0]._directory.epoch()
        lost.kill()
        await one.last()
        await asyncio.to_thread(lost.start)
        # A primary that comes back refuses for two seconds, in case another took its place.
        await eventually(lambda: _is_ok(lost), 10)
        await one.comes_right()
        assert await one.replicas[0]._directory.epoch() != before


async def test_the_fleets_server_that_hangs_or_dies_is_failed_over(opened: Opener) -> None:
    first, second = opened.cluster.primaries[0], opened.cluster.replicas[0]
    async with fleet(opened(), opened(), opened()) as one:
        first.send(signal.SIGSTOP)
        try:
            await one.last(FAULT_S)
            await eventually(lambda: _has_role(second, "master"), 15)
            await one.comes_right()
            assert one.judge.fallbacks
        finally:
            first.send(signal.SIGCONT)
        await eventually(lambda: _has_role(first, "slave"), 15)
        await eventually(lambda: _is_linked(first), 15)
        second.kill()
        await one.last(FAULT_S)
        await eventually(lambda: _has_role(first, "master"), 15)
        await one.comes_right()


async def test_a_cluster_of_which_nobody_answers_is_an_unavailable_directory() -> None:
    directory = RedisDirectory.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2", namespace="fleet")
    for method in (directory.ping, directory.states, directory.epoch, directory.reclaim):
        with pytest.raises(DirectoryUnavailableError, match=r"redis\+cluster://127\.0\.0\.1:1"):
            await method()
    await directory.close()


def _redirections(cluster: Cluster) -> int:
    stats = [one.client.info("errorstats") for one in cluster.primaries]
    return sum(one.get("errorstat_MOVED", {"count": 0})["count"] for one in stats)


async def _is_ok(server: Server) -> bool:
    info = await asyncio.to_thread(server.client.execute_command, "CLUSTER INFO")
    return bool(info["cluster_state"] == "ok")


async def _has_role(server: Server, role: str) -> bool:
    return bool((await asyncio.to_thread(server.client.info, "replication"))["role"] == role)


async def _is_linked(server: Server) -> bool:
    return bool((await asyncio.to_thread(server.client.info, "replication")).get("master_link_status") == "up")
