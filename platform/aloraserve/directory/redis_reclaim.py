"""Frees what dead and earlier incarnations left in Redis; what a call costs is what it frees.

A holder's index lists the fields of its entries. Scripts touch only keys that they were given, so the index is read
first and its entries are cleaned then; the script itself spares a holder that came back in between.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aloraserve.directory import redis_scripts as scripts
from aloraserve.directory.redis_encoding import FIELD_BYTES, HOLDER_BYTES, holder_of
from aloraserve.directory.redis_keys import FleetKeys, ShardKeys
from aloraserve.redis.keys import milliseconds
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import ScriptCall

SUPERSEDED_S = 30.0
"""How long a holder that no lease names stays: it may be a next incarnation that is being filled, for longer than
:data:`~aloraserve.directory.ingest.FILL_S`."""
RECLAIM_WINDOW_S = 0.1
LEFT_KEPT_S = 10.0
"""How long the record of a replica that left stays, for clients that have not heard of it."""
MAX_GONE = 8
"""Holders that a call looks at."""
MAX_LISTED = 128
"""Entries of an index that are read at once."""
MAX_SWEEPS = 4
ANCHOR_BYTES = 16


class Reclaimer:
    """See :meth:`~aloraserve.directory.base.Directory.reclaim`.

    Args:
        client: runs the scripts.
        fleet: where the records are.
        shards: of the chains; each call looks at the next one.
        forget_s: how long a silent replica's holdings are kept.
    """

    def __init__(self, client: ScriptClient, fleet: FleetKeys, shards: Sequence[ShardKeys], *, forget_s: float) -> None:
        self._scripts = client
        self._fleet = fleet
        self._shards = shards
        self._forget_ms = milliseconds(forget_s)
        self._next = secrets.randbelow(len(shards))

    async def reclaim(self, max_fields: int) -> int:
        """Free at most about so many entries of one shard; return how many. The fleet's calls share one rate."""
        limits = (self._forget_ms, milliseconds(LEFT_KEPT_S), milliseconds(RECLAIM_WINDOW_S))
        records = await self._scripts.run(ScriptCall(scripts.KEPT, self._fleet.kept, limits))
        if records is None:
            return 0
        names = [bytes(record).decode() for record in records]
        kept = {holder_of(replica, incarnation) for replica, incarnation in zip(names[::2], names[1::2], strict=True)}
        shard = self._shards[self._next]
        self._next = (self._next + 1) % len(self._shards)
        arguments = (b"".join(kept), milliseconds(SUPERSEDED_S), MAX_GONE, MAX_SWEEPS)
        gone, lost = await self._scripts.run(ScriptCall(scripts.GONE, shard.gone, arguments))
        freed = await self._swept(shard, lost, kept, max_fields)
        for holder in gone:
            if freed < max_fields:
                freed += await self._freed(shard, holder, max_fields - freed)
        return freed

    async def _freed(self, shard: ShardKeys, holder: bytes, limit: int) -> int:
        """Clean what a holder's index lists, about so many entries at most; return how many there were."""
        seen = freed = 0
        while seen < limit:
            rows = await self._scripts.run(ScriptCall(scripts.LISTED, [shard.index(holder)], (MAX_LISTED,)))
            names, runs = _part(dict(_pairs(rows)), limit - seen)
            arguments: list[bytes | int] = [holder, milliseconds(SUPERSEDED_S), _blob(runs.values()), *names]
            freed += await self._scripts.run(ScriptCall(scripts.CLEAN, shard.cleaning(holder, runs), arguments))
            if not names:
                break
            seen += sum(map(len, runs.values()))
        return freed

    async def _swept(self, shard: ShardKeys, lost: Sequence[bytes], kept: set[bytes], limit: int) -> int:
        """Go on with the nodes in which lookups met holders that are not known; return how many entries were freed."""
        calls = [
            ScriptCall(
                scripts.SWEEP,
                shard.sweep(name[HOLDER_BYTES:]),
                (name, cursor, max(1, limit // MAX_SWEEPS), int(name[:HOLDER_BYTES] in kept)),
            )
            for name, cursor in _pairs(lost)
        ]
        return sum(await self._scripts.run_all(calls)) if calls else 0


def _pairs(rows: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(rows[::2], rows[1::2], strict=True)


def _part(listed: Mapping[bytes, bytes], limit: int) -> tuple[list[bytes], dict[bytes, list[bytes]]]:
    """Return entries of an index, about ``limit`` fields in all, and those fields by their runs' anchors."""
    names: list[bytes] = []
    runs: dict[bytes, list[bytes]] = {}
    count = 0
    for name, fields in listed.items():
        if len(name) < ANCHOR_BYTES:
            continue
        if count >= limit:
            break
        fields = fields or name[ANCHOR_BYTES:]
        found = [fields[at : at + FIELD_BYTES] for at in range(0, len(fields), FIELD_BYTES)]
        names.append(name)
        runs.setdefault(name[:ANCHOR_BYTES], []).extend(found)
        count += len(found)
    return names, runs


def _blob(runs: Iterable[Sequence[bytes]]) -> bytes:
    return b"".join(struct.pack(">H", len(fields)) + b"".join(fields) for fields in runs)
