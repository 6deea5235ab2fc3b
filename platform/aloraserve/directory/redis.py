"""The directory in Redis (>= 7) or Valkey: see :mod:`aloraserve.directory.redis_scripts` for what lies there."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, fields
from typing import Self

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.blocks.keys import SCHEMA
from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FORGET_S,
    LEASE_TTL_S,
    LEAVING_TTL_S,
    MAX_LOOKUP_BLOCKS,
    MAX_SETTLED,
    NODE_TTL_S,
    Candidate,
    Epoch,
    Holding,
    ReplicaState,
    check_apply,
)
from aloraserve.directory.claimed_blocks import marks_of
from aloraserve.directory.directory_view import DirectoryView
from aloraserve.directory.handshake import check_same
from aloraserve.directory.redis_encoding import (
    changes_by_shard,
    claim_blob,
    claim_name,
    holder_of,
    shard_of,
    withdrawal_blob,
)
from aloraserve.directory.redis_epochs import ShardEpochs
from aloraserve.directory.redis_keys import FleetKeys, ShardKeys
from aloraserve.directory.redis_lookup import PromptLookup
from aloraserve.directory.redis_reclaim import SUPERSEDED_S, Reclaimer
from aloraserve.directory.strays import Strays
from aloraserve.directory.view_refresher import ViewRefresher
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.keys import CLUSTER_SHARDS, fleet_prefix, milliseconds
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import ScriptCall

MAX_INCARNATION_BYTES = 999
FRESH_S = 0.1
"""A lookup waits for a view that is not older than this. While calls come it is a fifth of that."""
PAGE = 128
"""Records, totals and claims in one reply, each: reading that many takes a millisecond or two of the event loop."""
CLAIM_PAGE = 64
MAX_FIRSTS = 8192
MAX_LOST = 512
"""Reported places of one shard that wait to be swept."""
LOST_KEPT_S = 60.0
REPORT_EVERY_S = 1.0


class RedisDirectory:
    """See :class:`~aloraserve.directory.base.Directory`.

    Args:
        client: closed by :meth:`close`.
        namespace: what keeps fleets apart on one server; no braces.
        application: name of the one that gateways and replicas belong to. Those of one share a key space; another one
            under the namespace, as the next release beside this one, may have its own. Empty: the first one's counts.
        node_ttl_s: how long a node lives after something in it was last stored.
        forget_s: how long a silent replica's holdings are kept.
        on_unreadable: called for each record or claim that cannot be read and is passed over.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        *,
        namespace: str,
        application: str = "",
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
        on_unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        self._scripts = client
        self._fleet = f"{fleet_prefix(namespace)}{SCHEMA}:"
        self._keys = FleetKeys(fleet_prefix(namespace), self._fleet)
        self._application = application
        self._shards = (
            [ShardKeys(f"{{aloraserve:{namespace}:{shard:02x}}}:{SCHEMA}:") for shard in range(CLUSTER_SHARDS)]
            if client.is_cluster
            else [ShardKeys(self._fleet)]
        )
        self._node_ttl_ms = milliseconds(node_ttl_s)
        self._forget_ms = milliseconds(forget_s)
        self._clock = time.monotonic
        self._view = DirectoryView(holder_of, on_unreadable=on_unreadable)
        self._refresher = ViewRefresher(self._refresh)
        self._changed_at = -math.inf
        self._firsts: dict[bytes, BlockKey] = {}
        self._strays = Strays(lambda: self._view.holders, quiet_s=SUPERSEDED_S, every_s=REPORT_EVERY_S)
        self._prompts = PromptLookup(self._scripts, self._strays)
        self._reclaimer = Reclaimer(self._scripts, self._keys, self._shards, forget_s=forget_s)
        self._epochs = ShardEpochs(self._scripts, self._by_server)
        self._reports: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        application: str = "",
        timeout_s: float = 0.5,
        max_calls: int = 32,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
        on_unreadable: Callable[[], None] = lambda: None,
    ) -> Self:
        """Return a directory at ``url``; connects when first used.

        Args:
            url: see :func:`~aloraserve.redis.url.read_url`.
            namespace: see the class, as the others.
            application: see the class.
            timeout_s: of each call, waiting for a connection included.
            max_calls: the most under way on a server; more wait, within ``timeout_s``.
            node_ttl_s: see the class.
            forget_s: see the class.
            on_unreadable: see the class.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=max_calls, part="directory")
        return cls(
            client,
            namespace=namespace,
            application=application,
            node_ttl_s=node_ttl_s,
            forget_s=forget_s,
            on_unreadable=on_unreadable,
        )

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        mine = json.dumps({item.name: getattr(space, item.name) for item in fields(KeySpace)}, sort_keys=True)
        arguments = (mine, milliseconds(ttl_s) if ttl_s else 0)
        fleet = await self._scripts.run(ScriptCall(scripts.JOIN, self._keys.join(self._application), arguments))
        if bytes(fleet).decode() != mine:
            check_same(_key_space(fleet), space)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        if len(state.incarnation.encode()) > MAX_INCARNATION_BYTES:
            raise ValueError(f"incarnation {state.incarnation[:40]!r}... is longer than {MAX_INCARNATION_BYTES} bytes")
        content = json.dumps(asdict(state), separators=(",", ":"))
        arguments = (state.replica, milliseconds(ttl_s), state.incarnation, content, self._forget_ms)
        await self._scripts.run(
            ScriptCall(scripts.PUBLISH, self._keys.leases(state.replica), (*arguments, *settled[:MAX_SETTLED]))
        )
        self._changed_at = self._clock()

    async def retire(self, replica: str) -> None:
        content = json.dumps({"replica": replica, "incarnation": ""})
        await self._scripts.run(
            ScriptCall(scripts.RETIRE, self._keys.leases(replica), (replica, content, self._forget_ms))
        )
        self._changed_at = self._clock()

    async def mark_leaving(self, replica: str, *, ttl_s: float = LEAVING_TTL_S) -> None:
        arguments = (replica, milliseconds(ttl_s) if ttl_s else 0)
        await self._scripts.run(ScriptCall(scripts.LEAVE, self._keys.leaving, arguments))
        self._changed_at = self._clock()

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
        fence: int = 0,
        former: Sequence[str] = (),
    ) -> Set[str]:
        check_apply(stored, removed, former)
        holders = [holder_of(replica, name) for name in (incarnation, *former)]
        arguments = (holders[0], self._node_ttl_ms, fence, b"".join(holders[1:]))
        changes = changes_by_shard(stored, removed, len(self._shards))
        replies = await self._scripts.run_all(
            [
                ScriptCall(scripts.APPLY, self._shards[shard].changes(holders, part.anchors), (*arguments, part.blob))
                for shard, part in changes.items()
            ]
        )
        return {self._shards[shard].prefix for shard, known in zip(changes, replies, strict=True) if not known}

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        keys = keys[:MAX_LOOKUP_BLOCKS]
        as_of = max(self._clock() - FRESH_S, self._changed_at)
        self._refresher.use(as_of)
        held = await self._prompts.held(keys, self._shard(keys)) if keys else {}
        await self._refresher.wait(as_of)
        self._report_strays()
        return self._view.candidates(keys, held)

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
        name = claim_name(claim_id, holder_of(replica, incarnation))
        first = keys[unseen_from] if unseen_from is not None and unseen_from < len(keys) else None
        arguments = (
            replica,
            incarnation,
            claim_id,
            max(tokens, 0),
            milliseconds(ttl_s),
            self._forget_ms,
            claim_blob(name, marks_of(keys)),
            self._view.cursors.claims,
            CLAIM_PAGE,
        )
        reply = None
        self._view.begin(name, replica, max(tokens, 0))
        try:
            reply = await self._scripts.run(ScriptCall(scripts.CLAIM, self._keys.claim(replica, first), arguments))
        finally:
            is_recorded = self._view.end(name, reply)
        if is_recorded and first is not None:
            self._note_first(name, first)
        return is_recorded

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        name = claim_name(claim_id, holder_of(replica, incarnation))
        self._view.withdraw(name)
        names = self._keys.withdrawal(replica, self._firsts.pop(name, None))
        arguments = (replica, claim_id, milliseconds(CLAIM_TTL_S), self._forget_ms, withdrawal_blob(name))
        await self._scripts.run(ScriptCall(scripts.WITHDRAW, names, arguments))
        self._changed_at = self._clock()

    async def states(self) -> list[ReplicaState]:
        self._refresher.start()
        await self._refresher.wait(self._clock())
        return [candidate.state for candidate in self._view.live()]

    async def _refresh(self) -> None:
        """Take in what changed since the last time, page by page."""
        has_more = True
        while has_more:
            arguments = (*self._view.cursors, PAGE, milliseconds(CLAIM_TTL_S))
            reply = await self._scripts.run(ScriptCall(scripts.CHANGES, self._keys.changes, arguments))
            has_more = self._view.take(reply, PAGE)

    def _note_first(self, name: bytes, key: BlockKey) -> None:
        """Remember the block that a claim was first for: a withdrawal frees it."""
        self._firsts[name] = key
        if len(self._firsts) > MAX_FIRSTS:
            del self._firsts[next(iter(self._firsts))]

    def part(self, head: BlockKey) -> str:
        return self._shards[shard_of(head, len(self._shards))].prefix

    async def epoch(self) -> Mapping[str, Epoch]:
        if self._scripts.is_cluster:
            # Whoever asked once knows which server has what.
            await self.ping()
        return await self._epochs.read()

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        """See the contract; one shard a call, and one call of the fleet every ``RECLAIM_WINDOW_S``."""
        return await self._reclaimer.reclaim(max_fields)

    async def ping(self) -> None:
        await self._scripts.run(ScriptCall(scripts.EPOCH, (f"{self._fleet}epoch",), (secrets.token_hex(8),)))

    async def close(self) -> None:
        for report in self._reports:
            report.cancel()
        await self._refresher.close()
        await self._scripts.close()

    def _shard(self, keys: Sequence[BlockKey]) -> ShardKeys:
        return self._shards[shard_of(keys[0], len(self._shards))]

    def _report_strays(self) -> None:
        """Report holders that lookups met and no record names; a report that fails is made again by later lookups."""
        for shard, names in self._strays.due().items():
            report = asyncio.create_task(self._report(shard, names))
            self._reports.add(report)
            report.add_done_callback(self._end_report)

    async def _report(self, shard: ShardKeys, names: Sequence[bytes]) -> None:
        arguments: list[bytes | int] = [MAX_LOST, milliseconds(LOST_KEPT_S), *names]
        await self._scripts.run(ScriptCall(scripts.REPORT, (shard.lost,), arguments))

    def _end_report(self, report: asyncio.Task[None]) -> None:
        self._reports.discard(report)
        if not report.cancelled():
            # Marks it as seen: nobody waits for it.
            report.exception()

    def _by_server(self) -> dict[str, list[ShardKeys]]:
        """Return the shards that each server has, by the server's name."""
        servers: dict[str, list[ShardKeys]] = {}
        for shard in self._shards:
            servers.setdefault(self._scripts.server_of(shard.prefix), []).append(shard)
        return servers


def _key_space(data: bytes) -> KeySpace:
    """Read a fleet's key space. A first release's has no schema; what a newer one's has beside it is passed over."""
    try:
        found = json.loads(data)
        known = {item.name: found[item.name] for item in fields(KeySpace) if item.name in found}
        return KeySpace(**{"schema": 1, **known})
    except (ValueError, TypeError) as error:
        raise DirectoryUnavailableError("the fleet's key space in the directory cannot be read") from error
