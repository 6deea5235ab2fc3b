"""The directory in Redis (>= 7) or Valkey: see :mod:`aloraserve.directory.redis_scripts` for what lies there."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Self

from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisClusterException

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FORGET_S,
    LEASE_TTL_S,
    MAX_CLAIM_BLOCKS,
    MAX_LOOKUP_BLOCKS,
    MAX_SETTLED,
    NODE_TTL_S,
    Candidate,
    Holding,
    ReplicaState,
    anchor,
    check_apply,
)
from aloraserve.directory.fleet_view import FleetView
from aloraserve.directory.handshake import check_same
from aloraserve.directory.long_lookup import ONE_TRIP_BLOCKS, Ends, joined, run_marks, windows
from aloraserve.directory.redis_encoding import changes_by_shard, holder_of, shard_of, tag_of
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.client import RedisClient, fleet_prefix, milliseconds, open_client
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import ScriptCall

SUPERSEDED_S = 5.0
"""How long a holder that no lease names stays: it may be a next incarnation that is being filled."""
RECLAIM_WINDOW_S = 0.1
MAX_INCARNATION_BYTES = 999
LEFT_KEPT_S = 10.0
"""How long the record of a replica that left stays, for clients that have not heard of it."""
_OVERLAP_WIDTH = 4


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
        self._client = client
        self._fleet = fleet_prefix(namespace)
        self._shards = (
            [self._fleet]
            if client.shards == 1
            else [f"{{aloraserve:{namespace}:{shard:02x}}}:" for shard in range(client.shards)]
        )
        self._slots = {prefix: key_slot(prefix.encode()) for prefix in (self._fleet, *self._shards)}
        self._node_ttl_ms = milliseconds(node_ttl_s)
        self._forget_ms = milliseconds(forget_s)
        self._scripts = ScriptClient(client, timeout_s=timeout_s, max_calls=max_calls, url=url, part="directory")
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
        fleet = await self._scripts.run(ScriptCall(scripts.JOIN, self._fleet, (mine, milliseconds(ttl_s))))
        if bytes(fleet).decode() != mine:
            check_same(_key_space(fleet), space)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        if len(state.incarnation.encode()) > MAX_INCARNATION_BYTES:
            raise ValueError(f"incarnation {state.incarnation[:40]!r}... is longer than {MAX_INCARNATION_BYTES} bytes")
        content = json.dumps(asdict(state), separators=(",", ":"))
        arguments = (state.replica, milliseconds(ttl_s), state.incarnation, content, self._forget_ms)
        await self._scripts.run(ScriptCall(scripts.PUBLISH, self._fleet, (*arguments, *settled[:MAX_SETTLED])))

    async def retire(self, replica: str) -> None:
        content = json.dumps({"replica": replica, "incarnation": ""})
        await self._scripts.run(ScriptCall(scripts.RETIRE, self._fleet, (replica, content, self._forget_ms)))

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
        changes = changes_by_shard(stored, removed, len(self._shards))
        calls = [
            ScriptCall(scripts.APPLY, self._shards[shard], (holder, self._node_ttl_ms, blob))
            for shard, blob in changes.items()
        ]
        await self._scripts.run_all(calls)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        keys = keys[:MAX_LOOKUP_BLOCKS]
        since = self._view.version
        is_long = len(keys) > ONE_TRIP_BLOCKS
        if is_long or len(self._shards) > 1:
            script, blob = (scripts.LOOKUP_RUNS, run_marks(keys)) if is_long else (scripts.LOOKUP, keys)
            states, overlaps = await self._scripts.run_all(
                [
                    ScriptCall(scripts.STATES, self._fleet, (since,)),
                    ScriptCall(script, self._shard(keys), (b"".join(blob),)),
                ]
            )
        else:
            arguments = (b"".join(keys), since)
            states, overlaps = await self._scripts.run(ScriptCall(scripts.LOOKUP_WITH_STATES, self._fleet, arguments))
        found = _ends(overlaps)
        if is_long:
            found = await self._looked_into(keys, found)
        claimed = self._view.claims(states)
        return [
            _candidate(known.plain, found.get(known.holder), claimed.get(known.plain.state.replica))
            for known in self._view.live(states)
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
        keys = keys[:MAX_CLAIM_BLOCKS]
        ttl_ms = milliseconds(ttl_s)
        if unseen_from is not None and not self._view.version:
            # Whose holdings count is known from lookups, and there was none.
            await self.states()
        blocks = (
            holder_of(replica, incarnation),
            tag_of(claim_id),
            ttl_ms,
            -1 if unseen_from is None else unseen_from,
            self._node_ttl_ms,
            b"".join(keys),
            self._view.holders(),
        )
        done, _ = await self._scripts.run_all(
            [
                ScriptCall(scripts.CLAIM_BLOCKS, self._shard(keys), blocks),
                ScriptCall(scripts.CLAIM_TOKENS, self._fleet, (replica, claim_id, max(tokens, 0), ttl_ms)),
            ]
        )
        if not done:
            await self._scripts.run(ScriptCall(scripts.WITHDRAW_TOKENS, self._fleet, (replica, claim_id)))
        return bool(done)

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        keys = keys[:MAX_CLAIM_BLOCKS]
        blocks = (holder_of(replica, incarnation), tag_of(claim_id), b"".join(keys))
        await self._scripts.run_all(
            [
                ScriptCall(scripts.WITHDRAW_BLOCKS, self._shard(keys), blocks),
                ScriptCall(scripts.WITHDRAW_TOKENS, self._fleet, (replica, claim_id)),
            ]
        )

    async def states(self) -> list[ReplicaState]:
        reply = await self._scripts.run(ScriptCall(scripts.STATES, self._fleet, (self._view.version,)))
        return [known.plain.state for known in self._view.live(reply)]

    async def epoch(self) -> str:
        """See the contract; in a cluster one shard is asked for all that its server has."""
        if not self._client.is_cluster:
            return bytes(await self._scripts.run(self._epoch_of(self._fleet))).decode()
        # Whoever asked once knows which server has what.
        await self.ping()
        servers = self._by_server()
        replies = await self._scripts.run_all([self._epoch_of(prefixes[0]) for prefixes in servers.values()])
        parts = [repr((name, *known)) for name, *known in zip(servers, servers.values(), replies, strict=True)]
        return hashlib.blake2b("".join(sorted(parts)).encode(), digest_size=16).hexdigest()

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        """See the contract; one shard a call, and one call of the fleet every ``RECLAIM_WINDOW_S``."""
        limits = (self._forget_ms, milliseconds(LEFT_KEPT_S), milliseconds(RECLAIM_WINDOW_S))
        records = await self._scripts.run(ScriptCall(scripts.KEPT, self._fleet, limits))
        if records is None:
            return 0
        names = [bytes(record).decode() for record in records]
        kept = b"".join(holder_of(names[start], names[start + 1]) for start in range(0, len(names), 2))
        shard = self._shards[self._next_reclaimed]
        self._next_reclaimed = (self._next_reclaimed + 1) % len(self._shards)
        arguments = (kept, milliseconds(SUPERSEDED_S), max_fields, self._node_ttl_ms)
        return int(await self._scripts.run(ScriptCall(scripts.RECLAIM, shard, arguments)))

    async def ping(self) -> None:
        await self._scripts.run(self._epoch_of(self._fleet))

    async def close(self) -> None:
        await self._scripts.close()

    async def _looked_into(self, keys: Sequence[BlockKey], ends_by_run: Mapping[bytes, Ends]) -> dict[bytes, Ends]:
        """Return how many leading blocks each holder has, given how many leading runs."""
        slices = windows(ends_by_run, len(keys))
        replies = await self._scripts.run_all(
            [
                ScriptCall(scripts.LOOKUP, self._shard(keys), (b"".join(keys[part]), anchor(keys, part.start)))
                for part in slices.values()
            ]
        )
        inside = {run: _ends(reply) for run, reply in zip(slices, replies, strict=True)}
        return joined(ends_by_run, inside, len(keys))

    def _shard(self, keys: Sequence[BlockKey]) -> str:
        return self._shards[shard_of(keys[0], len(self._shards)) if keys else 0]

    @staticmethod
    def _epoch_of(prefix: str) -> ScriptCall:
        return ScriptCall(scripts.EPOCH, prefix, (secrets.token_hex(8),))

    def _by_server(self) -> dict[str, list[str]]:
        """Return the prefixes that each server of a cluster has, by the server's name."""
        servers: dict[str, list[str]] = {}
        redis = self._client.redis
        if not isinstance(redis, RedisCluster):
            return servers
        for prefix, slot in self._slots.items():
            try:
                name = redis.nodes_manager.get_node_from_slot(slot).name
            except RedisClusterException as error:
                raise self._scripts.unavailable(f"has no server for {prefix}") from error
            servers.setdefault(name, []).append(prefix)
        return servers


def _ends(rows: Sequence[Any]) -> dict[bytes, Ends]:
    return {rows[at]: Ends(*rows[at + 1 : at + _OVERLAP_WIDTH]) for at in range(0, len(rows), _OVERLAP_WIDTH)}


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
