"""Whether Redis may have lost holdings, and in which shards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.base import Epoch
from aloraserve.directory.redis_keys import ShardKeys
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import ScriptCall


@dataclass(frozen=True, slots=True)
class _Seen:
    """A shard as it was last seen.

    Args:
        server: that had it.
        run: of the server.
        epoch: what was told of it.
    """

    server: str
    run: str
    epoch: Epoch


class ShardEpochs:
    """See :meth:`~aloraserve.directory.base.Directory.epoch`.

    One shard of each server is asked each time, and the others only when something about their server or their place is
    new. A slot that moves while its server lives takes its content along, and nothing about it changes.

    Args:
        client: runs the scripts.
        servers: gives the shards that each server has, by the server's name.
    """

    def __init__(self, client: ScriptClient, servers: Callable[[], Mapping[str, Sequence[ShardKeys]]]) -> None:
        self._scripts = client
        self._servers = servers
        self._seen: dict[ShardKeys, _Seen] = {}

    async def read(self) -> dict[str, Epoch]:
        """Return each shard's epoch."""
        servers = self._servers()
        replies = await self._asked([shards[0] for shards in servers.values()])
        runs = dict(zip(servers, (run for _, run in replies.values()), strict=True))
        doubtful = [
            shard
            for server, shards in servers.items()
            for shard in shards
            if shard not in replies and not self._is_same(shard, server, shards[0], replies)
        ]
        replies |= await self._asked(doubtful)
        for server, shards in servers.items():
            for shard in shards:
                if shard in replies:
                    self._seen[shard] = self._noted(shard, server, replies[shard], runs)
        return {shard.prefix: seen.epoch for shard, seen in self._seen.items()}

    async def _asked(self, shards: Sequence[ShardKeys]) -> dict[ShardKeys, tuple[str, str]]:
        """Return the content and the server's run of each shard."""
        if not shards:
            return {}
        replies = await self._scripts.run_all(
            [ScriptCall(scripts.EPOCH, [shard.epoch], (secrets.token_hex(8),)) for shard in shards]
        )
        return {
            shard: (bytes(content).decode(), bytes(run).decode())
            for shard, (content, run) in zip(shards, replies, strict=True)
        }

    def _is_same(
        self, shard: ShardKeys, server: str, asked: ShardKeys, replies: Mapping[ShardKeys, tuple[str, str]]
    ) -> bool:
        """Whether a shard is where it was, on a server that shows no loss in the shard that was asked."""
        seen, other = self._seen.get(shard), self._seen.get(asked)
        content, run = replies[asked]
        return (
            seen is not None
            and other is not None
            and (seen.server, seen.run) == (server, run)
            and other.epoch.content == content
        )

    def _noted(self, shard: ShardKeys, server: str, reply: tuple[str, str], runs: Mapping[str, str]) -> _Seen:
        content, run = reply
        seen = self._seen.get(shard)
        has_moved = seen is not None and seen.server != server and runs.get(seen.server) == seen.run
        copy = seen.epoch.copy if seen is not None and (has_moved or seen.run == run) else run
        return _Seen(server, run, Epoch(content, copy))
