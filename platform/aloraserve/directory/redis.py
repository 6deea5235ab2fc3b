"""The directory in Redis (>= 7) or Valkey: see :mod:`aloraserve.directory.redis_scripts` for what lies there."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Self

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FORGET_S,
    LEASE_TTL_S,
    MAX_LOOKUP_BLOCKS,
    MAX_SETTLED,
    NODE_TTL_S,
    Candidate,
    Holding,
    ReplicaState,
    check_apply,
)
from aloraserve.directory.fleet_view import FleetView
from aloraserve.directory.handshake import check_same
from aloraserve.directory.redis_encoding import changes_by_shard, holder_of, shard_of, tag_of
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.keys import CLUSTER_SHARDS, fleet_prefix, milliseconds
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
        client: closed by :meth:`close`.
        namespace: what keeps fleets apart on one server; no braces.
        node_ttl_s: how long a node lives after something in it was last stored.
        forget_s: how long a silent replica's holdings are kept.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        *,
        namespace: str,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
    ) -> None:
        self._scripts = client
        self._fleet = fleet_prefix(namespace)
        self._shards = (
            [f"{{aloraserve:{namespace}:{shard:02x}}}:" for shard in range(CLUSTER_SHARDS)]
            if client.is_cluster
            else [self._fleet]
        )
        self._node_ttl_ms = milliseconds(node_ttl_s)
        self._forget_ms = milliseconds(forget_s)
        self._view = FleetView(holder_of)
        self._next_reclaimed = secrets.randbelow(len(self._shards))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        timeout_s: float = 0.5,
        max_calls: int = 32,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
    ) -> Self:
        """Return a directory at ``url``; connects when first used.

        Args:
            url: see :func:`~aloraserve.redis.url.read_url`.
            namespace: see the class, as the others.
            timeout_s: of each call, waiting for a connection included.
            max_calls: the most under way on a server; more wait, within ``timeout_s``.
            node_ttl_s: see the class.
            forget_s: see the class.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=max_calls, part="directory")
        return cls(client, namespace=namespace, node_ttl_s=node_ttl_s, forget_s=forget_s)

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        mine = json.dumps({item.name: getattr(space, item.name) for item in fields(KeySpace)}, sort_keys=True)
        fleet = await self._scripts.run(ScriptCall(scripts.JOIN, (f"{self._fleet}space",), (mine, milliseconds(ttl_s))))
        if bytes(fleet).decode() != mine:
            check_same(_key_space(fleet), space)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        if len(state.incarnation.encode()) > MAX_INCARNATION_BYTES:
            raise ValueError(f"incarnation {state.incarnation[:40]!r}... is longer than {MAX_INCARNATION_BYTES} bytes")
        content = json.dumps(asdict(state), separators=(",", ":"))
        arguments = (state.replica, milliseconds(ttl_s), state.incarnation, content, self._forget_ms)
        await self._scripts.run(ScriptCall(scripts.PUBLISH, (self._fleet,), (*arguments, *settled[:MAX_SETTLED])))

    async def retire(self, replica: str) -> None:
        content = json.dumps({"replica": replica, "incarnation": ""})
        await self._scripts.run(ScriptCall(scripts.RETIRE, (self._fleet,), (replica, content, self._forget_ms)))

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
            ScriptCall(scripts.APPLY, (self._shards[shard],), (holder, self._node_ttl_ms, blob))
            for shard, blob in changes.items()
        ]
        await self._scripts.run_all(calls)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        blob = b"".join(keys[:MAX_LOOKUP_BLOCKS])
        since = self._view.version
        if len(self._shards) == 1:
            states, overlaps = await self._scripts.run(
                ScriptCall(scripts.LOOKUP_WITH_STATES, (self._fleet,), (blob, since))
            )
        else:
            states, overlaps = await self._scripts.run_all(
                [
                    ScriptCall(scripts.STATES, (self._fleet,), (since,)),
                    ScriptCall(scripts.LOOKUP, (self._shard(keys),), (blob,)),
                ]
            )
        found = {
            overlaps[start]: overlaps[start + 1 : start + _OVERLAP_WIDTH]
            for start in range(0, len(overlaps), _OVERLAP_WIDTH)
        }
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
        keys = keys[:MAX_LOOKUP_BLOCKS]
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
                ScriptCall(scripts.CLAIM_BLOCKS, (self._shard(keys),), blocks),
                ScriptCall(scripts.CLAIM_TOKENS, (self._fleet,), (replica, claim_id, max(tokens, 0), ttl_ms)),
            ]
        )
        if not done:
            await self._scripts.run(ScriptCall(scripts.WITHDRAW_TOKENS, (self._fleet,), (replica, claim_id)))
        return bool(done)

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        keys = keys[:MAX_LOOKUP_BLOCKS]
        blocks = (holder_of(replica, incarnation), tag_of(claim_id), b"".join(keys))
        await self._scripts.run_all(
            [
                ScriptCall(scripts.WITHDRAW_BLOCKS, (self._shard(keys),), blocks),
                ScriptCall(scripts.WITHDRAW_TOKENS, (self._fleet,), (replica, claim_id)),
            ]
        )

    async def states(self) -> list[ReplicaState]:
        reply = await self._scripts.run(ScriptCall(scripts.STATES, (self._fleet,), (self._view.version,)))
        return [known.plain.state for known in self._view.live(reply)]

    async def epoch(self) -> str:
        """See the contract; in a cluster one shard is asked for all that its server has."""
        if not self._scripts.is_cluster:
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
        records = await self._scripts.run(ScriptCall(scripts.KEPT, (self._fleet,), limits))
        if records is None:
            return 0
        names = [bytes(record).decode() for record in records]
        kept = b"".join(holder_of(names[start], names[start + 1]) for start in range(0, len(names), 2))
        shard = self._shards[self._next_reclaimed]
        self._next_reclaimed = (self._next_reclaimed + 1) % len(self._shards)
        arguments = (kept, milliseconds(SUPERSEDED_S), max_fields, self._node_ttl_ms)
        return int(await self._scripts.run(ScriptCall(scripts.RECLAIM, (shard,), arguments)))

    async def ping(self) -> None:
        await self._scripts.run(self._epoch_of(self._fleet))

    async def close(self) -> None:
        await self._scripts.close()

    def _shard(self, keys: Sequence[BlockKey]) -> str:
        return self._shards[shard_of(keys[0], len(self._shards)) if keys else 0]

    @staticmethod
    def _epoch_of(prefix: str) -> ScriptCall:
        return ScriptCall(scripts.EPOCH, (f"{prefix}epoch",), (secrets.token_hex(8),))

    def _by_server(self) -> dict[str, list[str]]:
        """Return the prefixes that each server of a cluster has, by the server's name."""
        servers: dict[str, list[str]] = {}
        for prefix in (self._fleet, *self._shards):
            servers.setdefault(self._scripts.server_of(prefix), []).append(prefix)
        return servers


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
