"""The directory on a real cluster: chains spread over its servers, a slot that moves, and servers that are lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
from support.redis_deployments import Cluster, Server
from support.simulated_fleet import CHATS, FAULT_S, eventually, fleet

from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError, StartError
from aloraserve.redis.cluster import ClusterChannel
from aloraserve.savings.base import CachedBySource, CallSavings, SavingsEntry
from aloraserve.savings.redis import RedisLedger
from aloraserve_services.local.redis_server import given_redis


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
    tag = directory._shard(prompt).prefix
    before = await directory.epoch()
    source = opened.cluster.primaries[opened.cluster.owner(tag)]
    target = next(one for one in opened.cluster.primaries if one is not source)
    await asyncio.to_thread(opened.cluster.move_slot, tag, source, target)
    try:
        assert (await directory.lookup(prompt))[0].held_blocks == len(prompt)
        assert await directory.epoch() == before
        redirected = _redirections(opened.cluster)
        for _ in range(5):
            await directory.lookup(prompt)
        assert _redirections(opened.cluster) == redirected, "once is enough"
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
        after = await one.replicas[0]._directory.epoch()
        for part in before:
            is_lost = opened.cluster.primaries[opened.cluster.owner(part)] is lost
            assert (after[part].content != before[part].content) == is_lost


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


async def test_who_gives_up_at_once_learns_of_a_fail_over_too(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's lookups never wait until a call has failed."""
    directory, own = opened(), opened.cluster.primaries[0]
    await directory.ping()
    learned = asyncio.Event()
    read_slots = ClusterChannel._read_slots

    async def noted(self: ClusterChannel) -> None:
        await read_slots(self)
        learned.set()

    monkeypatch.setattr(ClusterChannel, "_read_slots", noted)
    own.send(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(directory.ping(), 0.01)
        await asyncio.wait_for(learned.wait(), 30)
    finally:
        own.send(signal.SIGCONT)


async def test_a_flush_that_times_out_is_counted_once(opened: Opener) -> None:
    """The server finds what was sent when it goes on, after the client gave up and perhaps sent it again."""
    own = opened.cluster.primaries[0]
    ledger = RedisLedger.from_url(opened.cluster.url, namespace=opened.namespace, timeout_s=0.2)
    entry = SavingsEntry("safety", 0.1, 100, CallSavings(0.2, 3, 1, 0.5, CachedBySource(base=4)))
    await ledger.totals(60, time.time())
    for count, pause_s in enumerate((0.1, 0.3, 0.5), 1):
        ledger.add(entry, time.time())
        own.send(signal.SIGSTOP)
        flush = asyncio.create_task(ledger.flush())
        await asyncio.sleep(pause_s)
        own.send(signal.SIGCONT)
        with suppress(DirectoryUnavailableError):
            await flush
        await eventually(partial(_is_counted, ledger, count), 30)
        assert (await ledger.totals(600, time.time()))["safety"].calls == count
    await ledger.close()


async def test_a_cluster_of_which_nobody_answers_is_an_unavailable_directory() -> None:
    directory = RedisDirectory.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2", namespace="fleet")
    for method in (directory.ping, directory.states, directory.epoch, directory.reclaim):
        with pytest.raises(DirectoryUnavailableError, match=r"redis\+cluster://127\.0\.0\.1:1"):
            await method()
    await directory.close()


def test_one_server_of_a_cluster_is_not_taken_for_all_of_it(cluster: Cluster) -> None:
    refusals = []
    for server in cluster.primaries:
        try:
            with given_redis(f"redis://127.0.0.1:{server.port}/0", "default"):
                pass
        except StartError as error:
            refusals.append(error.message)
    assert refusals, "no server has all the keys"
    assert all("is a server of a cluster" in each and "redis+cluster://" in each for each in refusals)


async def _is_counted(ledger: RedisLedger, count: int) -> bool:
    try:
        return (await ledger.totals(600, time.time()))["safety"].calls >= count
    except DirectoryUnavailableError:
        return False


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
