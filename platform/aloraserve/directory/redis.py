"""The directory in Redis (>= 7) or Valkey: see :mod:`aloraserve.directory.redis_scripts` for what lies there."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any, Self, cast

from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory import redis_scripts
from aloraserve.directory.base import (
    ANNOUNCED_TTL_S,
    CLAIM_TTL_S,
    FORGET_S,
    LEASE_TTL_S,
    MAX_LOOKUP_BLOCKS,
    MAX_PROCESSES,
    MAX_SETTLED,
    NODE_TTL_S,
    Candidate,
    Holding,
    Process,
    ReplicaState,
    check_apply,
    check_process,
)
from aloraserve.directory.fleet_view import FleetView
from aloraserve.directory.handshake import check_same
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.channel import RedisChannel
from aloraserve.redis.client import RedisClient, open_client, redacted_url
from aloraserve.redis.cluster import ClusterCalls
from aloraserve.redis.script_calls import Calls, Run, Script

FIELD_BYTES = 8
HOLDER_BYTES = 8
TAG_BYTES = 4
MAX_GROUP = 1024
"""Blocks of one run in one script: Lua passes a list's values on its stack, which holds some thousands."""
SUPERSEDED_S = 5.0
"""How long a holder that no lease names stays: it may be a next incarnation that is being filled."""
RECLAIM_WINDOW_S = 0.1
MAX_INCARNATION_BYTES = 999
TOLD_WITHIN_S = 10.0
"""How long the record of a replica that left stays, for clients that have not heard of it."""
_OVERLAP_WIDTH = 4


_JOIN = Script(redis_scripts.JOIN)
_PUBLISH = Script(redis_scripts.PUBLISH)
_RETIRE = Script(redis_scripts.RETIRE)
_STATES = Script(redis_scripts.STATES)
_KEPT = Script(redis_scripts.KEPT)
_CLAIM_TOKENS = Script(redis_scripts.CLAIM_TOKENS)
_WITHDRAW_TOKENS = Script(redis_scripts.WITHDRAW_TOKENS)
_APPLY = Script(redis_scripts.APPLY)
_LOOKUP = Script(redis_scripts.LOOKUP)
_LOOKUP_WITH_STATES = Script(redis_scripts.LOOKUP_WITH_STATES)
_CLAIM_BLOCKS = Script(redis_scripts.CLAIM_BLOCKS)
_WITHDRAW_BLOCKS = Script(redis_scripts.WITHDRAW_BLOCKS)
_RECLAIM = Script(redis_scripts.RECLAIM)
_EPOCH = Script(redis_scripts.EPOCH)
_ANNOUNCE = Script(redis_scripts.ANNOUNCE)
_ANNOUNCED = Script(redis_scripts.ANNOUNCED)


