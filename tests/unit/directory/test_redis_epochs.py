"""What a cluster's servers and slots say about lost holdings, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aloraserve.directory.redis_epochs import ShardEpochs
from aloraserve.directory.redis_keys import ShardKeys
from aloraserve.redis.scripts import ScriptCall

SHARDS = [ShardKeys(f"{{{number}}}:") for number in range(6)]


class Servers:
    """A cluster as scripts see it: where each shard is, what it has, and which run each server is in."""

    def __init__(self) -> None:
        self.places = {shard: f"server{number % 2}" for number, shard in enumerate(SHARDS)}
        self.runs = {"server0": b"r0", "server1": b"r1"}
        self.contents = {shard: f"c{number}".encode() for number, shard in enumerate(SHARDS)}
        self.asked = 0

    async def run_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.asked += len(calls)
        by_key = {shard.epoch: shard for shard in SHARDS}
        shards = [by_key[str(call.keys[0])] for call in calls]
        return [[self.contents[shard], self.runs[self.places[shard]]] for shard in shards]

    def by_server(self) -> dict[str, list[ShardKeys]]:
        found: dict[str, list[ShardKeys]] = {}
        for shard, server in self.places.items():
            found.setdefault(server, []).append(shard)
        return found

    def flush(self, server: str) -> None:
        for shard, place in self.places.items():
            if place == server:
                self.contents[shard] = b"new " + self.contents[shard]


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def epochs(servers: Servers) -> ShardEpochs:
    return ShardEpochs(servers, servers.by_server)  # type: ignore[arg-type]


async def test_while_nothing_happens_one_shard_of_each_server_is_asked(servers: Servers, epochs: ShardEpochs) -> None:
    first = await epochs.read()
    assert len(first) == servers.asked == len(SHARDS)
    assert await epochs.read() == first
    assert servers.asked == len(SHARDS) + 2


@pytest.mark.parametrize("moved", [0, 2])
async def test_a_slot_that_moves_changes_no_epoch(servers: Servers, epochs: ShardEpochs, moved: int) -> None:
    first = await epochs.read()
    servers.places[SHARDS[moved]] = "server1"
    assert await epochs.read() == first
    assert await epochs.read() == first


async def test_a_slot_that_moves_without_its_content_changes_its_own_epoch(
    servers: Servers, epochs: ShardEpochs
) -> None:
    first = await epochs.read()
    servers.places[SHARDS[2]] = "server1"
    servers.contents[SHARDS[2]] = b"empty"
    second = await epochs.read()
    assert [part for part in first if first[part] != second[part]] == [SHARDS[2].prefix]
    assert second[SHARDS[2].prefix].content == "empty"


async def test_a_server_that_was_emptied_changes_the_content_of_its_own_shards(
    servers: Servers, epochs: ShardEpochs
) -> None:
    first = await epochs.read()
    servers.flush("server1")
    second = await epochs.read()
    for number, shard in enumerate(SHARDS):
        assert (first[shard.prefix].content != second[shard.prefix].content) == bool(number % 2)
        assert first[shard.prefix].copy == second[shard.prefix].copy


async def test_a_server_that_restarted_or_was_failed_over_is_another_copy(
    servers: Servers, epochs: ShardEpochs
) -> None:
    first = await epochs.read()
    servers.runs["server1"] = b"again"
    second = await epochs.read()
    servers.runs = {"server0": b"r0", "server2": b"r2"}
    servers.places = {shard: "server2" if place == "server1" else place for shard, place in servers.places.items()}
    third = await epochs.read()
    for number, shard in enumerate(SHARDS):
        copies = {found[shard.prefix].copy for found in (first, second, third)}
        assert len(copies) == (3 if number % 2 else 1)
        assert len({found[shard.prefix].content for found in (first, second, third)}) == 1