class RedisDirectory:
    """See :class:`~aloraserve.directory.base.Directory`.

    Args:
        client: decodes no responses; closed by :meth:`close`.
        namespace: what keeps fleets apart on one server; no braces.
        timeout_s: the longest that a call may take, waiting for a connection included.
        node_ttl_s: how long a node lives after something in it was last stored.
        forget_s: how long a silent replica's holdings are kept.
        max_calls: calls at once; more wait, within ``timeout_s``.
        url: where the server is, for messages.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        namespace: str,
        timeout_s: float = 0.5,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
        max_calls: int = 32,
        url: str = "redis",
    ) -> None:
        if not namespace or set(namespace) & set("{}"):
            raise ValueError(f"namespace is {namespace!r}; a non-empty string without braces is needed")
        self._client = client
        self._fleet = f"{{aloraserve:{namespace}}}:"
        self._shards = (
            [self._fleet]
            if client.shards == 1
            else [f"{{aloraserve:{namespace}:{shard:02x}}}:" for shard in range(client.shards)]
        )
        self._slots = {prefix: key_slot(prefix.encode()) for prefix in (self._fleet, *self._shards)}
        self._timeout_s = timeout_s
        self._node_ttl_ms = _milliseconds(node_ttl_s)
        self._forget_ms = _milliseconds(forget_s)
        self._calls = _calls(client, timeout_s, max_calls)
        self._where = redacted_url(url)
        self._view = FleetView(holder_of)
        self._next_reclaimed = secrets.randbelow(client.shards)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        timeout_s: float = 0.5,
        max_connections: int = 32,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
    ) -> Self:
        """Return a directory at ``url``; connects when first used.

        Args:
            url: see :func:`~aloraserve.redis.client.open_client`.
            namespace: see the class, as the others.
            timeout_s: of each call.
            max_connections: the most to one server of a cluster; else, where one is enough, the most calls at once.
                Callers beyond them wait, within ``timeout_s``.
            node_ttl_s: see the class.
            forget_s: see the class.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = open_client(url, timeout_s=timeout_s, max_connections=max_connections)
        return cls(
            client,
            namespace=namespace,
            timeout_s=timeout_s,
            node_ttl_s=node_ttl_s,
            forget_s=forget_s,
            max_calls=max_connections,
            url=url,
        )

    @property
    def client(self) -> Redis | RedisCluster:
        """The client underneath, for measurements."""
        return self._client.redis

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        mine = json.dumps({item.name: getattr(space, item.name) for item in fields(KeySpace)}, sort_keys=True)
        fleet = await self._run(Run(_JOIN, self._fleet, (mine, _milliseconds(ttl_s))))
        if bytes(fleet).decode() != mine:
            check_same(_key_space(fleet), space)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        if len(state.incarnation.encode()) > MAX_INCARNATION_BYTES:
            raise ValueError(f"incarnation {state.incarnation[:40]!r}... is longer than {MAX_INCARNATION_BYTES} bytes")
        content = json.dumps(asdict(state), separators=(",", ":"))
        arguments = (state.replica, _milliseconds(ttl_s), state.incarnation, content, self._forget_ms)
        await self._run(Run(_PUBLISH, self._fleet, (*arguments, *settled[:MAX_SETTLED])))

    async def retire(self, replica: str) -> None:
        content = json.dumps({"replica": replica, "incarnation": ""})
        await self._run(Run(_RETIRE, self._fleet, (replica, content, self._forget_ms)))

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
    ) -> None:
        check_apply(stored, removed)
        holder = holder_of(replica, incarnation)
        changes = _by_shard(stored, removed, len(self._shards))
        runs = [Run(_APPLY, self._shards[shard], (holder, self._node_ttl_ms, blob)) for shard, blob in changes.items()]
        await self._run_all(runs)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        blob = b"".join(keys[:MAX_LOOKUP_BLOCKS])
        since = self._view.version
        if len(self._shards) == 1:
            states, overlaps = await self._run(Run(_LOOKUP_WITH_STATES, self._fleet, (blob, since)))
        else:
            states, overlaps = await self._run_all(
                [Run(_STATES, self._fleet, (since,)), Run(_LOOKUP, self._shard(keys), (blob,))]
            )
        found = {
            overlaps[start]: overlaps[start + 1 : start + _OVERLAP_WIDTH]
            for start in range(0, len(overlaps), _OVERLAP_WIDTH)
        }
        claimed = self._view.claims(states)
        return [
            _candidate(one.plain, found.get(one.holder), claimed.get(one.plain.state.replica))
            for one in self._view.live(states)
        ]

    async def claim(
        self,
        claim_id: str,
        replica: str,
        incarnation: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
        unseen_from: int | None = None,
    ) -> bool:
        keys = keys[:MAX_LOOKUP_BLOCKS]
        ttl_ms = _milliseconds(ttl_s)
        if unseen_from is not None and not self._view.version:
            # Whose holdings count is known from lookups, and there was none.
            await self.states()
        blocks = (
            holder_of(replica, incarnation),
            _tag(claim_id),
            ttl_ms,
            -1 if unseen_from is None else unseen_from,
            self._node_ttl_ms,
            b"".join(keys),
            self._view.holders(),
        )
        done, _ = await self._run_all(
            [
                Run(_CLAIM_BLOCKS, self._shard(keys), blocks),
                Run(_CLAIM_TOKENS, self._fleet, (replica, claim_id, max(tokens, 0), ttl_ms)),
            ]
        )
        if not done:
            await self._run(Run(_WITHDRAW_TOKENS, self._fleet, (replica, claim_id)))
        return bool(done)

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        keys = keys[:MAX_LOOKUP_BLOCKS]
        blocks = (holder_of(replica, incarnation), _tag(claim_id), b"".join(keys))
        await self._run_all(
            [
                Run(_WITHDRAW_BLOCKS, self._shard(keys), blocks),
                Run(_WITHDRAW_TOKENS, self._fleet, (replica, claim_id)),
            ]
        )

    async def states(self) -> list[ReplicaState]:
        reply = await self._run(Run(_STATES, self._fleet, (self._view.version,)))
        return [one.plain.state for one in self._view.live(reply)]

    async def epoch(self) -> str:
        """See the contract; in a cluster one shard is asked for all that its server has."""
        if not self._client.is_cluster:
            return bytes(await self._run(self._epoch_of(self._fleet))).decode()
        # Whoever asked once knows which server has what.
        await self.ping()
        servers = self._by_server()
        replies = await self._run_all([self._epoch_of(prefixes[0]) for prefixes in servers.values()])
        parts = [repr((name, *known)) for name, *known in zip(servers, servers.values(), replies, strict=True)]
        return hashlib.blake2b("".join(sorted(parts)).encode(), digest_size=16).hexdigest()

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        """See the contract; one shard a call, and one call of the fleet every ``RECLAIM_WINDOW_S``."""
        limits = (self._forget_ms, _milliseconds(TOLD_WITHIN_S), _milliseconds(RECLAIM_WINDOW_S))
        records = await self._run(Run(_KEPT, self._fleet, limits))
        if records is None:
            return 0
        names = [bytes(one).decode() for one in records]
        kept = b"".join(holder_of(names[start], names[start + 1]) for start in range(0, len(names), 2))
        shard = self._shards[self._next_reclaimed]
        self._next_reclaimed = (self._next_reclaimed + 1) % len(self._shards)
        arguments = (kept, _milliseconds(SUPERSEDED_S), max_fields, self._node_ttl_ms)
        return int(await self._run(Run(_RECLAIM, shard, arguments)))

    async def announce(self, process: Process, *, ttl_s: float = ANNOUNCED_TTL_S) -> None:
        check_process(process)
        name, content = json.dumps(process[:2]), json.dumps(process)
        await self._run(Run(_ANNOUNCE, self._fleet, (name, content, _milliseconds(ttl_s), MAX_PROCESSES)))

    async def announced(self) -> list[Process]:
        records = await self._run(Run(_ANNOUNCED, self._fleet, ()))
        try:
            return sorted(Process(*json.loads(record)) for record in records)
        except (ValueError, TypeError) as error:
            raise DirectoryUnavailableError("a process's record in the directory cannot be read") from error

    async def ping(self) -> None:
        await self._run(self._epoch_of(self._fleet))

    async def close(self) -> None:
        await self._calls.close()
        await self._client.redis.aclose()

    def _shard(self, keys: Sequence[BlockKey]) -> str:
        return self._shards[_shard_of(keys[0], len(self._shards)) if keys else 0]

    @staticmethod
    def _epoch_of(prefix: str) -> Run:
        return Run(_EPOCH, prefix, (secrets.token_hex(8),))

    def _by_server(self) -> dict[str, list[str]]:
        """Return the prefixes that each server of a cluster has, by the server's name."""
        servers: dict[str, list[str]] = {}
        nodes = cast(RedisCluster, self._client.redis).nodes_manager
        try:
            for prefix, slot in self._slots.items():
                servers.setdefault(nodes.get_node_from_slot(slot).name, []).append(prefix)
        except RedisClusterException as error:
            raise DirectoryUnavailableError(f"the directory at {self._where} has no server for {prefix}") from error
        return servers

    async def _run(self, run: Run) -> Any:
        return (await self._run_all([run]))[0]

    async def _run_all(self, runs: Sequence[Run]) -> list[Any]:
        """Return the scripts' replies: one round trip on one server, side by side in a cluster."""
        try:
            return await self._calls.run(runs)
        except TimeoutError as error:
            raise DirectoryUnavailableError(
                f"the directory at {self._where} did not answer within {self._timeout_s:g} s"
            ) from error
        except (RedisError, OSError) as error:
            raise DirectoryUnavailableError(
                f"the directory at {self._where} failed: {type(error).__name__}: {error}"
            ) from error


def _calls(client: RedisClient, timeout_s: float, max_calls: int) -> Calls:
    redis = client.redis
    if isinstance(redis, RedisCluster):
        return ClusterCalls(redis, timeout_s=timeout_s, max_calls=max_calls)
    return RedisChannel(redis.connection_pool, timeout_s=timeout_s, max_calls=max_calls)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


@lru_cache(maxsize=8192)
def holder_of(replica: str, incarnation: str) -> bytes:
    """Return the bytes that stand for one start of a replica, on every server and without asking any."""
    return hashlib.blake2b(f"{replica}\0{incarnation}".encode(), digest_size=HOLDER_BYTES).digest()


def _tag(claim_id: str) -> bytes:
    return hashlib.blake2b(claim_id.encode(), digest_size=TAG_BYTES).digest()


def _shard_of(first_key: BlockKey, shards: int) -> int:
    """Return the shard of a chain: chains that share anything share their first block."""
    return first_key[0] % shards


def _by_shard(stored: Sequence[Holding], removed: Sequence[Holding], shards: int) -> dict[int, bytes]:
    """Return the changes as the script reads them, by shard."""
    groups: dict[tuple[int, BlockKey], tuple[list[Holding], list[Holding]]] = {}
    for kind, holdings in enumerate((stored, removed)):
        for holding in holdings:
            group = groups.setdefault((_shard_of(holding.head, shards), holding.anchor), ([], []))
            group[kind].append(holding)
    blobs: dict[int, list[bytes]] = {}
    for (shard, name), (new, old) in groups.items():
        blobs.setdefault(shard, []).extend(_groups(name, new, old))
    return {shard: b"".join(parts) for shard, parts in blobs.items()}


def _groups(name: BlockKey, stored: Sequence[Holding], removed: Sequence[Holding]) -> Iterator[bytes]:
    for start in range(0, max(len(stored), len(removed)), MAX_GROUP):
        new, old = stored[start : start + MAX_GROUP], removed[start : start + MAX_GROUP]
        yield name + struct.pack(">HH", len(new), len(old))
        yield b"".join(one.key[:FIELD_BYTES] + bytes((one.tier,)) for one in new)
        yield b"".join(one.key[:FIELD_BYTES] for one in old)


def _candidate(plain: Candidate, overlap: Sequence[int] | None, claimed: tuple[int, int] | None) -> Candidate:
    if overlap is None and claimed is None:
        return plain
    fast, held, about = overlap or (0, 0, 0)
    tokens, claims = claimed or (0, 0)
    return Candidate(plain.state, held, about, tokens, fast, claims)


def _key_space(data: bytes) -> KeySpace:
    try:
        return KeySpace(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise DirectoryUnavailableError("the fleet's key space in the directory cannot be read") from error
